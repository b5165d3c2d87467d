"""The words of a PDF page with their places: a small interpreter of the page's content stream.

pypdf's own `extract_text` gives running text in the order of drawing, which loses columns and the gaps between table
cells. Here each word keeps its box, so that `page_layout` can find the order in which people read. pypdf does the
parsing, the decryption and the fonts (encodings, ToUnicode, widths).

Coordinates are the page's user space in points, y upwards; `Word.turn` tells by how many quarter turns
(counter-clockwise) the text stands, with /Rotate taken into account, and x, y are given in that turned frame, in which
it reads upright.
Source: ISO 32000-2, 8.3 (matrices), 9.3 (text state), 9.4 (text objects), 14.6 (marked content).
"""

import math
import time
from dataclasses import dataclass, field
from typing import Any

from pypdf import PageObject
from pypdf.generic import ContentStream, DictionaryObject, StreamObject

from grit_app.documents.read.clean import is_right_to_left
from grit_app.documents.read.pdf.fonts import UNREADABLE, PdfFont

Matrix = tuple[float, float, float, float, float, float]
IDENTITY: Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)

MAX_FORM_DEPTH = 8
MAX_FORMS = 2_000
MAX_WORDS = 60_000  # a dense newspaper page has about 6,000


class OutOfTime(Exception):
    """The file's time budget is spent in the middle of a page."""


@dataclass(slots=True)
class Word:
    """Glyphs drawn without a gap. `spaced`: a space was drawn before it, however narrow."""

    text: str
    x0: float
    x1: float
    y: float
    size: float
    turn: int
    spaced: bool
    glyphs: tuple[str, ...] | None = None
    """Glyph by glyph, left to right, where a right-to-left letter is among them."""


@dataclass(slots=True)
class PageWords:
    words: list[Word] = field(default_factory=list)
    picture_share: float = 0.0
    """Largest share of the page that one picture covers, 0 … 1."""
    unreadable: int = 0
    """Glyphs whose font does not say which character they are."""


def multiply(m: Matrix, n: Matrix) -> Matrix:
    return (
        m[0] * n[0] + m[1] * n[2],
        m[0] * n[1] + m[1] * n[3],
        m[2] * n[0] + m[3] * n[2],
        m[2] * n[1] + m[3] * n[3],
        m[4] * n[0] + m[5] * n[2] + n[4],
        m[4] * n[1] + m[5] * n[3] + n[5],
    )


@dataclass(slots=True)
class _State:
    """The part of the graphics state that q and Q save."""

    ctm: Matrix
    font: PdfFont | None = None
    size: float = 0.0
    char_space: float = 0.0
    word_space: float = 0.0
    stretch: float = 1.0
    leading: float = 0.0
    rise: float = 0.0

    def copy(self) -> "_State":
        return _State(
            self.ctm, self.font, self.size, self.char_space, self.word_space, self.stretch, self.leading, self.rise
        )


class WordReader:
    """Reads pages of one file; fonts are decoded once a file.

    deadline: `time.process_time()` after which `OutOfTime` is raised.
    """

    def __init__(self, deadline: float = math.inf) -> None:
        self.deadline = deadline
        self._fonts: dict[Any, PdfFont | None] = {}

    def read(self, page: PageObject) -> PageWords:
        contents = page.get("/Contents")
        if contents is None:
            return PageWords()
        run = _PageRun(self, page)
        run.play(ContentStream(contents.get_object(), page.pdf, "bytes"), page.get("/Resources"), IDENTITY, 0)
        return run.result

    def check_time(self) -> None:
        if time.process_time() > self.deadline:
            raise OutOfTime

    def font(self, resources: Any, name: Any) -> PdfFont | None:
        fonts = _lookup(resources, "/Font")
        if fonts is None or name not in fonts:
            return None
        raw = fonts.raw_get(name)
        key = getattr(raw, "idnum", None) or id(raw)
        if key not in self._fonts:
            resource = raw.get_object()
            try:
                self._fonts[key] = PdfFont.of(resource) if isinstance(resource, DictionaryObject) else None
            except (ValueError, TypeError, KeyError, AttributeError, IndexError):  # a damaged font: its text is lost
                self._fonts[key] = None
        return self._fonts[key]


def _lookup(resources: Any, kind: str) -> DictionaryObject | None:
    resources = resources.get_object() if resources is not None else None
    if not isinstance(resources, DictionaryObject) or kind not in resources:
        return None
    found = resources[kind].get_object()
    return found if isinstance(found, DictionaryObject) else None


def _numbers(operands: list[Any], count: int) -> list[float] | None:
    try:
        values = [float(v) for v in operands[-count:]]
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


