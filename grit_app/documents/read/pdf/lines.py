"""From the words of a page to its lines in reading order.

1. Words on one baseline become segments, cut at wide gaps (segments.py).
2. A gutter is an x that a vertical band of the page leaves free, with running prose on both sides: such a band is read
   left column, then right column (right first in right-to-left text). Lines across the gutter divide bands. Repeated on
   each part.
   Prose is told from table cells by filled lines and by lines that go on in the middle of a sentence.
3. In each part that has no gutter, segments on one baseline are one line; a line of several segments is a table row.
"""

import bisect
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from grit_app.documents.places import quantised
from grit_app.documents.read.clean import is_right_to_left
from grit_app.documents.read.pdf.cells import with_wrapped_cells
from grit_app.documents.read.pdf.glyphs import Rect, Word
from grit_app.documents.read.pdf.segments import Segment, make_segments

MAX_DEPTH = 12
MAX_SEGMENTS = 3_000  # a page of more is a map or a plot; prose has a few hundred
MAX_GUTTERS = 40
# A bullet, list number or section number that stands apart from its line does not make the line a table row.
_NUMBERING = re.compile(r"\W{1,3}|\(?\w{1,3}[.)]|\d+(\.\d+)+\.?|[A-Z](\.\d+)*\.?")


@dataclass(slots=True)
class Line:
    """One line as people read it. `cells` > 1: a table row. `part`: lines of one column of text share it."""

    text: str
    x0: float
    x1: float
    y: float
    size: float
    cells: int = 1
    part: int = 0
    turn: int = 0
    drawn: str = ""
    """Its words as they are drawn: the text, but for words that a cell of several lines cuts."""
    places: "array[int]" = field(default_factory=lambda: array("H"))
    """Of each word drawn (`places.quantised`): as objects they would take nine tenths of a long document's memory."""
    apart: list[tuple[str, float, float]] = field(default_factory=list)
    """(text, x0, x1) of its cells, where they are several."""

    @property
    def pieces(self) -> list[tuple[str, float, float]]:
        """(text, x0, x1) of its cells, be it one."""
        return self.apart or [(self.text, self.x0, self.x1)]


@dataclass(slots=True)
class PageLines:
    lines: list[Line] = field(default_factory=list)
    top: float = 0.0
    """y of the highest baseline of the main direction."""
    bottom: float = 0.0


def body_size(pages: Iterable[Sequence[Line]]) -> float:
    """The size in which most of the text is set."""
    sizes: Counter[float] = Counter()
    for lines in pages:
        for line in lines:
            sizes[round(line.size, 1)] += len(line.text)
    return sizes.most_common(1)[0][0] if sizes else 0.0


def page_lines(words: Sequence[Word]) -> PageLines:
    """The page's lines in reading order: the main direction of writing first, then text that stands sideways."""
    result = PageLines()
    counts = Counter({t: sum(len(w.text) for w in words if w.turn == t) for t in {w.turn for w in words}})
    for rank, (turn, _) in enumerate(counts.most_common()):
        segments = make_segments([w for w in words if w.turn == turn])
        parts: list[list[Segment]] = []
        _read(segments, parts, 0)
        first_part = result.lines[-1].part + 1 if result.lines else 0
        for number, part in enumerate(parts, first_part):
            for line in _rows(part):
                line.part, line.turn = number, rank
                result.lines.append(line)
        if rank == 0 and segments:
            result.top, result.bottom = max(s.y for s in segments), min(s.y for s in segments)
    return result


# ---------------------------------------------------------------- segments → parts in reading order


def _read(segments: list[Segment], parts: list[list[Segment]], depth: int) -> None:
    gutter = _best_gutter(segments) if depth < MAX_DEPTH and len(segments) <= MAX_SEGMENTS else None
    if gutter is None:
        if segments:
            parts.append(segments)
        return
    rtl = sum(is_right_to_left(s.text) for s in segments) * 2 > len(segments)
    rest: list[Segment] = []
    for left, right, others in _bands(segments, gutter):
        if _are_columns(left, right):
            _read(rest, parts, depth + 1)
            rest = []
            for side in (right, left) if rtl else (left, right):
                _read(side, parts, depth + 1)
        else:
            rest += sorted([*left, *right], key=lambda s: -s.y)
        rest += others
    _read(rest, parts, MAX_DEPTH if len(rest) == len(segments) else depth + 1)


def _best_gutter(segments: list[Segment]) -> float | None:
    """The x with the most text in columns beside it, or None."""
    starts = sorted(s.x0 for s in segments if len(s.text) > 3)
    em = median(s.size for s in segments) if segments else 0.0
    candidates: list[tuple[int, float]] = []  # (segments that begin there, x)
    i = 0
    while i < len(starts):
        j = bisect.bisect_right(starts, starts[i] + 0.5 * em)
        if j - i >= 3 and starts[i] - starts[0] > 5 * em:
            candidates.append((j - i, starts[i] - 0.25 * em))
        i = j
    best, best_score = None, 0
    for _, x in sorted(candidates, reverse=True)[:MAX_GUTTERS]:
        score = sum(
            len(s.text) for left, right, _ in _bands(segments, x) if _are_columns(left, right) for s in (*left, *right)
        )
        if score > best_score:
            best, best_score = x, score
    return best


