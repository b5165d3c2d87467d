"""A question about a cell is answered with that cell, cited to its row; anything else is left to the other ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from grit_app.documents.library import Library
from grit_app.documents.places import boxes
from grit_app.gritlm import GritLM
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Done
from tests.documents.pdf_maker import Pdf

HEADS = [(72, "Harbour"), (200, "Ships"), (300, "Boats"), (400, "Amount")]
ROWS = [("Alden", "1,204", "88", "37.50"), ("Brimsey", "310", "95", "12.00"), ("Coldwater", "77", "401", "9.25")]
TIDES = "Port,High water\nAlden,06:12\nBrimsey,06:40\n\nColdwater,07:05\n"
MARKDOWN = "# Prices\n\n| Item | Cost | In stock |\n|---|---|---|\n| Rope | 12.40 | yes |\n| Anchor | 99.00 | no |\n"


def pdf_table() -> bytes:
    pdf = Pdf()
    page = pdf.page()
    page.text(72, 700, "Table 4. Ships and boats by harbour: 1911", size=10)
    page.text(205, 686, "Registered", size=8)
    page.row(676, HEADS)
    for number, row in enumerate(ROWS):
        page.row(660 - 12 * number, [(x, text) for (x, _), text in zip(HEADS, row, strict=True)])
    return pdf.bytes()


@pytest.fixture(scope="module")
def library(load_tiny: Callable[..., GritLM], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("tables")
    (folder / "ships.pdf").write_bytes(pdf_table())
    (folder / "prices.md").write_text(MARKDOWN, encoding="utf-8")
    (folder / "tides.csv").write_text(TIDES, encoding="utf-8")
    made = Library(load_tiny("llama"), folder / "data", chunk_tokens=60)
    made.add([folder / "ships.pdf", folder / "prices.md", folder / "tides.csv"])
    yield made
    made.close()


def ask(library: Library, question: str, name: str) -> Answer:
    ids = [info.id for info in library.documents() if info.name == name]
    events = answer(question, library, library.model, mode="quote", documents=ids)
    return next(event.answer for event in events if isinstance(event, Done))


@pytest.mark.parametrize(
    ("name", "question", "cell"),
    [
        ("ships.pdf", "How many registered ships does Alden have?", "1,204"),
        ("ships.pdf", "How many boats lie in Brimsey?", "95"),
        ("ships.pdf", "How much was paid in Coldwater?", "9.25"),
        ("prices.md", "What is the cost of an anchor?", "99.00"),
        ("tides.csv", "When is high water at Brimsey?", "06:40"),
    ],
)
def test_a_question_on_a_cell_is_answered_with_the_cell(library: Library, name: str, question: str, cell: str) -> None:
    found = ask(library, question, name)
    assert (found.text, found.answerable, found.citations[0].is_cited) == (cell, True, True)
    span = found.citations[0].support
    assert span is not None and cell in found.citations[0].hit.chunk.text[span[0] : span[1]]


@pytest.mark.parametrize("question", ["How many boats lie in Dunmore?", "Who painted Alden?", "What are boats?"])
def test_other_questions_are_left_to_the_other_ways(library: Library, question: str) -> None:
    """A row that is not there, a column that is not there, no row at all."""
    assert ask(library, question, "ships.pdf").text not in {cell for row in ROWS for cell in row}


def test_rows_stand_under_their_caption_and_heads_and_have_their_place_on_the_page(library: Library) -> None:
    found = ask(library, "How many boats lie in Brimsey?", "ships.pdf").citations[0]
    assert found.hit.chunk.heading.startswith("Table 4. Ships and boats") or "Table 4" in found.hit.chunk.text
    document = library.document(found.hit.chunk.document_id)
    (table,) = document.tables
    assert table.heads == ("Harbour", "Registered Ships", "Boats", "Amount")
    assert table.caption == "Table 4. Ships and boats by harbour: 1911"
    assert len(boxes(document.words, 0, table.rows[1].start, table.rows[1].stop)) == 4
