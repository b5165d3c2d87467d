"""The words of a PDF page with their places, from the characters that PDFium finds.

PDFium parses, decrypts, knows the fonts and says for each character what it is and where it stands. It also reads
/ActualText, and turns right-to-left runs into logical order; here they are put back into the order of drawing, so that
`lines` can find the order of whole lines in which columns and cells agree.

Coordinates: points; `Word.turn` tells by how many quarter turns (counter-clockwise) the text stands, with /Rotate taken
into account, and x, y are given in that turned frame, in which the word reads upright.
"""

import ctypes
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pypdfium2
import pypdfium2.raw as c

from grit_app.documents.read.clean import is_right_to_left
from grit_app.documents.read.pdf.objects import Drawn, pointer

UNREADABLE = "\ufffd"
_SYMBOLS = {
    0xF0B7: "•",
    0xF0A7: "▪",
    0xF0D8: "➢",
    0xF0FC: "✓",
    0xF0E0: "→",
}  # bullets of the fonts Symbol and Wingdings
MAX_CHARACTERS = 200_000  # on a page; a dense newspaper page has about 40,000
TINY = 1.2  # points; smaller text is there for machines
WIDE_MOVE = 0.6  # em; letters set this far apart are separate words
Rect = tuple[float, float, float, float]
Glyph = tuple[str, float, float, float, float]
"""(characters, left, bottom, right, top), in page space; a space where there is only a gap."""

# The same functions with plain addresses in and out: wrapping a pointer a character would take half of the time.
_unicode = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_void_p, ctypes.c_int)(pointer(c.FPDFText_GetUnicode))
_object = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(pointer(c.FPDFText_GetTextObject))
_box = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(
    pointer(c.FPDFText_GetLooseCharBox)
)
_no_map = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(pointer(c.FPDFText_HasUnicodeMapError))


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
    box: Rect = (0.0, 0.0, 0.0, 0.0)
    """(left, top, right, bottom) as shares of the page as it is shown, 0 … 1."""


@dataclass(slots=True)
class PageWords:
    words: list[Word] = field(default_factory=list)
    picture_share: float = 0.0
    """Largest share of the page that one picture covers, 0 … 1."""
    unreadable: int = 0
    """Glyphs whose font does not say which character they are."""
    hidden: int = 0
    """Characters that no one sees: invisible, white on white, or tiny. They are not among the words."""


@dataclass(slots=True)
class _Run:
    """What one show operator draws."""

    size: float
    quarter: int
    y: float
    characters: dict[int, str]
    """What each code of the font stands for, as far as it was met."""
    is_hidden: bool
    glyphs: list[Glyph] = field(default_factory=list)


