"""Reading order, columns, tables, turned pages: what a PDF draws, as people read it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grit_app.documents.document import Document
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import Pdf, width, wrap

Read = Callable[..., Document]
COUNTRIES = ["Austria", "Belgium", "Czech Republic", "Denmark", "New Zealand", "United Arab Emirates", "United States"]


def test_two_columns_are_read_one_after_the_other(read_made: Read) -> None:
    """Baselines of the columns agree, so reading by lines would shuffle the two texts into each other."""
    pdf = Pdf()
    page = pdf.page()
    page.lines(72, 700, wrap(RIVER, 210))
    page.lines(320, 700, wrap(HONEY, 210))
    assert read_made(pdf).text == f"{RIVER}\n{HONEY}"


def test_the_order_of_drawing_does_not_matter(read_made: Read) -> None:
    """Programs draw a page in any order; a person sees the same page."""
    pdf = Pdf()
    page = pdf.page()
    page.lines(320, 700, wrap(HONEY, 210))
    page.lines(72, 700, wrap(RIVER, 210))
    page.operations.reverse()
    assert read_made(pdf).text == f"{RIVER}\n{HONEY}"


def test_a_title_across_the_columns_comes_first_and_a_summary_across_them_last(read_made: Read) -> None:
    pdf = Pdf()
    page = pdf.page()
    page.text(150, 740, "Of rivers and of bees in the northern hills", size=16)
    bottom = page.lines(72, 700, wrap(RIVER, 210))
    page.lines(320, 700, wrap(HONEY, 210))
    page.text(72, bottom - 60, "Both texts were written for this page, which is read from the top to the bottom of it.")
    lines = read_made(pdf).text.split("\n")
    assert lines[0] == "Of rivers and of bees in the northern hills"
    assert lines[1:3] == [RIVER, HONEY]
    assert lines[3].startswith("Both texts")


def test_three_columns(read_made: Read) -> None:
    pdf = Pdf()
    page = pdf.page(width=792)
    third = "The lighthouse keeper wrote down the weather every morning, and his books are read by those who study it."
    for x, text in ((40, RIVER), (290, HONEY), (540, third + " " + third)):
        page.lines(x, 500, wrap(text, 215))
    assert read_made(pdf).text.split("\n")[:2] == [RIVER, HONEY]


def test_a_sentence_runs_on_from_column_to_column(read_made: Read) -> None:
    lines = wrap(f"{RIVER} {HONEY}", 210)
    half = len(lines) // 2
    pdf = Pdf()
    page = pdf.page()
    page.lines(72, 700, lines[:half])
    page.lines(320, 700, lines[half:])
    assert not lines[half - 1].endswith("."), "the text must break inside a sentence for this test to mean anything"
    assert read_made(pdf).text == f"{RIVER} {HONEY}"


@pytest.mark.parametrize("order", ["rows", "columns"])
def test_table_rows_keep_label_and_numbers_on_one_line(read_made: Read, order: str) -> None:
    """Tables are drawn row by row or column by column; either way a number without its label is worthless."""
    pdf = Pdf()
    page = pdf.page()
    page.text(60, 720, "Table A-2. Schools and students, by education system", size=11)
    cells = []
    for i, country in enumerate(COUNTRIES):
        y = 690 - 11 * i
        cells += [(y, 60, country), (y, 240, str(100 + i)), (y, 330, str(300 + 10 * i)), (y, 430, f"{i + 4},{500 + i}")]
    for y, x, text in cells if order == "rows" else sorted(cells, key=lambda c: (c[1], -c[0])):
        page.text(x, y, text, size=8)
    text = read_made(pdf).text.split("\n")
    assert text[0] == "Table A-2. Schools and students, by education system"
    assert text[1:] == [f"{c} {100 + i} {300 + 10 * i} {i + 4},{500 + i}" for i, c in enumerate(COUNTRIES)]


CELLS = {
    "A-100": (
        ["Bearing housing with two sealed ball", "bearings, grease fitting and a plate", "for the shaft."],
        "$45",
    ),
    "B-220": (["Drive belt of the second generation,", "reinforced; fits pumps that were sold", "by 2015."], "$12"),
}


@pytest.mark.parametrize(("label_line", "count"), [(0, 3), (1, 3), (2, 3), (0.5, 2)])
def test_lines_wrapped_in_a_table_cell_belong_to_their_row(read_made: Read, label_line: float, count: int) -> None:
    """A row's label must stand with all of its text: else a lone line says `for the shaft` of no part at all."""
    pdf = Pdf()
    page = pdf.page()
    page.row(700, [(72, "Part"), (140, "Description"), (320, "Price")])
    y = 680.0
    for part, (lines, price) in CELLS.items():
        page.row(y - 10 * label_line, [(72, part), (320, price)])
        page.lines(140, y, lines[:count], size=8, leading=10)
        y -= 36
    page.row(y, [(72, "Total"), (320, "$57")])
    assert read_made(pdf).text.split("\n") == [
        "Part Description Price",
        *[f"{part} {' '.join(lines[:count])} {price}" for part, (lines, price) in CELLS.items()],
        "Total $57",
    ]


