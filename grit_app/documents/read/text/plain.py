"""Text files as running text: one paragraph, heading or table row a line."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, Literal

from grit_app.documents.document import Document, Page, Row, Section, Table
from grit_app.documents.read.clean import normalise
from grit_app.documents.read.hyphens import HyphenMender, Paragraph
from grit_app.documents.read.text.code import code_spans, dedented

LONGEST_CELL = 1_000_000
_SOFT_HYPHEN = "\u00ad"  # where a word may be cut, and was not
_SEPARATOR = re.compile(r"sep=(.)\n", re.IGNORECASE)  # what spreadsheets write into a first line
_LIST_ITEM = re.compile(r"\s*([-*+•]|\d{1,3}[.)])\s+")


@dataclass(slots=True)
class TextLine:
    """One line of a document's text as people read it."""

    text: str
    level: int = 0
    """1 … 6: a heading of this level."""
    kind: Literal["prose", "row", "code"] = "prose"
    table: str = ""
    """For a row: the caption and the column heads of its table."""
    cells: tuple[str, ...] = ()
    """For a row: the text of each of its cells, empty ones included."""
    begins: bool = False
    """For code: whether a block begins with it."""


def read_text(data: str, name: str, sha256: str) -> Document:
    """The document of a plain text file. Form feeds divide pages; without them it is one page."""
    mender = HyphenMender(data.splitlines())
    return compose(data, name, sha256, "text", lambda page: _paragraphs(page.split("\n"), mender))


def text_lines(text: str) -> list[TextLine]:
    """The lines of a plain text."""
    found = text.replace("\r\n", "\n").split("\n")
    return _paragraphs(found, HyphenMender(found))


def code_lines(lines: Sequence[str]) -> list[TextLine]:
    """The lines of one block of code, empty ones between others included."""
    made = [TextLine(normalise(line, loose_accents=False), kind="code") for line in dedented(lines)]
    for first in made[:1]:
        first.begins = True
    return made


def read_csv(data: str, name: str, sha256: str) -> Document:
    """The document of comma or tab separated values: a row a line, the first row the heads."""
    told = _SEPARATOR.match(data)
    data = data[told.end() :] if told else data
    try:
        dialect: Any = csv.Sniffer().sniff(data[:20_000], told[1] if told else ",;\t|")
    except csv.Error:
        dialect = csv.excel_tab if name.casefold().endswith(".tsv") else csv.excel
    csv.field_size_limit(LONGEST_CELL)
    try:
        reader = csv.reader(io.StringIO(data, newline=""), dialect)
        rows = [[" ".join(cell.split()) for cell in row] for row in reader]
    except csv.Error:
        return read_text(data, name, sha256)
    return of_pages([("1", table_lines(rows))], name, sha256, "text")


def table_lines(rows: Sequence[Sequence[str]]) -> list[TextLine]:
    """The lines of a table, whose first row that is not empty has the heads."""
    head = ""
    lines = []
    for row in rows:
        text = " | ".join(filter(None, row))
        if text:
            lines.append(TextLine(text, kind="row", table=head, cells=tuple(row)))
            head = head or text
    return lines


def compose(data: str, name: str, sha256: str, kind: str, lines_of: Callable[[str], list[TextLine]]) -> Document:
    """The document whose pages, divided by form feeds, have the lines that `lines_of` finds."""
    pages = data.split("\f")
    while len(pages) > 1 and not pages[-1].strip():
        pages.pop()
    return of_pages([(str(i + 1), lines_of(page)) for i, page in enumerate(pages)], name, sha256, kind)