class WordReader:
    """Reads the pages of one open document."""

    def __init__(self, document: pypdfium2.PdfDocument) -> None:
        self.document = document
        if document.get_formtype() != c.FORMTYPE_NONE:
            document.init_forms()
        self._characters: dict[int, dict[int, str]] = {}

    def read(self, index: int) -> PageWords:
        """Raises pypdfium2.PdfiumError if the page is damaged."""
        page = self.document[index]
        drawn = Drawn(page, forms=self.document.formenv)
        if drawn.flatten():  # the values of forms and typed notes become part of the page
            page.close()
            page = self.document[index]
            drawn = Drawn(page, drawn.typed)
        text_page = page.get_textpage()
        try:
            return self._read(page, text_page, drawn)
        finally:
            text_page.close()
            page.close()

    def _read(self, page: pypdfium2.PdfPage, text_page: pypdfium2.PdfTextPage, drawn: Drawn) -> PageWords:
        result = PageWords(picture_share=drawn.picture_share)
        runs = self._runs(text_page, drawn)
        turn = page.get_rotation() // 90
        spaced = True
        for run in runs:
            spaced = self._take(run, turn, spaced, drawn, result)
        for text, rect, size in [*drawn.replacements(), *drawn.typed]:
            quarter = turn % 4
            x0, x1, _ = _along(rect, quarter)
            y = _turned(rect[0], rect[1], quarter)[1]
            result.words.append(Word(text, x0, x1, y, size, 0, False, None, drawn.shown(rect)))
        return result

    def _take(self, run: _Run, turn: int, spaced: bool, drawn: Drawn, result: PageWords) -> bool:
        """Adds the words of a run; True if it ends with a space."""
        if run.is_hidden:
            result.hidden += sum(not glyph[0].isspace() for glyph in run.glyphs)
            return True
        if run.quarter < 0:  # slanted: watermarks and figure labels
            return True
        letters = "".join([glyph[0] for glyph in run.glyphs])
        right_to_left = not letters.isascii() and is_right_to_left(letters)
        glyphs = _as_drawn(run) if right_to_left else _measured(run)
        for text, rect, kept, before in _words(glyphs, run, spaced, right_to_left):
            x0, x1, _ = _along(rect, run.quarter)
            box = drawn.shown(rect)
            if box[2] < -0.003 or box[0] > 1.003 or box[3] < -0.003 or box[1] > 1.003:
                continue
            word_turn = (run.quarter - turn) % 4
            result.words.append(Word(text, x0, x1, run.y, run.size, word_turn, before, kept, box))
        result.unreadable += letters.count(UNREADABLE)
        return bool(glyphs) and glyphs[-1][0] == " "

    def _runs(self, text_page: pypdfium2.PdfTextPage, drawn: Drawn) -> list[_Run]:
        runs: dict[int, _Run] = {}
        address = pointer(text_page.raw)
        rect = c.FS_RECTF()
        place = ctypes.addressof(rect)
        last, run, gap, left, right, high = 0, None, False, 0.0, 0.0, 0
        for index, code in enumerate(_codes(text_page)):
            target = _object(address, index)
            if not target:
                gap = gap or code == 32
                continue
            if target != last:
                last, gap, left, right = target, False, math.nan, math.nan
                run = runs.get(target)
                if run is None:
                    run = runs[target] = self._run(text_page, index, target, drawn)
            assert run is not None
            text = run.characters.get(code)
            if text is None:
                text, high = self._character(address, index, code, run.characters, high)
                if not text:
                    continue
            _box(address, index, place)
            glyphs, x0, x1 = run.glyphs, rect.left, rect.right
            if gap:
                gap = False
                if glyphs:
                    glyphs.append(
                        (
                            " ",
                            (glyphs[-1][1] + x0) / 2,
                            (glyphs[-1][2] + rect.bottom) / 2,
                            (glyphs[-1][3] + x1) / 2,
                            (glyphs[-1][4] + rect.top) / 2,
                        )
                    )
            if x0 == left and x1 == right and glyphs[-1][2] == rect.bottom:  # one glyph, several characters
                glyphs[-1] = (glyphs[-1][0] + text, *glyphs[-1][1:])
            else:
                glyphs.append((text, x0, rect.bottom, x1, rect.top))
            left, right = x0, x1
        drawn.seen = set(runs)
        return list(runs.values())

    def _run(self, text_page: pypdfium2.PdfTextPage, index: int, target: int, drawn: Drawn) -> _Run:
        matrix, x, y = c.FS_MATRIX(), ctypes.c_double(), ctypes.c_double()
        c.FPDFText_GetMatrix(text_page, index, matrix)
        c.FPDFText_GetCharOrigin(text_page, index, x, y)
        size = c.FPDFText_GetFontSize(text_page, index)
        sign = math.copysign(1.0, size)  # letters of a negative size stand the other way round
        angle = math.degrees(math.atan2(sign * matrix.b, sign * matrix.a)) / 90
        size = abs(size) * math.hypot(matrix.c, matrix.d)
        quarter = round(angle) % 4 if abs(angle - round(angle)) <= 0.12 else -1
        height = _turned(x.value, y.value, max(quarter, 0))[1]
        text_object = ctypes.cast(target, c.FPDF_PAGEOBJECT)
        font = pointer(c.FPDFTextObj_GetFont(text_object))
        characters = self._characters.setdefault(font, {})
        return _Run(size, quarter, height, characters, drawn.hides(target, text_object, size))

    def _character(self, address: int, index: int, code: int, known: dict[int, str], high: int) -> tuple[str, int]:
        """(the character, the first half of a pair that waits for its second one)."""
        if 0xD800 <= code < 0xDC00:
            return ("", code) if 0xDC00 <= _unicode(address, index + 1) < 0xE000 else (UNREADABLE, 0)
        if 0xDC00 <= code < 0xE000:
            return (chr(0x10000 + ((high - 0xD800) << 10) + code - 0xDC00), 0) if high else (UNREADABLE, 0)
        if code in (2, 0xFFFE):
            text = "-"  # how PDFium marks a hyphen at a line's end
        elif code < 32:
            text = " " if code in (9, 10, 13) else ""
        elif code in _SYMBOLS:
            text = _SYMBOLS[code]
        elif 0xE000 <= code < 0xF900 or _no_map(address, index):
            text = UNREADABLE
        else:
            text = " " if chr(code).isspace() else chr(code)
        known[code] = text
        return text, 0


