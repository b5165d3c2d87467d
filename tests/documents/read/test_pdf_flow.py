"""From pages to running text: headers and footers, hyphens, sentences over pages, labels, fonts' oddities."""

from __future__ import annotations

from collections.abc import Callable

import pypdfium2
import pytest

from grit_app.documents.document import Document
from grit_app.documents.read.pdf.glyphs import WordReader
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import Canvas, Pdf, width, wrap

Read = Callable[..., Document]
TOPICS = ["harbour", "mill", "railway", "towpath", "heron", "barge"]


def essay(topic: str) -> str:
    start, end = f"The {topic} is described on this page and nowhere else.", f"So much of the {topic} and its story."
    return f"{start} {RIVER.replace('river', topic)} {end}"


def book(furnish: Callable[[Canvas, int], None], pages: int = 6) -> Pdf:
    """A page for each topic, each with whole sentences, and whatever `furnish` draws on page 0, 1, …"""
    pdf = Pdf()
    for number in range(pages):
        page = pdf.page()
        furnish(page, number)
        page.lines(72, 700, wrap(essay(TOPICS[number]), 460))
    return pdf


def all_essays(pages: int = 6) -> str:
    return "\n".join(essay(topic) for topic in TOPICS[:pages])


@pytest.mark.parametrize(
    "style", ["plain", "left and right", "chapter names", "short chapters", "sections", "page x of y", "artifact"]
)
def test_headers_and_footers_are_not_text(read_made: Read, style: str) -> None:
    """A running header in the middle of a sentence would be embedded, quoted and cited again and again."""

    def furnish(page: Canvas, number: int) -> None:
        if style == "plain":
            page.text(72, 760, "Annual report of the river authority")
            page.text(300, 40, str(number + 1))
        elif style == "left and right":
            title = "River authority" if number % 2 else "Annual report"
            page.text(
                72 if number % 2 else 450, 760, f"{number + 11}  {title}" if number % 2 else f"{title}  {number + 11}"
            )
        elif style == "chapter names":
            page.text(72, 760, "Chapter 3. Of mills and barges" if number > 2 else "Chapter 2. Of the river")
        elif style == "short chapters":  # no line repeats often enough; its number does
            page.text(72, 760, f"Chapter {number // 2 + 1}: Of {'bees' if number < 2 else 'mills'}")
            page.text(500, 760, str(number + 1))
        elif style == "sections":  # no two right pages have the same line, but it stands where left ones have theirs
            page.text(72, 760, "River authority" if number % 2 else f"Of the {TOPICS[number]}", size=8)
        elif style == "page x of y":
            page.text(280, 30, f"Page {number + 1} of 6")
        else:  # a tagged PDF says itself what is not part of the text, here a different line on each page
            page.raw(b"/Artifact << /Type /Pagination /Subtype /Header >> BDC")
            page.text(72, 760, f"Volume on the {TOPICS[number]}")
            page.raw(b"EMC")

    assert read_made(book(furnish)).text == all_essays()


def test_a_line_at_the_edge_that_does_not_repeat_is_text(read_made: Read) -> None:
    """Dropping whatever stands at an edge would lose titles, first lines and the last row of a table."""

    def furnish(page: Canvas, number: int) -> None:
        page.text(72, 760, f"What the {TOPICS[number]} has to tell", size=14)
        page.row(60, [(72, f"Visitors to the {TOPICS[number]}"), (300, str(4000 + 17 * number))])

    text = read_made(book(furnish)).text
    for number, topic in enumerate(TOPICS):
        assert f"What the {topic} has to tell" in text
        assert f"Visitors to the {topic} {4000 + 17 * number}" in text


def test_a_heading_at_the_same_place_of_each_page_is_text(read_made: Read) -> None:
    """`Chapter 1`, `Chapter 2` are the same but for their number, even the page's own, yet they are no header."""

    def furnish(page: Canvas, number: int) -> None:
        page.text(72, 760, "Annual report of the river authority", size=8)
        page.text(72, 730, f"Chapter {number + 1}", size=16)
        page.text(300, 40, str(number + 1))

    text = read_made(book(furnish)).text
    assert [line for line in text.split("\n") if "Chapter" in line] == [f"Chapter {n + 1}" for n in range(6)]
    assert "Annual" not in text


def test_a_line_numbered_like_its_neighbours_but_not_like_the_pages_is_text(read_made: Read) -> None:
    text = read_made(book(lambda page, number: page.text(72, 730, f"Experiment {7 * number % 5}, continued"))).text
    assert text.count("continued") == 6


def test_a_header_over_two_columns_and_over_one_is_the_same(read_made: Read) -> None:
    """The gutter of a page cuts its header in two; on a last page with a single column it is one line."""
    pdf = Pdf()
    lines = wrap(f"{RIVER} {HONEY}", 215)
    for number in range(3):
        page = pdf.page()
        page.text(72, 760, "Journal of rivers and bees")
        page.text(450, 760, "Vol. 12, No. 3")
        page.lines(72, 700, lines)
        if number < 2:
            page.lines(320, 700, lines)
    text = read_made(pdf).text
    assert "Journal" not in text and "Vol." not in text
    assert text.count(RIVER) == 5