def test_rows_of_small_letters_stay_rows(read_made: Read) -> None:
    pdf = Pdf()
    page = pdf.page()
    rows = [("sip", "interrupts pending", "read"), ("sie", "interrupts enabled", "read"), ("", "trap vector", "write")]
    for number, row in enumerate(rows):
        page.row(700 - 10 * number, [(x, text) for x, text in zip((72, 140, 320), row, strict=True) if text])
    assert read_made(pdf).text.split("\n") == [" ".join(row).strip() for row in rows]


def test_a_table_between_paragraphs_stays_in_its_place(read_made: Read) -> None:
    pdf = Pdf()
    page = pdf.page()
    y = page.lines(72, 700, wrap(RIVER, 460)) - 14
    for i, country in enumerate(COUNTRIES):
        page.row(y - 11 * i, [(80, country), (260, str(7 * i)), (380, str(91 - i))])
    page.lines(72, y - 110, wrap(HONEY, 460))
    text = read_made(pdf).text.split("\n")
    assert text == [RIVER, *[f"{c} {7 * i} {91 - i}" for i, c in enumerate(COUNTRIES)], HONEY]


@pytest.mark.parametrize("footer", ["", "12"])
def test_a_stretched_line_of_prose_is_no_table_row(read_made: Read, footer: str) -> None:
    """Justified narrow columns stretch single lines; their words must not be cut off from the sentence.

    Nor if a page number stands farther right than the only column of a last page goes.
    """
    text = (
        "The river rises in the northern hills and crosses three provinces before it meets the "
        "Donaudampfschifffahrtsgesellschaftskapitaen and his crew, who carried the grain of the plains for many years."
    )
    lines = wrap(text, 215)
    pdf = Pdf()
    page = pdf.page()
    gaps = []
    for i, line in enumerate(lines):
        words = line.split()
        room = 215 - sum(width(w, 10) for w in words)
        gaps.append(room / max(1, len(words) - 1) if i < len(lines) - 1 else 2.78)
        x = 72.0
        for word in words:
            page.text(x, 700 - 12 * i, word)
            x += width(word, 10) + gaps[i]
    assert max(gaps) > 12, "one line must have gaps as wide as a table's"
    page.text(306, 40, footer)
    assert read_made(pdf).text.removesuffix(f"\n{footer}") == text


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_a_turned_page_reads_like_an_upright_one(read_made: Read, rotate: int) -> None:
    """A landscape table is often drawn sideways on a page with /Rotate: people see it upright."""
    pdf = Pdf()
    page = pdf.page(rotate=rotate)
    turn = rotate // 90
    x, y, dx, dy = {0: (72, 700, 0, -12), 1: (100, 72, 12, 0), 2: (540, 100, 0, 12), 3: (500, 700, -12, 0)}[turn]
    for i, line in enumerate(wrap(RIVER, 400)):
        page.text(x + dx * i, y + dy * i, line, turn=turn)
    assert read_made(pdf).text == RIVER