def _bands(segments: list[Segment], gutter: float) -> list[tuple[list[Segment], list[Segment], list[Segment]]]:
    """Top to bottom: (left of the gutter, right of it, the lines across it that end this band)."""
    bands: list[tuple[list[Segment], list[Segment], list[Segment]]] = [([], [], [])]
    for segment in sorted(segments, key=lambda s: (-s.y, s.x0)):
        slack = 0.3 * segment.size
        side = 0 if segment.x1 <= gutter + slack else 1 if segment.x0 >= gutter - slack else 2
        if side < 2 and bands[-1][2]:
            bands.append(([], [], []))
        bands[-1][side].append(segment)
    return bands


def _are_columns(left: list[Segment], right: list[Segment]) -> bool:
    if min(len(left), len(right)) < 2 or max(len(left), len(right)) < 4:
        return False
    if max(s.x1 for s in left) > min(s.x0 for s in right):
        return False
    overlap = min(max(s.y for s in left), max(s.y for s in right)) - max(
        min(s.y for s in left), min(s.y for s in right)
    )
    if overlap <= 0:
        return False
    first, second = _Side(left), _Side(right)
    if first.fills and second.fills and (first.goes_on or second.goes_on):
        return True
    return min(first.runs, second.runs) >= 2 and max(first.runs, second.runs) >= 4


class _Side:
    """What one side of a gutter looks like."""

    def __init__(self, segments: list[Segment]) -> None:
        rows: dict[int, list[Segment]] = {}
        step = max(1.0, 0.3 * median(s.size for s in segments))
        for s in segments:
            rows.setdefault(round(s.y / step), []).append(s)
        width = max(s.x1 for s in segments) - min(s.x0 for s in segments)
        shares = [sum(s.x1 - s.x0 for s in row) / max(width, 1.0) for row in rows.values()]
        letters = sum(c.isalpha() for s in segments for c in s.text)
        characters = sum(len(s.text) for s in segments)
        self.fills = (
            median(shares) >= 0.6
            and characters / len(segments) >= 14
            and letters / max(1, characters) >= 0.55
            and len(segments) <= 3.2 * len(rows)
        )
        # Share of lines that begin with a small letter: in the middle of a sentence. Scripts without case always do.
        begin = [next((c for c in s.text if c.isalpha()), "") for s in segments]
        self.goes_on = sum(c != "" and not c.isupper() for c in begin) >= 0.25 * len(begin)
        # Lines that run on into the next one, counted: columns that hold figures and tables besides their prose.
        single = [row[0] for row in rows.values() if len(row) == 1 and len(row[0].text) >= 16]
        self.runs = sum(
            abs(a.x0 - b.x0) < 0.6 * b.size and 0 < a.y - b.y < 2 * b.size and b.text[0].islower()
            for a, b in pairwise(sorted(single, key=lambda s: -s.y))
        )


# ---------------------------------------------------------------- parts → lines


def _rows(segments: list[Segment]) -> list[Line]:
    """Lines of one part from top to bottom; segments on one baseline are cells of one line."""
    lines: list[Line] = []
    gaps: list[float] = []  # em
    rows: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda s: -s.y):
        if rows and rows[-1][0].y - segment.y <= 0.35 * min(rows[-1][0].size, segment.size):
            rows[-1].append(segment)
        else:
            rows.append([segment])
    for row in rows:
        row.sort(key=lambda s: s.x0)
    rects: list[Rect] = []
    for row in with_wrapped_cells(rows):
        ordered = row[::-1] if sum(is_right_to_left(s.text) for s in row) * 2 > len(row) else row
        size = max(row, key=lambda s: len(s.text)).size
        numbered = len(row) == 2 and _NUMBERING.fullmatch(ordered[0].text)
        text = " ".join(s.text for s in ordered)
        words = [piece for s in ordered for piece in s.words]
        drawn = " ".join(word for word, _ in words)
        lines.append(
            Line(
                text,
                row[0].x0,
                row[-1].x1,
                row[0].y,
                size,
                1 if numbered else len(row),
                drawn=text if drawn == text else drawn,
                apart=[(s.text, s.x0, s.x1) for s in ordered] if len(row) > 1 else [],
            )
        )
        rects += [rect for _, rect in words]
        gaps.append(max((b.x0 - a.x1 for a, b in pairwise(row)), default=0.0) / size)
    _place_words(lines, rects)
    _join_stretched_lines(lines, gaps)
    return lines


def _place_words(lines: list[Line], rects: list[Rect]) -> None:
    """Gives each line the places of its words."""
    places, at = array("H", quantised(rects)), 0
    for line in lines:
        stop = at + 4 * len(line.drawn.split())
        line.places, at = places[at:stop], stop


def _join_stretched_lines(lines: list[Line], gaps: list[float]) -> None:
    """Takes back rows that are none: justified prose may stretch a space as wide as the gap between cells.

    Such a line goes from margin to margin, as the plain line above or below it does.
    """
    plain = [line for line in lines if line.cells == 1]
    if not plain:
        return
    left = min(line.x0 for line in plain)
    # Where most lines end: a page number or a title may stand farther right than the text goes.
    ends = Counter(round(line.x1) for line in plain)
    right, count = ends.most_common(1)[0]
    if count < 2:
        right = max(ends)

    def is_full(line: Line) -> bool:
        return line.x0 - left < 1.5 * line.size and abs(right - line.x1) < line.size

    for i, line in enumerate(lines):
        beside = [n for n in lines[max(0, i - 1) : i + 2] if n is not line and n.cells == 1]
        if line.cells > 1 and gaps[i] < 2.5 and is_full(line) and any(is_full(n) for n in beside):
            line.cells = 1
