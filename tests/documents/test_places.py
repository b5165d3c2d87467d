"""Each word of a document's text knows where it stands: the page picture needs no search."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grit_app.documents.document import Document
from grit_app.documents.places import Place, Rect, boxes, pack
from grit_app.documents.read.pictures import page_picture
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import Pdf, width, wrap

Read = Callable[..., Document]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 300), st.integers(0, 2_000))))
def test_packed_places_come_back(words: list[tuple[int, int, int]]) -> None:
    places = [Place(a, a + n, page, (0.1, 0.2, 0.5, 0.25)) for a, n, page in words]
    packed = pack(places)
    for place in places:
        assert boxes(packed, place.page, place.start, place.stop)
    assert len(packed) == 16 * len(places)
    assert boxes(packed, 2_001, 0, 20_000) == []


def test_a_part_of_a_long_word_is_boxed_alone() -> None:
    """Scripts without spaces: a line of Chinese is one word, of which a sentence is a part."""
    packed = pack([Place(0, 20, 0, (0.0, 0.1, 1.0, 0.2))])
    [(left, _, right, _)] = boxes(packed, 0, 5, 10)
    assert (left, right) == pytest.approx((0.25, 0.5), abs=1e-3)


def place_of(document: Document, words: str, page: int = 0) -> Rect:
    """The box around a stretch of the text."""
    at = document.text.index(words)
    found = boxes(document.words, page, at, at + len(words))
    assert len(found) == len(words.split()), words
    return min(b[0] for b in found), min(b[1] for b in found), max(b[2] for b in found), max(b[3] for b in found)


def test_every_word_stands_where_it_was_drawn(read_made: Read) -> None:
    """Two columns, a mended hyphen, a ligature, a lifted figure, a table row."""
    pdf = Pdf(["ffi"])
    page = pdf.page()
    page.lines(72, 700, wrap(RIVER, 210))
    page.lines(320, 700, wrap(HONEY, 210))
    page.text(72, 400, "The towpath of the harbour is a recre-")
    page.text(72, 388, "ation for all who like it, as many people of the region do.")
    pdf.page().row(300, [(72, "Gull"), (250, "417"), (400, "39")])
    document = read_made(pdf)
    left, top, right, bottom = place_of(document, "Gull 417 39", 1)
    assert (left, right) == pytest.approx((72 / 612, (400 + width("39", 8)) / 612), abs=0.005)
    assert top < 1 - 302 / 792 < bottom
    assert place_of(document, "Bees gather")[0] == pytest.approx(320 / 612, abs=0.005)
    assert place_of(document, "The river")[0] == pytest.approx(72 / 612, abs=0.005)
    assert len(document.words) // 16 >= len(document.text.split())


def test_right_to_left_words_stand_where_they_were_drawn(read_made: Read) -> None:
    """Their order in the text is the reverse of the one on the page."""
    visual = "ةءارقلا نع سرادملا ريرقت"
    letters = sorted(set(visual))
    codes = {c: i + 1 for i, c in enumerate(letters)}
    pdf = Pdf(letters)
    pdf.page().codes(200, 700, [codes[c] for c in visual], size=12)
    document = read_made(pdf)
    assert document.text == "تقرير المدارس عن القراءة"
    first, last = place_of(document, "تقرير"), place_of(document, "القراءة")
    assert last[0] == pytest.approx(200 / 612, abs=0.005) and first[0] > last[2]
    assert first[2] == pytest.approx((200 + 6 * len(visual)) / 612, abs=0.005)


@pytest.mark.parametrize("rotate", [90, 180, 270])
def test_places_turn_with_the_page(read_made: Read, rotate: int) -> None:
    pdf = Pdf()
    page = pdf.page(rotate=rotate)
    x, y = {90: (100, 72), 180: (540, 100), 270: (500, 700)}[rotate]
    page.text(x, y, "The river rises", turn=rotate // 90)
    left, top, right, bottom = place_of(read_made(pdf), "The river rises")
    shown = 612 if rotate == 180 else 792
    assert right - left == pytest.approx(width("The river rises", 10) / shown, abs=0.01) and bottom - top < 0.03


def test_the_picture_boxes_passage_and_sentence_by_their_places(read_made: Read, tmp_path: Path) -> None:
    pdf = Pdf()
    page = pdf.page()
    page.lines(72, 700, wrap(RIVER, 400))
    page.lines(72, 500, wrap(RIVER, 400))  # the same words again: only places can tell which are meant
    document = read_made(pdf)
    start = document.text.rindex("The river rises")
    sentence = document.text.index("Boats carried", start)
    picture = page_picture(
        pdf.bytes(), 0, "", places=boxes(document.words, 0, start, len(document.text)),
        marks=boxes(document.words, 0, sentence, sentence + 40), scale=1.0,
    )  # fmt: skip
    [(_, top, _, _)] = picture.boxes
    assert top == pytest.approx(792 - 509, abs=8)
    assert picture.marks and all(box[1] >= top for box in picture.marks)