def test_sideways_text_follows_the_upright_text(read_made: Read) -> None:
    pdf = Pdf()
    page = pdf.page()
    page.text(590, 300, "Printed by the county", turn=1)
    page.lines(72, 700, wrap(RIVER, 400))
    assert read_made(pdf).text == f"{RIVER}\nPrinted by the county"


def test_words_positioned_one_by_one_get_their_spaces(read_made: Read) -> None:
    """Many programs draw no space characters: a gap is a space, kerning is none."""
    pdf = Pdf()
    page = pdf.page()
    page.raw(b"BT /F1 10 Tf 72 700 Td [(The) -300 (r) 40 (iver) -278 (AV) 90 (AL) -250 (rises.)] TJ ET")
    assert read_made(pdf).text == "The river AVAL rises."


def test_text_inside_a_form_and_bold_by_double_drawing(read_made: Read) -> None:
    """Text drawn twice with a tiny shift imitates bold; read twice it would double every word."""
    pdf = Pdf()
    page = pdf.page()
    page.text(72, 700, "Important notice to all readers")
    page.text(72.3, 700, "Important notice to all readers")
    assert read_made(pdf).text == "Important notice to all readers"


def test_raised_figures_do_not_join_numbers(read_made: Read) -> None:
    """A note's mark behind 85 must not make 8510, nor an exponent 106 of ten to the sixth."""
    pdf = Pdf()
    page = pdf.page()

    def write(y: float, pieces: list[tuple[str, float, float]]) -> None:
        x = 72.0
        for text, size, rise in pieces:
            page.text(x, y + rise, text, size=size)
            x += width(text, size)

    write(700, [("The rate was 85", 10, 0), ("10", 6, 4)])
    write(
        680, [("and the area 40 km", 10, 0), ("2", 6, 4), (" in all, on the 4", 10, 0), ("th", 6, 4), (" day", 10, 0)]
    )
    assert read_made(pdf).text == "The rate was 85¹⁰ and the area 40 km² in all, on the 4th day"


def test_right_to_left_lines_are_in_spoken_order(read_made: Read) -> None:
    """A PDF draws Arabic from left to right like any text, so its stored order is the reverse of the spoken one."""
    words = "تقرير المدارس 2011 (PIRLS) عن القراءة"
    visual = "ةءارقلا نع (PIRLS) 2011 سرادملا ريرقت"
    letters = sorted(set(visual) - {" "})
    pdf = Pdf([*letters, " "])
    page = pdf.page()
    codes = {c: i + 1 for i, c in enumerate([*letters, " "])}
    # In the drawing the brackets are mirrored, as they are seen.
    page.codes(200, 700, [codes[c] for c in visual], size=12)
    assert read_made(pdf).text == words


def test_right_to_left_columns_are_read_from_the_right(read_made: Read) -> None:
    first = [f"كلمة {'جديدة ' * 4}رقم {i}" for i in range(8)]
    second = [f"نهر {'كبير ' * 5}رقم {i}" for i in range(8)]
    letters = sorted(set("".join(first + second)))
    codes = {c: i + 1 for i, c in enumerate(letters)}
    pdf = Pdf(letters)
    page = pdf.page()
    for x, lines in ((320, first), (60, second)):
        for i, line in enumerate(lines):
            page.codes(x, 700 - 14 * i, [codes[c] for c in reversed(line)], size=12)
    text = read_made(pdf).text
    assert text.index("كلمة") < text.index("نهر")
    assert text.count("\n") <= 1, "each column is one paragraph"