def test_a_sentence_that_runs_over_the_page_is_whole(read_made: Read) -> None:
    lines = wrap(f"{RIVER} {HONEY}", 460)
    cut = len(lines) // 2
    assert not lines[cut - 1].endswith(".")
    pdf = Pdf()
    pdf.page().lines(72, 700, lines[:cut])
    pdf.page().lines(72, 700, lines[cut:])
    document = read_made(pdf)
    assert document.text == f"{RIVER} {HONEY}"
    first, second = document.pages
    assert document.text[first.start : first.stop].split() == " ".join(lines[:cut]).split()
    assert document.text[second.start : second.stop].split() == " ".join(lines[cut:]).split()


def test_a_footnote_does_not_stand_in_a_sentence_that_runs_on(read_made: Read) -> None:
    lines = wrap(f"{RIVER} {HONEY}", 460)
    cut = len(lines) // 2
    pdf = Pdf()
    page = pdf.page()
    page.lines(72, 700, lines[:cut])
    page.lines(72, 100, ["1 Figures for the mills were taken from the register of the county."], size=7)
    pdf.page().lines(72, 700, lines[cut:])
    text = read_made(pdf).text
    assert f"{RIVER} {HONEY}" in text
    assert "1 Figures for the mills" in text


def test_pages_cover_the_text_without_a_hole(read_made: Read) -> None:
    document = read_made(book(lambda page, number: None))
    assert [p.index for p in document.pages] == list(range(6))
    assert document.pages[0].start == 0
    assert document.pages[-1].stop == len(document.text)
    for before, after in zip(document.pages, document.pages[1:], strict=False):
        assert before.stop == after.start
    for page, topic in zip(document.pages, TOPICS, strict=True):
        assert f"The {topic} is described on this page" in document.text[page.start : page.stop]


HYPHEN_CASES = {
    "knowl-|edge": "knowledge",
    "part-|time": "part-time",  # habit of English
    "well-|known": "well-known",
    "10-|12": "10-12",  # a range
    "A-|2": "A-2",  # a code
    "Anglo-|Saxon": "Anglo-Saxon",
    "US-|based": "US-based",
    "state-of-|the-art": "state-of-the-art",
    "rail-|way": "railway",  # the word stands elsewhere in the text
    "tow-|path": "tow-path",  # so does the compound
    "some-|thing": "something",
    "co-|operation": "cooperation",
    "X-|rays": "X-rays",  # no word is cut after one letter
    "pre-|and post-war": "pre- and post-war",  # the hyphen stands for the rest of a word
    "Ein-|und Ausgänge": "Ein- und Ausgänge",
    "2-|3.": "2-3.",  # not the third item of a list
    "1986–|1988": "1986–1988",
    "and/|or": "and/or",
    "https://example.org/on-|line": "https://example.org/on-line",
}


@pytest.mark.parametrize("case", HYPHEN_CASES)
def test_hyphens_at_line_ends(read_made: Read, case: str) -> None:
    """Searching for `knowledge` must find it, and `10-12` must never become 1012."""
    left, right = case.split("|")
    elsewhere = "They wrote of the railway and of the tow-path, of the railway again, and of some people and one thing."
    pdf = Pdf()
    pdf.page().lines(
        72, 700, [elsewhere, f"In this line the last word is {left}", f"{right} and the text goes on."], leading=13
    )
    assert f"the last word is {HYPHEN_CASES[case]} and the text goes on." in read_made(pdf).text


def test_hyphen_over_a_page(read_made: Read) -> None:
    pdf = Pdf()
    pdf.page().lines(72, 700, ["The old towpath along the river has become a place of recre-"])
    pdf.page().lines(72, 700, ["ation for the whole region, and nobody regrets the barges."])
    document = read_made(pdf)
    assert "a place of recreation for the whole region" in document.text
    assert document.pages[0].stop == document.pages[1].start


@pytest.mark.parametrize("style", ["indent", "gap", "short last line", "bullets", "numbers"])
def test_paragraphs_are_told_apart(read_made: Read, style: str) -> None:
    pdf = Pdf()
    page = pdf.page()
    first, second = wrap(RIVER, 460), wrap(HONEY, 460)
    if style == "indent":
        page.text(84, 700, first[0])
        y = page.lines(72, 688, first[1:])
        page.text(84, y, second[0])
        page.lines(72, y - 12, second[1:])
    elif style == "gap":
        page.lines(72, page.lines(72, 700, first) - 10, second)
    elif style == "short last line":
        assert width(first[-1], 10) < 300
        page.lines(72, page.lines(72, 700, first), second)
    else:
        marks = ("1.", "2.") if style == "numbers" else ("•", "•")
        y = 700.0
        for mark, lines in zip(marks, (first, second), strict=True):
            page.text(72, y, mark)
            y = page.lines(90, y, lines)
        first, second = [f"{marks[0]} {RIVER}"], [f"{marks[1]} {HONEY}"]
    assert read_made(pdf).text.split("\n") == [" ".join(first), " ".join(second)]