def _codes(text_page: pypdfium2.PdfTextPage) -> list[int]:
    """What PDFium says that each character is; in one call where its text has one code for each."""
    count = min(text_page.count_chars(), MAX_CHARACTERS)
    buffer = (ctypes.c_ushort * (count + 1))()
    written = c.FPDFText_GetText(text_page, 0, count, buffer)
    codes = list(buffer)[:count]
    if written == count + 1 and not any(0xD800 <= code < 0xE000 for code in codes):
        return codes
    address = pointer(text_page.raw)
    return [_unicode(address, index) for index in range(count)]


def _turned(x: float, y: float, quarter_turns: int) -> tuple[float, float]:
    """The point in a frame turned by so many quarter turns counter-clockwise."""
    for _ in range(quarter_turns % 4):
        x, y = y, -x
    return x, y


def _along(rect: Rect, quarter: int) -> tuple[float, float, float]:
    """(start, end, height) of a rectangle in the direction of reading; `rect` is (left, bottom, right, top)."""
    left, bottom, right, top = rect
    if quarter == 0:
        return left, right, top - bottom
    if quarter == 1:
        return bottom, top, right - left
    return (-right, -left, top - bottom) if quarter == 2 else (-top, -bottom, right - left)


def _measured(run: _Run) -> list[Glyph]:
    """The run's glyphs; those of a Type 3 font with a glyph space of its own, of which PDFium gives no width, as wide
    as to the next one."""
    glyphs, em = run.glyphs, run.size
    if not glyphs or run.quarter or 0.05 * em < glyphs[0][3] - glyphs[0][1] < 3 * em:
        return glyphs
    ends = [min(after[1], glyph[1] + em) for glyph, after in pairwise(glyphs)] + [glyphs[-1][1] + 0.5 * em]
    return [
        (text, left, run.y - 0.2 * em, max(left, end), run.y + 0.8 * em)
        for (text, left, *_), end in zip(glyphs, ends, strict=True)
    ]


def _as_drawn(run: _Run) -> list[Glyph]:
    """The glyphs of a run with right-to-left letters from left to right, brackets as they are drawn.

    PDFium gives right-to-left stretches from right to left, and their brackets mirrored.
    """
    starts = [_along(glyph[1:], run.quarter)[0] for glyph in run.glyphs]
    glyphs = []
    for place, glyph in enumerate(run.glyphs):
        text = glyph[0]
        if len(text) == 1 and unicodedata.mirrored(text):
            beside = place - 1 if place else place + 1
            backwards = beside < len(starts) and (starts[beside] > starts[place]) == (beside < place)
            text = text.translate(_MIRROR) if backwards else text
        glyphs.append((text, *glyph[1:]))
    return [glyphs[place] for place in sorted(range(len(glyphs)), key=starts.__getitem__)]


_MIRROR = str.maketrans("()[]{}<>«»", ")(][}{><»«")


def _words(
    glyphs: list[Glyph], run: _Run, spaced: bool, right_to_left: bool
) -> Iterator[tuple[str, Rect, tuple[str, ...] | None, bool]]:
    """(text, place, its glyphs where asked for, was there a space before it) of each word."""
    back, wide = -0.5 * max(run.size, 0.01), WIDE_MOVE * max(run.size, 0.01)
    # Where a glyph begins and ends in the direction of reading: its fields, and whether they count backwards.
    first, second, sign = ((1, 3, 1), (2, 4, 1), (3, 1, -1), (4, 2, -1))[run.quarter]
    held: list[Glyph] = []
    end = 0.0
    for glyph in glyphs:
        if glyph[0] == " ":
            if held:
                yield _word(held, spaced, right_to_left)
                held = []
            spaced = True
            continue
        if held and not back < sign * float(glyph[first]) - end < wide:
            yield _word(held, spaced, right_to_left)
            held, spaced = [], False
        held.append(glyph)
        end = sign * float(glyph[second])
    if held:
        yield _word(held, spaced, right_to_left)


def _word(held: list[Glyph], spaced: bool, right_to_left: bool) -> tuple[str, Rect, tuple[str, ...] | None, bool]:
    text = "".join([glyph[0] for glyph in held])
    (_, a0, b0, c0, d0), (_, a1, b1, c1, d1) = held[0], held[-1]
    rect = (min(a1, a0), min(b1, b0), max(c1, c0), max(d1, d0))
    return text, rect, tuple(g[0] for g in held) if right_to_left else None, spaced
