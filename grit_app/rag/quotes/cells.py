"""A question about one cell of a table is answered with that cell.

    row      words of the question that stand in a row, the rarer among the rows the more they count
    column   words of the question among those over a column, less half of the column's other words
    cell     the row and column with the highest sum, if no other pair comes near, one of the row's words is rare, and
             most words of the question stand in the row, over the column or in the table's caption

No model is asked: a small one reads the wrong figure of a row as often as the right one.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from grit_app.documents.document import Document, Row, Table
from grit_app.documents.keep.keywords import tokens
from grit_app.documents.library import Hit, Library
from grit_app.rag.quotes.quoting import Quote
from grit_app.rag.quotes.sentences import Sentence

MOST_ROWS: Final = 3_000
RARE: Final = 0.1
"""Of the rows: a word that stands in more of them does not tell a row."""

NEAR: Final = 0.3
"""What comes so near to the best cell makes it doubtful."""

COVERED: Final = 0.6
_ASKS_FOR: Final = tuple(
    (re.compile(rf"\b({asks})\b", re.IGNORECASE), over)
    for asks, over in (
        ("how much|costs?|paid|spen[dt]|price", "amount cost price fee sum $ € £"),
        ("when|what day", "date day year time"),
        ("whom?", "name payee person"),
    )
)
"""What people ask for, and words over the columns that hold it."""


@dataclass(frozen=True)
class Cell:
    """A cell that answers, with its row as the quote and the passages, that of the row among them."""

    text: str
    quote: Quote
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class _Place:
    document: Document
    row: Row
    cell: tuple[int, int, int]
    score: float

    @property
    def text(self) -> str:
        return self.document.text[self.cell[1] : self.cell[2]]


def find_cell(question: str, library: Library, hits: Sequence[Hit]) -> Cell | None:
    """The cell that a question asks for, in a table of the documents that were found; None if it asks for none."""
    asks = [(" ".join(said), over) for pattern, over in _ASKS_FOR if (said := pattern.findall(question))]
    wanted = {stem for said, over in asks for stem in tokens(f"{said} {over}")}
    documents = [library.document(i) for i in dict.fromkeys(hit.chunk.document_id for hit in hits)]
    found = [place for one in documents for place in _places(one, _asked(question, one), wanted)]
    places = sorted(found, key=lambda place: -place.score)
    if not places:
        return None
    best = places[0]
    if any(best.score - p.score < NEAR and p.text != best.text for p in places[1:]):
        return None
    return _cited(best, library, hits)


def _asked(question: str, document: Document) -> set[str]:
    """The question's words; those whose initials stand over a column (OOS: out-of-scope) as those initials."""
    over = {word for table in document.tables for head in table.heads for word in tokens(head)}
    words = re.findall(r"[\w'’]+", question.casefold())
    for length in (5, 4, 3):
        for at in range(len(words) - length + 1):
            initials = "".join(word[0] for word in words[at : at + length])
            if initials in over:
                words[at : at + length] = [initials]
    return set(tokens(" ".join(words)))


def _places(document: Document, asked: set[str], wanted: set[str]) -> Iterator[_Place]:
    rows = [(table, row) for table in document.tables for row in table.rows][:MOST_ROWS]
    words = [set(tokens(document.text[row.start : row.stop])) for _, row in rows]
    counts = Counter(word for found in words for word in found)
    for (table, row), found in zip(rows, words, strict=True):
        here = asked & found
        if not any(counts[word] <= max(2, RARE * len(rows)) for word in here):
            continue
        row_score = sum(math.log(1 + len(rows) / counts[word]) for word in here)
        yield from _columns(document, table, row, asked, wanted, here, row_score)


def _columns(
    document: Document, table: Table, row: Row, asked: set[str], wanted: set[str], here: set[str], row_score: float
) -> Iterator[_Place]:
    heads = [set(tokens(head)) for head in table.heads]
    counts = Counter(word for head in heads for word in head)
    rest = asked - here
    for cell in row.cells:
        text = document.text[cell[1] : cell[2]]
        head = heads[cell[0]]
        matched = (head & rest) | (head & wanted)
        if not matched or (set(tokens(text)) & here):
            continue
        covered = asked & (here | head | set(tokens(table.caption)))
        if len(covered) < COVERED * len(asked - wanted):
            continue
        weight = {word: math.log(1 + len(heads) / counts[word]) for word in head}
        score = sum(weight[w] for w in matched) - 0.5 * sum(weight[w] for w in head - matched)
        yield _Place(document, row, cell, row_score + score)


def _cited(place: _Place, library: Library, hits: Sequence[Hit]) -> Cell | None:
    """The cell with the passage of its row, which is taken in where it was not found."""
    at = place.cell[1]
    known = next(
        (
            n
            for n, hit in enumerate(hits)
            if hit.chunk.document_id == place.document.id and hit.chunk.start <= at < hit.chunk.stop
        ),
        None,
    )
    kept = list(hits)
    if known is None:
        chunk = next((c for c in library.chunks(place.document.id) if c.start <= at < c.stop), None)
        if chunk is None:
            return None
        kept, known = [Hit(chunk, hits[0].score, 0.0, 0.0, "keywords"), *kept[:-1]], 0
    chunk = kept[known].chunk
    start, stop = max(place.row.start, chunk.start), min(place.row.stop, chunk.stop)
    row = Sentence(place.document.text[start:stop], known, start - chunk.start, stop - chunk.start)
    return Cell(place.text, Quote(row.text, (row,), place.text, row, {}), tuple(kept))