def test_a_long_word_in_a_smaller_font_does_not_break_a_paragraph(read_made: Read) -> None:
    """Names of files and functions are often set smaller; a line may hold one that is longer than any other word."""
    pdf = Pdf()
    page = pdf.page()
    page.lines(72, 700, ["Each program that wishes to be known in the whole of the database writes a file named"])
    page.text(72, 688, "after it into ")
    page.text(72 + width("after it into ", 10), 688, "share/packages/update/database", size=9)
    x = 72 + width("after it into ", 10) + width("share/packages/update/database", 9)
    page.text(x, 688, " where every other program will look for it,")
    page.lines(72, 676, ["and nothing else is asked of those who want to take part in the common effort."])
    assert "\n" not in read_made(pdf).text


def test_page_labels_are_the_files_own(read_made: Read) -> None:
    pdf = book(lambda page, number: None)
    pdf.labels = "0 << /S /r >> 2 << /S /D /St 5 /P (A-) >>"
    assert [p.label for p in read_made(pdf).pages] == ["i", "ii", "A-5", "A-6", "A-7", "A-8"]
    assert [p.label for p in read_made(book(lambda page, number: None)).pages] == list("123456")


def test_ligatures_accents_and_compatibility_forms_are_plain(read_made: Read) -> None:
    """One code may stand for a ligature or presentation form; searching must find the plain word."""
    pdf = Pdf(["ﬁ", "ffi", "n", "d", "Å", "é", "ｗ", "²", "½", "\u00a0", "o", "c", "e"])
    page = pdf.page()
    page.codes(72, 700, [1, 3, 4, 10, 11, 2, 12, 13, 10, 5, 6, 10, 7, 8, 10, 9], size=12)
    assert read_made(pdf).text == "find office Åé w² ½"


def test_a_table_of_contents_keeps_its_lines(read_made: Read) -> None:
    pdf = Pdf()
    page = pdf.page()
    for i, topic in enumerate(TOPICS):
        title = f"{i + 1}.{i + 2} Of the {topic}"
        page.text(72, 700 - 13 * i, title + " ." * 40 + f" {10 + i}")
    text = read_made(pdf).text.split("\n")
    assert text == [f"{i + 1}.{i + 2} Of the {topic} … {10 + i}" for i, topic in enumerate(TOPICS)]


def test_headings_and_captions_are_known(read_made: Read) -> None:
    pdf = Pdf()
    page = pdf.page()
    page.text(72, 730, "Of the river", size=16)
    y = page.lines(72, 700, wrap(RIVER, 460))
    page.text(72, y - 20, "Table 3. Honey by year", size=10)
    page.row(y - 40, [(72, "2010"), (200, "417"), (300, "12")])
    document = read_made(pdf)
    assert [text for _, text in document.headings] == ["Of the river", "Table 3. Honey by year"]
    for at, text in document.headings:
        assert document.text[at : at + len(text)] == text


def test_a_notice_of_a_blank_page_is_no_text(read_made: Read) -> None:
    pdf = book(lambda page, number: None, pages=2)
    pdf.page().text(200, 400, "This page intentionally left blank.")
    document = read_made(pdf)
    assert document.text == all_essays(2)
    assert document.pages[2].start == document.pages[2].stop == len(document.text)


def test_widths_of_the_made_font_are_pdfiums_own() -> None:
    """These tests place words by `width`; were it wrong, gaps would be too."""
    pdf = Pdf()
    pdf.page().text(72, 700, "Harbours", size=10)
    with pypdfium2.PdfDocument(pdf.bytes()) as document:
        word = WordReader(document).read(0).words[0]
    assert word.x1 - word.x0 == pytest.approx(width("Harbours", 10), abs=0.01)
    assert word.box == pytest.approx(
        (72 / 612, 1 - 707.2 / 792, (72 + width("Harbours", 10)) / 612, 1 - 697.9 / 792), abs=0.01
    )


def test_signs_of_a_figures_font_without_a_map_are_no_text(read_made: Callable[..., Document]) -> None:
    """They were passages, and the first lines of answers; formulas and rules of dashes are kept."""
    pdf = Pdf()
    page = pdf.page()
    y = page.lines(72, 700, wrap(RIVER, 460))
    page.text(72, y - 30, ")*+6:;<6:;", size=7)
    page.text(72, y - 60, "a + b = (c - d) * 12", size=10)
    assert read_made(pdf).text == f"{RIVER}\na + b = (c - d) * 12"
