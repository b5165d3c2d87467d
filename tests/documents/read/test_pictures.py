"""Pages as images: the box stands where the passage was drawn."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path

import pytest
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DecodedStreamObject, DictionaryObject, NameObject, NumberObject

from grit_app.documents.read.drawing import MAX_PIXELS
from grit_app.documents.read.pictures import Picture, page_picture
from grit_app.errors import Cancelled, DocumentError
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import Pdf, encrypted, width, wrap


def covers(picture: Picture, x: float, y: float, scale: float, height: float = 792) -> bool:
    """True if a box holds the point (x, y) of an upright page."""
    px, py = x * scale, (height - y) * scale
    return any(a <= px <= c and b <= py <= d for a, b, c, d in picture.boxes)


def two_columns() -> tuple[Pdf, list[str], list[str]]:
    pdf = Pdf()
    page = pdf.page()
    left, right = wrap(RIVER, 210), wrap(HONEY, 210)
    page.lines(72, 700, left)
    page.lines(320, 700, right)
    return pdf, left, right


def test_the_box_holds_the_passage_and_nothing_else() -> None:
    pdf, left, right = two_columns()
    picture = page_picture(pdf.bytes(), 0, HONEY, scale=2.0)
    assert picture.image.size == (1224, 1584)
    for i, line in enumerate(right):
        middle = 320 + width(line, 10) / 2
        assert covers(picture, middle, 700 - 12 * i + 3, 2.0), line
    for i, line in enumerate(left):
        assert not covers(picture, 72 + width(line, 10) / 2, 700 - 12 * i + 3, 2.0), line


def test_a_few_lines_of_a_column() -> None:
    pdf, left, _ = two_columns()
    picture = page_picture(pdf.bytes(), 0, " ".join(left[2:5]), scale=1.0)
    inside = [covers(picture, 72 + width(line, 10) / 2, 700 - 12 * i + 3, 1.0) for i, line in enumerate(left)]
    assert inside == [2 <= i < 5 for i in range(len(left))]


def test_mended_hyphens_and_ligatures_do_not_hide_the_passage() -> None:
    pdf = Pdf()
    pdf.page().lines(
        72, 700, ["The official report of the river author-", "ity was first kept in the old office of the mill."]
    )
    picture = page_picture(
        pdf.bytes(), 0, "The official report of the river authority was ﬁrst kept in the old office", scale=1.0
    )
    assert covers(picture, 120, 703, 1.0) and covers(picture, 120, 691, 1.0)


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_turned_pages(rotate: int) -> None:
    """The box must turn with the page; it is checked against the dark pixels of the drawn text."""
    pdf = Pdf()
    page = pdf.page(rotate=rotate)
    x, y, dx, dy = {0: (72, 700, 0, -12), 90: (100, 72, 12, 0), 180: (540, 100, 0, 12), 270: (500, 700, -12, 0)}[rotate]
    for i, line in enumerate(wrap(RIVER, 200)):
        page.text(x + dx * i, y + dy * i, line, turn=rotate // 90)
    picture = page_picture(pdf.bytes(), 0, RIVER, scale=1.0)
    assert picture.image.size == ((612, 792) if rotate in (0, 180) else (792, 612))
    dark = picture.image.convert("L").point(lambda v: 255 if v < 128 else 0).getbbox()
    assert dark is not None and len(picture.boxes) == 1
    assert all(abs(a - b) <= 8 for a, b in zip(picture.boxes[0], dark, strict=True))


def test_a_passage_of_another_page_has_no_box() -> None:
    pdf = Pdf()
    pdf.page().lines(72, 700, wrap(RIVER, 400))
    assert page_picture(pdf.bytes(), 0, HONEY).boxes == ()
    assert page_picture(pdf.bytes(), 0, "").boxes == ()
    assert page_picture(pdf.bytes(), 0, "Bees of the hills").boxes == ()


def test_the_part_of_a_passage_that_stands_on_the_page_is_boxed() -> None:
    pdf = Pdf()
    pdf.page().lines(72, 700, wrap(RIVER, 400))
    assert page_picture(pdf.bytes(), 0, f"{RIVER} {HONEY}").boxes


def test_table_rows_are_boxed() -> None:
    pdf = Pdf()
    page = pdf.page()
    for i in range(12):
        page.row(700 - 12 * i, [(72, f"Harbour {chr(97 + i) * 3}"), (250, str(100 + i)), (400, str(200 + i))])
    picture = page_picture(
        pdf.bytes(), 0, "\n".join(f"Harbour {chr(97 + i) * 3} {100 + i} {200 + i}" for i in (4, 5)), scale=1.0
    )
    for x in (80, 255, 405):
        assert covers(picture, x, 700 - 12 * 4 + 2, 1.0) and covers(picture, x, 700 - 12 * 5 + 2, 1.0)
        assert not covers(picture, x, 700 - 12 * 8 + 2, 1.0)


def test_what_cannot_be_shown_is_a_sentence(tmp_path: Path) -> None:
    pdf, _, _ = two_columns()
    with pytest.raises(DocumentError, match="no page 3"):
        page_picture(pdf.bytes(), 2, RIVER)
    with pytest.raises(DocumentError, match="cannot be shown"):
        page_picture(b"%PDF-1.7 rubbish", 0, RIVER)
    with pytest.raises(DocumentError, match="cannot be shown"):
        page_picture(encrypted(pdf.bytes(), "secret"), 0, RIVER)
    assert page_picture(encrypted(pdf.bytes(), "secret"), 0, RIVER, password="secret").boxes


def test_huge_pages_make_no_huge_images() -> None:
    pdf = Pdf()
    pdf.page(width=14000, height=14000).text(72, 700, RIVER)
    width_, height_ = page_picture(pdf.bytes(), 0, RIVER).image.size
    assert width_ * height_ <= 1.01 * MAX_PIXELS


def nested_forms(depth: int, times: int) -> bytes:
    """A page that draws a form that draws a form …: `times` to the power of `depth` draws in a file of some KB."""
    writer = PdfWriter()
    page = writer.add_blank_page(200, 200)
    inner = None
    for _ in range(depth):
        form = DecodedStreamObject()
        form.update({NameObject("/Type"): NameObject("/XObject"), NameObject("/Subtype"): NameObject("/Form"),
                     NameObject("/BBox"): ArrayObject([NumberObject(n) for n in (0, 0, 200, 200)])})  # fmt: skip
        form.set_data(b"0 0 9 9 re f" if inner is None else b"/F Do " * times)
        if inner is not None:
            form[NameObject("/Resources")] = DictionaryObject(
                {NameObject("/XObject"): DictionaryObject({NameObject("/F"): inner})}
            )
        inner = writer._add_object(form)
    page[NameObject("/Resources")] = DictionaryObject(
        {NameObject("/XObject"): DictionaryObject({NameObject("/F"): inner})}
    )
    contents = DecodedStreamObject()
    contents.set_data(b"/F Do " * times)
    page[NameObject("/Contents")] = writer._add_object(contents)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_page_that_draws_for_ever_is_given_up() -> None:
    """2.6 KB of forms drawn in forms kept the drawing, and with it every visitor, busy for hours."""
    started = time.monotonic()
    with pytest.raises(DocumentError, match="cannot be shown"):
        page_picture(nested_forms(9, 10), 0, RIVER, seconds=-4.0)
    assert time.monotonic() - started < 30


def test_drawing_can_be_stopped() -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        page_picture(nested_forms(9, 10), 0, RIVER, cancel=cancel)


def test_threads_may_draw_at_once() -> None:
    """PDFium is not thread-safe; each page is drawn by a process of its own."""
    pdf, _, _ = two_columns()
    data, found = pdf.bytes(), []
    threads = [threading.Thread(target=lambda: found.append(page_picture(data, 0, RIVER).boxes)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1 and found[0]