class _PageRun:
    """One page's drawing, from first operator to last."""

    def __init__(self, reader: WordReader, page: PageObject) -> None:
        self.reader = reader
        self.result = PageWords()
        self.pdf = page.pdf
        box = page.cropbox
        self.box = (float(box.left), float(box.bottom), float(box.right), float(box.top))
        self.page_turn = (int(page.rotation or 0) // 90) % 4
        self.page_area = max(1.0, (self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))
        self.forms = 0
        self.state = _State(IDENTITY)
        self.tm = self.line = IDENTITY
        # Marked content: for each open level (is an artifact of pagination, replacement text or None).
        self.marks: list[tuple[bool, list[str] | None]] = []
        self.spaced = True

    def play(self, stream: ContentStream, resources: Any, matrix: Matrix, depth: int) -> None:
        """Runs one content stream: the page's, or a form's on it."""
        self.state.ctm = multiply(matrix, self.state.ctm)
        stack: list[_State] = []
        marks_before = len(self.marks)
        for count, (operands, operator) in enumerate(stream.operations):
            if count % 500 == 0:
                self.reader.check_time()
            if operator == b"q":
                stack.append(self.state.copy())
            elif operator == b"Q":
                if stack:
                    self.state = stack.pop()
            elif operator == b"Do":
                self._paint(operands, resources, depth)
            elif operator == b"Tf":
                self._set_font(operands, resources)
            elif operator in _TEXT_STATE:
                values = _numbers(operands, 1)
                if values:
                    name, factor = _TEXT_STATE[operator]
                    setattr(self.state, name, values[0] * factor)
            else:
                self._text(operator, operands)
        del self.marks[marks_before:]

    def _set_font(self, operands: list[Any], resources: Any) -> None:
        if len(operands) >= 2:
            self.state.font = self.reader.font(resources, operands[0])
            values = _numbers(operands, 1)
            self.state.size = values[0] if values else self.state.size

    def _text(self, operator: bytes, operands: list[Any]) -> None:
        if operator == b"cm":
            values = _numbers(operands, 6)
            if values:
                self.state.ctm = multiply(tuple(values), self.state.ctm)  # type: ignore[arg-type]
        elif operator == b"BT":
            self.tm = self.line = IDENTITY
        elif operator == b"Tm":
            values = _numbers(operands, 6)
            if values:
                self.tm = self.line = tuple(values)  # type: ignore[assignment]
        elif operator in (b"Td", b"TD"):
            values = _numbers(operands, 2)
            if values:
                if operator == b"TD":
                    self.state.leading = -values[1]
                self._next_line(values[0], values[1])
        elif operator == b"T*":
            self._next_line(0.0, -self.state.leading)
        elif operator == b"Tj":
            self._show(operands)
        elif operator == b"TJ":
            self._show(operands[0] if operands and isinstance(operands[0], list) else [])
        elif operator in (b"'", b'"'):
            values = _numbers(operands[:2], 2) if operator == b'"' else None
            if values:
                self.state.word_space, self.state.char_space = values
            self._next_line(0.0, -self.state.leading)
            self._show(operands[-1:])
        elif operator in (b"BDC", b"BMC"):
            self.marks.append(self._mark(operands))
        elif operator == b"EMC" and self.marks:
            self.marks.pop()

    def _mark(self, operands: list[Any]) -> tuple[bool, list[str] | None]:
        properties = operands[1].get_object() if len(operands) > 1 and hasattr(operands[1], "get_object") else None
        if not isinstance(properties, DictionaryObject):
            return False, None
        pagination = operands[0] == "/Artifact" and properties.get("/Type") == "/Pagination"
        actual = properties.get("/ActualText")
        # Long replacement texts describe figures; short ones repair ligatures and hyphens.
        short = [str(actual)] if isinstance(actual, str) and len(actual) <= 8 else None
        return pagination, short

    def _next_line(self, dx: float, dy: float) -> None:
        self.line = multiply((1.0, 0.0, 0.0, 1.0, dx, dy), self.line)
        self.tm = self.line

    def _paint(self, operands: list[Any], resources: Any, depth: int) -> None:
        objects = _lookup(resources, "/XObject")
        if objects is None or not operands or operands[0] not in objects:
            return
        target = objects[operands[0]].get_object()
        if not isinstance(target, StreamObject):
            return
        if target.get("/Subtype") == "/Image":
            a, b, c, d = self.state.ctm[:4]
            self.result.picture_share = max(self.result.picture_share, min(1.0, abs(a * d - b * c) / self.page_area))
        elif target.get("/Subtype") == "/Form" and depth < MAX_FORM_DEPTH and self.forms < MAX_FORMS:
            self.forms += 1
            saved, tm, line = self.state.copy(), self.tm, self.line
            matrix = _numbers(list(target.get("/Matrix", IDENTITY)), 6) or IDENTITY
            inner = target.get("/Resources") or resources
            self.play(ContentStream(target, self.pdf, "bytes"), inner, tuple(matrix), depth + 1)  # type: ignore[arg-type]
            self.state, self.tm, self.line = saved, tm, line

    def _show(self, pieces: list[Any]) -> None:
        """Draws strings and pen moves (thousandths of an em, positive = back), cutting words at spaces and gaps."""
        state = self.state
        if state.font is None or not state.size or len(self.result.words) >= MAX_WORDS:
            return
        pen = _Pen(self)
        for piece in pieces:
            if isinstance(piece, (int, float)):
                move = -float(piece) / 1000
                if not -0.5 < move < state.font.word_gap:
                    pen.end()
                    self.spaced = self.spaced or move > 0
                pen.move(move * state.size * state.stretch)
                continue
            data = piece if isinstance(piece, bytes) else str(piece).encode("latin-1", "replace")
            for text, width, is_space in state.font.glyphs(data):
                self.result.unreadable += text == UNREADABLE
                pen.draw(text, width, is_space)
        pen.end()
        self.spaced = False

    def emit(self, glyphs: list[str], start: Matrix, end: Matrix) -> None:
        """Keeps one word whose pen went from `start` to `end` (text rendering matrices)."""
        hidden = any(artifact for artifact, _ in self.marks)
        text = "".join(glyphs)
        if hidden or not text.strip():
            return
        state = self.state
        dx, dy = end[4] - start[4], end[5] - start[5]
        direction = (start[0], start[1]) if math.hypot(start[0], start[1]) > 0 else (dx, dy)
        angle = math.degrees(math.atan2(direction[1], direction[0])) / 90
        if abs(angle - round(angle)) > 0.12:  # slanted: watermarks and figure labels
            return
        if not (self.box[0] - 2 <= start[4] <= self.box[2] + 2 and self.box[1] - 2 <= start[5] <= self.box[3] + 2):
            return
        # /Rotate turns the page clockwise, so text that stands at 90° on a page with /Rotate 90 is upright.
        turn = (round(angle) - self.page_turn) % 4
        x0, y0 = turned(start[4], start[5], round(angle))
        x1, _ = turned(end[4], end[5], round(angle))
        size = abs(state.size) * math.hypot(start[2], start[3])
        kept = tuple(glyphs) if is_right_to_left(text) else None
        self.result.words.append(Word(text, min(x0, x1), max(x0, x1), y0, size, turn, self.spaced, kept))
        self.spaced = False


class _Pen:
    """The moving text position inside one show operator."""

    def __init__(self, run: _PageRun) -> None:
        self.run = run
        self.glyphs: list[str] = []
        self.start = self.last = self._place()

    def _place(self) -> Matrix:
        state = self.run.state
        return multiply((state.stretch, 0.0, 0.0, 1.0, 0.0, state.rise), multiply(self.run.tm, state.ctm))

    def move(self, distance: float) -> None:
        self.run.tm = multiply((1.0, 0.0, 0.0, 1.0, distance, 0.0), self.run.tm)

    def draw(self, text: str, width: float, is_space: bool) -> None:
        state, run = self.run.state, self.run
        replacement = run.marks[-1][1] if run.marks else None
        if replacement is not None:  # the first glyph of the marked span carries its whole text
            text = replacement.pop() if replacement else ""
        blank = bool(text) and not text.strip()
        if blank:
            self.end()
            run.spaced = True
        elif not self.glyphs:
            self.start = self._place()
        advance = width * state.size + state.char_space + (state.word_space if is_space else 0.0)
        if not blank:
            self.glyphs.append(text)
            self.move(width * state.size * state.stretch)
            self.last = self._place()
            self.move((advance - width * state.size) * state.stretch)
            if advance - width * state.size > 0.6 * abs(state.size):  # letters set this far apart are separate words
                self.end()
        else:
            self.move(advance * state.stretch)

    def end(self) -> None:
        if self.glyphs:
            self.run.emit(self.glyphs, self.start, self.last)
            self.glyphs = []


_TEXT_STATE: dict[bytes, tuple[str, float]] = {
    b"Tc": ("char_space", 1.0),
    b"Tw": ("word_space", 1.0),
    b"Tz": ("stretch", 0.01),
    b"TL": ("leading", 1.0),
    b"Ts": ("rise", 1.0),
}


def turned(x: float, y: float, quarter_turns: int) -> tuple[float, float]:
    """The point in a frame turned by so many quarter turns counter-clockwise."""
    for _ in range(quarter_turns % 4):
        x, y = y, -x
    return x, y
