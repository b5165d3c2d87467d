"""Tables of a PDF: which rows belong together, where their columns are, and what stands over each column.

1. Rows of one part of a page, with at most REACH lines between two of them, are a table if figures stand in most.
2. The commonest number of cells tells the columns: the stretches of x that those rows' cells fill.
3. Lines over the first row with figures, as far as the caption, are heads: each of their pieces belongs to the columns
   under it. Lines without cells below a row go on with it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from grit_app.documents.document import Row, Table
from grit_app.documents.read.pdf.lines import Line

REACH = 2
HEAD_LINES = 7
LEAST_ROWS = 3
_FIGURE = re.compile(r"[-–+(~<>]?[$€£]?\s?[-–]?\d[\d,.’ ]*(/\d+)*[%)*†‡]*|[-–—#†‡]|n/?a", re.IGNORECASE)

Span = tuple[float, float]


@dataclass(slots=True)
class Written:
    """A paragraph as it stands in the text. `caption`: it is one."""

    lines: Sequence[Line]
    text: str
    start: int
    part: tuple[int, int]
    is_row: bool
    caption: bool


def find_tables(paragraphs: Sequence[Written]) -> list[Table]:
    """The tables of a document, in order."""
    found = []
    at = 0
    while at < len(paragraphs):
        if not paragraphs[at].is_row:
            at += 1
            continue
        end, last = at, at
        while end < len(paragraphs) and paragraphs[end].part == paragraphs[at].part and end - last <= REACH:
            last = end if paragraphs[end].is_row else last
            end += 1
        stop = last + 1
        while stop < end and len(paragraphs[stop].lines) == 1 and not paragraphs[stop].caption:
            stop += 1
        table = _table(paragraphs, at, stop)
        if table is not None:
            found.append(table)
        at = stop
    return found


def _table(paragraphs: Sequence[Written], at: int, stop: int) -> Table | None:
    first = next((i for i in range(at, stop) if paragraphs[i].is_row and _holds_figures(paragraphs[i])), stop)
    rows = [i for i in range(first, stop) if paragraphs[i].is_row]
    if len(rows) < LEAST_ROWS:
        return None
    usual = Counter(len(_line(paragraphs[i]).pieces) for i in rows).most_common(1)[0][0]
    columns = _columns([_line(paragraphs[i]) for i in rows if len(_line(paragraphs[i]).pieces) == usual])
    if len(columns) < 2:
        return None
    caption, heads = _heads(paragraphs, first, columns)
    made = []
    for number, i in enumerate(rows):
        end = paragraphs[rows[number + 1] - 1 if number + 1 < len(rows) else stop - 1]
        made.append(Row(paragraphs[i].start, end.start + len(end.text), tuple(_cells(paragraphs[i], columns))))
    return Table(caption, tuple(heads), tuple(made))


def _line(paragraph: Written) -> Line:
    return paragraph.lines[0]


def _holds_figures(paragraph: Written) -> bool:
    return any(_FIGURE.fullmatch(text) for text, _, _ in _line(paragraph).pieces[1:])


def _columns(lines: Sequence[Line]) -> list[Span]:
    """The stretches of x that cells fill, from left to right."""
    columns: list[list[float]] = []
    for x0, x1 in sorted((x0, x1) for line in lines for _, x0, x1 in line.pieces):
        if columns and x0 < columns[-1][1]:
            columns[-1][1] = max(columns[-1][1], x1)
        else:
            columns.append([x0, x1])
    return [(a, b) for a, b in columns]


def _cells(paragraph: Written, columns: Sequence[Span]) -> list[tuple[int, int, int]]:
    cells, at = [], 0
    for text, x0, x1 in _line(paragraph).pieces:
        found = paragraph.text.find(text, at)
        if found >= 0:
            at = found + len(text)
            column = min(range(len(columns)), key=lambda n: _distance((x0, x1), columns[n]))
            cells.append((column, paragraph.start + found, paragraph.start + at))
    return cells


def _distance(a: Span, b: Span) -> float:
    """Negative where they overlap, the more the better."""
    return max(a[0], b[0]) - min(a[1], b[1])


def _heads(paragraphs: Sequence[Written], first: int, columns: Sequence[Span]) -> tuple[str, list[str]]:
    """(caption, what stands over each column)."""
    heads: list[list[str]] = [[] for _ in columns]
    caption, width = "", columns[-1][1] - columns[0][0]
    for i in range(first - 1, max(-1, first - 1 - HEAD_LINES), -1):
        above = paragraphs[i]
        if above.caption:
            caption = above.text
            break
        if above.part[0] != paragraphs[first].part[0] or len(above.lines) > 2:
            break
        pieces = [piece for line in above.lines for piece in line.pieces]
        if any(x1 - x0 > 0.6 * width for _, x0, x1 in pieces) or any(_FIGURE.fullmatch(text) for text, _, _ in pieces):
            break
        for text, x0, x1 in pieces:
            under = [n for n, column in enumerate(columns) if _distance((x0, x1), column) < 0]
            for n in under or [min(range(len(columns)), key=lambda n: _distance((x0, x1), columns[n]))]:
                heads[n].insert(0, text)
    return caption, [" ".join(parts) for parts in heads]
