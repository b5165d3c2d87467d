"""Scans: pictures of pages become text with places, in any position; without the extra, a sentence says how."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from grit_app.documents.document import Limits
from grit_app.documents.places import boxes
from grit_app.documents.read.clean import is_sign_soup, is_soup
from grit_app.documents.read.pdf import reader
from grit_app.documents.read.reading import read_document
from grit_app.errors import NoTextFound
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import Pdf
from tests.documents.scan_maker import scan, text_page

GERMAN = (
    "Das Museum am Hafen öffnet um neun Uhr und schließt um fünf. Größere Gruppen möchten sich zwei Wochen vorher im "
    "Büro melden, weil der Saal für höchstens zwölf Personen Plätze hat."
)
needs_ocr = pytest.mark.skipif(not reader.can_recognise(), reason="the extra ocr is not installed")


def recall(wanted: str, found: str) -> float:
    words = [Counter(re.findall(r"\w+", text.casefold())) for text in (wanted, found)]
    return sum((words[0] & words[1]).values()) / sum(words[0].values())


def saved(folder: Path, data: bytes) -> Path:
    path = folder / "scan.pdf"
    path.write_bytes(data)
    return path


@needs_ocr
@pytest.mark.parametrize(("dpi", "skew", "turn"), [(100, 2, 0), (150, 0, 1), (300, 0, 2)])
def test_scans_are_read_in_any_position(tmp_path: Path, dpi: int, skew: float, turn: int) -> None:
    """Words and their order; rapidocr's own model for turned lines turned straight ones, too."""
    path = saved(tmp_path, scan([text_page([f"{RIVER[:120]} {GERMAN}"])], dpi, skew, turn))
    document = read_document(path, limits=Limits(ocr_pages=1))
    assert recall(f"{RIVER[:120]} {GERMAN}", document.text) >= 0.95
    assert document.text.startswith("The river rises") and document.pages[0].source == "ocr"


@needs_ocr
def test_columns_of_a_scan_are_read_one_after_the_other_and_boxed(tmp_path: Path) -> None:
    text = text_page([RIVER[:190], HONEY[:190]])
    document = read_document(saved(tmp_path, scan([text], 150, 1)), limits=Limits(ocr_pages=1))
    assert document.text.index("hundred years") < document.text.index("Bees")
    assert recall(RIVER[:190], document.text) > 0.95
    at = document.text.index("nectar")
    (box,) = boxes(document.words, 0, at, at + 6)
    assert 0.5 < box[0] < box[2] < 0.95 and 0.05 < box[1] < box[3] < 0.3 and box[2] - box[0] < 0.12


@needs_ocr
def test_pages_beyond_the_limit_stay_unread_and_are_named(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    path = saved(tmp_path, scan([text_page([RIVER[:80]]), text_page([HONEY[:80]])], 100))
    document = read_document(
        path, limits=Limits(ocr_pages=1), progress=lambda stage, done, total: steps.append((stage, done, total))
    )
    assert [page.source for page in document.pages] == ["ocr", "scan"] and document.scanned == 1
    assert "Page 2 of scan.pdf: scanned" in " ".join(document.notes)
    assert steps == [("reading", 1, 2), ("reading", 2, 2), ("ocr", 1, 1)]


def test_without_ocr_the_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "can_recognise", lambda: False)
    pdf = Pdf()
    pdf.page().picture(0, 0, 612, 792)
    with pytest.raises(NoTextFound, match=r"\(OCR\) on it first\. .*pip install rapidocr") as error:
        reader.read_pdf(saved(tmp_path, pdf.bytes()), "scan.pdf", "0" * 64, limits=Limits(ocr_pages=4))
    assert error.value.scanned == 1


def test_a_layer_that_is_no_words_is_told_from_text() -> None:
    """A picture's bad text layer would be searched and quoted as if it were the page."""
    assert is_soup([r"t#h3 qv!ck br0}wn f^x ju{mps *v3r th~ l@zy d*g ;:+ <<~ )(*& xqzrt wrtpl kj'|h zzxcv"] * 3)
    assert not is_soup([RIVER, HONEY]) and not is_soup(["Wages 1,250.40 980.00 3% £12 0.85 2011-2012 A-5 (12) x"] * 5)
    assert not is_soup(["Мельница стоит на реке с 1871 года, и мельник её любит."] * 4)
    assert is_sign_soup(")*+6:;<6:;") and is_sign_soup("!\"#$%&'()*")
    assert not any(map(is_sign_soup, ["12 + 30 = 42", "----------", ". . . . . . .", "f(x) = {a, b};", "(12) 0.5%"]))
