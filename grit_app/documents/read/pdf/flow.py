"""From the lines of all pages to one running text: paragraphs whole, words mended, sentences carried over pages.

The text has one paragraph, heading or table row a line. Pages are spans of it, without a hole between them: where a
sentence runs on, the border lies inside a paragraph.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from grit_app.documents.document import Table
from grit_app.documents.places import pack_quantised
from grit_app.documents.read.clean import is_right_to_left
from grit_app.documents.read.hyphens import HyphenMender
from grit_app.documents.read.pdf.lines import Line, body_size
from grit_app.documents.read.pdf.tables import Written, find_tables

_BULLET = re.compile(r"([•▪◦●■□‣⁃∙·*✓➢➤►–—-]|\(?\d{1,3}[.)]|\(?[a-zA-Z][.)]|\([ivx]+\))\s")
_NOTE = re.compile(r"[\d⁰¹²³⁴⁵⁶⁷⁸⁹*†‡§]")
_ENDS = re.compile(r"[.!?:;。！？؟۔…][\"'”’»)\]⁰¹²³⁴⁵⁶⁷⁸⁹]*$")
_CAPTION = re.compile(r"(table|figure|fig\.|exhibit|tabelle|tableau|tabla|tabella|box|chart)\s+[\w.-]+", re.IGNORECASE)
_LEADERS = re.compile(r"(\s?[.·․…_]){4,}\s?")
_RANGE = re.compile(r"\d[-–]$")  # goes on in the next line, with what looks like a list's number: 2-|3.

REACH = 40  # characters that a word may stand behind the one before it: leaders and lifted signs lie between


@dataclass(slots=True)
class Paragraph:
    """Lines that belong together. Each line remembers its page."""

    lines: list[tuple[int, Line]]
    part: tuple[int, int]
    """(page, part) of its last line."""

    @property
    def first(self) -> Line:
        return self.lines[0][1]

    @property
    def last(self) -> Line:
        return self.lines[-1][1]

    @property
    def is_row(self) -> bool:
        return self.first.cells > 1


@dataclass(slots=True)
class Flow:
    text: str = ""
    spans: list[tuple[int, int]] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    """(where it starts, heading or caption), in order."""
    places: bytearray = field(default_factory=bytearray)
    """Of words, packed: as objects they would take most of the memory that a long document needs."""
    tables: list[Table] = field(default_factory=list)


def flow(pages: Sequence[Sequence[Line]]) -> Flow:
    """The running text of pages given as lines in reading order."""
    paragraphs: list[Paragraph] = []
    body = body_size(pages)
    for number, lines in enumerate(pages):
        found = _set_notes_aside(_paragraphs(number, lines), body)
        for position, paragraph in enumerate(found):
            before = paragraphs[-1] if paragraphs else None
            if before and (position == 0 or before.part != paragraph.part) and _runs_on(before, paragraph, pages):
                before.lines += paragraph.lines
                before.part = paragraph.part
            else:
                paragraphs.append(paragraph)
    return _write(paragraphs, len(pages), body)


# ---------------------------------------------------------------- lines → paragraphs


def _paragraphs(page: int, lines: Sequence[Line]) -> list[Paragraph]:
    shapes = {part: _Shape([line for line in lines if line.part == part]) for part in {line.part for line in lines}}
    found: list[Paragraph] = []
    for line in lines:
        key = (page, line.part)
        if found and found[-1].part == key and _same_paragraph(found[-1], line, shapes[line.part]):
            found[-1].lines.append((page, line))
        else:
            found.append(Paragraph([(page, line)], key))
    return found


class _Shape:
    """Margins and line distance of one part, mirrored for right-to-left text so that lines always start at `left`."""

    def __init__(self, lines: list[Line]) -> None:
        plain = [line for line in lines if line.cells == 1] or lines
        self.left = min(edges(line)[0] for line in plain)
        ends = sorted(edges(line)[1] for line in plain)
        self.right = ends[int(0.9 * (len(ends) - 1))]
        self.width = max(self.right - self.left, 1.0)
        steps = [a.y - b.y for a, b in pairwise(plain) if 0.5 * b.size < a.y - b.y < 2.2 * b.size]
        self.step = median(steps) if steps else 1.2 * plain[0].size


def edges(line: Line) -> tuple[float, float]:
    """(start, end) of a line in the direction of reading."""
    return (-line.x1, -line.x0) if is_right_to_left(line.text) else (line.x0, line.x1)


def _same_paragraph(paragraph: Paragraph, line: Line, shape: _Shape) -> bool:
    last = paragraph.last
    if paragraph.is_row or line.cells > 1 or _LEADERS.search(last.text) or not 0.93 < line.size / last.size < 1.075:
        return False
    down = last.y - line.y
    if not 0.3 * line.size < down <= max(1.3 * shape.step, 1.25 * line.size):
        return False
    if _BULLET.match(line.text) and not (_RANGE.search(last.text) and line.text[0].isdigit()):
        return False
    (start, _), (last_start, last_end) = edges(line), edges(last)
    ended, starts_new = bool(_ENDS.search(last.text)), not _goes_on(line.text)
    hanging = len(paragraph.lines) == 1 and _BULLET.match(last.text)
    if last.text.endswith(("-", "\u00ad")):
        return True
    if start - last_start > 0.9 * line.size and not hanging and ended:
        return False  # first line of a new paragraph is indented
    room = shape.right - last_end
    first_word = len(line.text.split(" ", 1)[0]) * 0.5 * line.size
    if ended and starts_new and room > max(0.12 * shape.width, first_word + line.size):
        return False  # the last line had room for the next word: it was let end there
    return not (
        starts_new and room > 0.4 * shape.width and abs((start + edges(line)[1]) - (last_start + last_end)) > line.size
    )


def _goes_on(text: str) -> bool:
    """True if a line can only be the middle of a sentence: it begins with a small letter."""
    letter = next((c for c in text if c.isalnum()), "")
    return letter.islower()


def _set_notes_aside(paragraphs: list[Paragraph], body: float) -> list[Paragraph]:
    """Footnotes moved out of the way of a sentence that runs on into the next column or page.

    They go to the page's end, or before the page's last paragraph where that one runs on.
    """
    notes: list[Paragraph] = []
    rest: list[Paragraph] = []
    by_part: dict[tuple[int, int], list[Paragraph]] = {}
    for paragraph in paragraphs:
        by_part.setdefault(paragraph.part, []).append(paragraph)
    for group in by_part.values():
        cut = len(group)
        while cut and not group[cut - 1].is_row and group[cut - 1].first.size < 0.9 * body:
            cut -= 1
        small = group[cut:]
        if cut and small and _NOTE.match(small[0].first.text):
            rest, notes = rest + group[:cut], notes + small
        else:
            rest += group
    if notes and rest and not _ENDS.search(rest[-1].last.text):
        return [*rest[:-1], *notes, rest[-1]]
    return rest + notes


def _runs_on(before: Paragraph, after: Paragraph, pages: Sequence[Sequence[Line]]) -> bool:
    """True if `after`, first in its column or page, continues the sentence of `before`."""
    a, b = before.last, after.first
    if before.is_row or after.is_row or a.turn or b.turn or not 0.93 < b.size / a.size < 1.075:
        return False
    if _BULLET.match(b.text) or _ENDS.search(a.text):
        return False
    page, part = before.part
    shape = _Shape([line for line in pages[page] if line.part == part] or [a])
    full = shape.right - edges(a)[1] < 0.2 * shape.width and len(a.text) >= 20
    return full and (
        _goes_on(b.text) or a.text.endswith("-") or len(before.lines) > 1 or not any(c.isupper() for c in b.text)
    )


# ---------------------------------------------------------------- paragraphs → text


def _write(paragraphs: list[Paragraph], page_count: int, body: float) -> Flow:
    mender = HyphenMender(line.text for p in paragraphs for _, line in p.lines)
    starts: list[int | None] = [None] * page_count
    result = Flow()
    written = 0
    parts: list[str] = []
    kept: list[Written] = []
    for paragraph in paragraphs:
        text, borders = _paragraph_text(paragraph, mender)
        if not text:
            continue
        for page, offset in borders:
            if starts[page] is None:
                starts[page] = written + offset
        if _is_heading(paragraph, text, body):
            result.headings.append((written, text))
        result.places += _places(paragraph, text, written)
        lines = [line for _, line in paragraph.lines]
        kept.append(Written(lines, text, written, paragraph.part, paragraph.is_row, _CAPTION.match(text) is not None))
        parts.append(text)
        written += len(text) + 1
    result.text = "\n".join(parts)
    result.tables = find_tables(kept)
    stop = len(result.text)
    for found in reversed(starts):
        start = stop if found is None else min(stop, found)
        result.spans.append((start, stop))
        stop = start
    result.spans.reverse()
    if result.spans:
        result.spans[0] = (0, result.spans[0][1])
    return result


def _paragraph_text(paragraph: Paragraph, mender: HyphenMender) -> tuple[str, list[tuple[int, int]]]:
    """The paragraph's text and, for each page that it touches, where that page begins in it."""
    text, page = mender.paragraph(), -1
    borders: list[tuple[int, int]] = []
    for number, line in paragraph.lines:
        piece = _LEADERS.sub(" … ", line.text).strip()
        if number != page:
            page = number
            borders.append((page, len(text)))
        text.add(piece)
    return str(text).replace("\u00ad", ""), borders


def _places(paragraph: Paragraph, text: str, start: int) -> bytes:
    """Where the words of a paragraph stand: each is looked for behind the one before it, without a mended hyphen."""
    starts, stops, pages, rects = [], [], [], array("H")
    at = 0
    for page, line in paragraph.lines:
        for number, word in enumerate(line.drawn.split()):
            plain = word.replace("\u00ad", "")
            found = text.find(plain, at, at + len(plain) + REACH)
            if found < 0 and plain[-1:] in "-‐":
                plain = plain[:-1]
                found = text.find(plain, at, at + len(plain) + REACH)
            if found >= 0 and plain:
                at = found + len(plain)
                starts.append(start + found)
                stops.append(start + at)
                pages.append(page)
                rects += line.places[4 * number : 4 * number + 4]
    return pack_quantised(starts, stops, pages, rects.tobytes())


def _is_heading(paragraph: Paragraph, text: str, body: float) -> bool:
    if paragraph.is_row or len(text) > 160:
        return False
    return bool(_CAPTION.match(text)) or (paragraph.first.size > 1.08 * body and not text.endswith("."))