def of_pages(
    pages: Sequence[tuple[str, list[TextLine]]], name: str, sha256: str, kind: str, notes: Sequence[str] = ()
) -> Document:
    """The document of pages given as (label, lines)."""
    parts: list[str] = []
    borders: list[tuple[str, int, int]] = []
    headings: list[tuple[int, str]] = []
    marks: list[tuple[int, TextLine]] = []
    code: list[tuple[int, int]] = []
    written = 0
    for label, lines in pages:
        start = written
        for line in lines:
            line.text = line.text.replace(_SOFT_HYPHEN, "")
            line.cells = tuple(cell.replace(_SOFT_HYPHEN, "") for cell in line.cells)
            if line.level:
                headings.append((written, line.text))
            marks.append((written, line))
            if line.kind == "code":
                begin = written if line.begins or not code else code.pop()[0]
                code.append((begin, written + len(line.text)))
            parts.append(line.text)
            written += len(line.text) + 1
        borders.append((label, start, written))
    text = "\n".join(parts)
    fitted = tuple(Page(i, label, min(a, len(text)), min(b, len(text))) for i, (label, a, b) in enumerate(borders))
    return Document(
        name,
        sha256,
        kind,
        fitted,
        text,
        tuple(notes),
        tuple(headings),
        sections=sections(marks, len(text)),
        tables=tuple(_tables(marks)),
        code=tuple(code),
    )


def _tables(lines: Sequence[tuple[int, TextLine]]) -> Iterator[Table]:
    """Tables of rows that follow on each other; the first row of each has the heads."""
    for is_row, group in groupby(lines, lambda line: line[1].kind == "row"):
        rows = list(group)
        while is_row and rows:
            count = next((n for n, (_, line) in enumerate(rows) if n and not line.table), len(rows))
            if count > 1:
                made = tuple(Row(at, at + len(line.text), _places(at, line)) for at, line in rows[1:count])
                yield Table("", rows[0][1].cells, made)
            rows = rows[count:]


def _places(start: int, line: TextLine) -> tuple[tuple[int, int, int], ...]:
    places, at = [], 0
    for column, cell in enumerate(line.cells):
        found = line.text.find(cell, at) if cell else -1
        if found >= 0:
            at = found + len(cell)
            places.append((column, start + found, start + at))
    return tuple(places)


def sections(lines: Sequence[tuple[int, TextLine]], length: int) -> tuple[Section, ...]:
    """What each stretch of the text stands under: the headings above it, outermost first, and a row's table.

    lines   (where it begins, the line), in order
    """
    path: list[tuple[int, str]] = []
    found: list[tuple[int, str]] = []
    for at, line in lines:
        if line.level:
            while path and path[-1][0] >= line.level:
                path.pop()
            path.append((line.level, line.text))
            title = " › ".join(text for _, text in path[:-1])
        else:
            title = " › ".join([text for _, text in path] + ([line.table] if line.table else []))
        if not found or found[-1][1] != title:
            found.append((at, title))
    stops = [*(at for at, _ in found[1:]), length]
    return tuple(Section(at, stop, title) for (at, title), stop in zip(found, stops, strict=False) if title)


def _paragraphs(lines: Sequence[str], mender: HyphenMender) -> list[TextLine]:
    found: list[TextLine] = []
    at = 0
    for start, stop in code_spans(lines):
        found += _prose(lines[at:start], mender) + code_lines(lines[start:stop])
        at = stop
    return found + _prose(lines[at:], mender)


def _prose(lines: Sequence[str], mender: HyphenMender) -> list[TextLine]:
    wrapped = is_wrapped(lines)
    found: list[Paragraph] = []
    is_open = False
    for raw in lines:
        line = normalise(raw, loose_accents=False)
        columns = "\t" in line.strip() or re.search(r"\S {3,}\S", line) is not None
        starts = bool(_LIST_ITEM.match(line))
        line = " ".join(line.split())
        if not line:
            is_open = False
        elif is_open and wrapped and not starts and not columns:
            found[-1].add(line)
        else:
            found.append(mender.paragraph(line))
            is_open = not columns
    return [TextLine(str(paragraph)) for paragraph in found]


def is_wrapped(lines: Sequence[str]) -> bool:
    """True if lines were broken at a fixed width: most lines that are followed by text are about equally long."""
    full = [len(a.rstrip()) for a, b in pairwise(lines) if a.strip() and b.strip() and b[:1].strip()]
    if len(full) < 2:
        return len(full) == 1 and full[0] >= 40
    width = sorted(full)[int(0.9 * (len(full) - 1))]
    return 40 <= width <= 200 and sum(n >= 0.7 * width for n in full) >= 0.6 * len(full)
