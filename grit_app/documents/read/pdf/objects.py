"""What is drawn on a page besides its characters: pictures, marks, layers, notes, and what hides text."""

import ctypes
from collections.abc import Iterator
from typing import Any

import pypdfium2
import pypdfium2.raw as c

Rect = tuple[float, float, float, float]
MAX_OBJECTS = 200_000
MAX_DEPTH = 8
HIDDEN_LAYER = "GritHidden"  # see mended.py
TINY = 1.2  # points; smaller text is there for machines
PICTURE_BEHIND = 0.3  # of the page: invisible text over such a picture is what text recognition found in it
_TYPED = (c.FPDF_ANNOT_FREETEXT, c.FPDF_ANNOT_WIDGET, c.FPDF_ANNOT_STAMP)
_HIDDEN_FLAGS = c.FPDF_ANNOT_FLAG_HIDDEN | c.FPDF_ANNOT_FLAG_NOVIEW
_PASSWORD = 1 << 13  # of a text field's flags
MAX_OPTIONS = 1_000
MAX_CLIPS, MAX_SEGMENTS = 20, 200  # looked at, of one text
_INVISIBLE = (3, 7)  # text rendering modes
_SCALE = 1_000_000


def pointer(value: Any) -> int:
    """The address that a ctypes pointer or function holds; 0: none."""
    return ctypes.cast(value, ctypes.c_void_p).value or 0


class Drawn:
    """The objects of one page.

    typed   (text, place, size) of notes and form values that have no drawing of their own; found if not given
    forms   the document's form, which knows the values that fields inherit
    """

    def __init__(
        self, page: pypdfium2.PdfPage, typed: list[tuple[str, Rect, float]] | None = None, forms: Any = None
    ) -> None:
        self.page = page
        self._forms = forms
        self.seen: set[int] = set()
        self.hidden: set[int] = set()
        self.picture_share = 0.0
        self._replaced: list[tuple[int, str]] = []
        self._covers: list[Rect] = []
        self._place = _placing(page)
        self._must_flatten = False
        self.typed = typed if typed is not None else list(self._notes())
        self._left = MAX_OBJECTS
        for item in self._objects(page.raw, c.FPDFPage_CountObjects, c.FPDFPage_GetObject):
            self._look(item, False, 0)

    def shown(self, rect: Rect) -> Rect:
        """(left, top, right, bottom) of a rectangle in page space as shares of the page as it is shown."""
        (x0, y0), (x1, y1) = self._place(rect[0], rect[1]), self._place(rect[2], rect[3])
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)

    def flatten(self) -> bool:
        """Makes notes and form values part of the page's drawing; True if the page must be opened again."""
        if not self._must_flatten:
            return False
        return bool(c.FPDFPage_Flatten(self.page, c.FLAT_NORMALDISPLAY) == c.FLATTEN_SUCCESS)

    def hides(self, target: int, text_object: Any, size: float) -> bool:
        """True if no one sees this text: a layer switched off, no ink, white on white, or tiny."""
        if target in self.hidden:
            return True
        if self.picture_share >= PICTURE_BEHIND:
            return False
        if c.FPDFTextObj_GetTextRenderMode(text_object) in _INVISIBLE or size < TINY or _is_clipped(text_object):
            return True
        colour = [ctypes.c_uint() for _ in range(4)]
        if not c.FPDFPageObj_GetFillColor(text_object, *colour):
            return False
        red, green, blue, alpha = (part.value for part in colour)
        if alpha == 0:
            return True
        return min(red, green, blue) >= 252 and not self._is_covered(_bounds(text_object))

    def replacements(self) -> Iterator[tuple[str, Rect, float]]:
        """Replacement texts of glyphs so small that PDFium leaves them out: (text, place, size)."""
        for target, text in self._replaced:
            if target in self.seen:
                continue
            item = ctypes.cast(target, c.FPDF_PAGEOBJECT)
            matrix, size = c.FS_MATRIX(), ctypes.c_float()
            c.FPDFPageObj_GetMatrix(item, matrix)
            c.FPDFTextObj_GetFontSize(item, size)
            em = abs(size.value * (matrix.d or 1.0))
            left, _, right, _ = _bounds(item)
            yield text, (left, matrix.f, max(right, left + 0.2 * em * len(text)), matrix.f + em), em

    # ------------------------------------------------------------ objects

    def _objects(self, holder: Any, count: Any, get: Any) -> Iterator[Any]:
        for number in range(max(0, count(holder))):
            self._left -= 1
            if self._left < 0:
                return
            yield get(holder, number)

    def _look(self, item: Any, is_hidden: bool, depth: int) -> None:
        kind = c.FPDFPageObj_GetType(item)
        marks = c.FPDFPageObj_CountMarks(item)
        if marks > 0:
            is_hidden = self._marks(item, marks, kind) or is_hidden
        if kind == c.FPDF_PAGEOBJ_TEXT:
            if is_hidden:
                self.hidden.add(pointer(item))
        elif kind == c.FPDF_PAGEOBJ_FORM:
            if depth < MAX_DEPTH:
                for inner in self._objects(item, c.FPDFFormObj_CountObjects, c.FPDFFormObj_GetObject):
                    self._look(inner, is_hidden, depth + 1)
        elif kind == c.FPDF_PAGEOBJ_IMAGE:
            rect = _bounds(item)
            left, top, right, bottom = self.shown(rect)
            share = max(0.0, min(1.0, right) - max(0.0, left)) * max(0.0, min(1.0, bottom) - max(0.0, top))
            self.picture_share = max(self.picture_share, share)
            self._covers.append(rect)
        elif len(self._covers) < 2_000:
            self._covers.append(_bounds(item))

    def _marks(self, item: Any, count: int, kind: int) -> bool:
        """True if a mark says that the object is not part of what people read."""
        hidden = False
        for number in range(count):
            mark = c.FPDFPageObj_GetMark(item, number)
            name = _string(lambda *to, mark=mark: c.FPDFPageObjMark_GetName(mark, *to))
            if name == "OC":
                value = ctypes.c_int()
                hidden |= bool(c.FPDFPageObjMark_GetParamIntValue(mark, HIDDEN_LAYER.encode(), value))
            elif name == "Artifact":
                # Headers and footers say which they are; other artifacts may be lines of text all the same.
                hidden |= any(_has(mark, key) for key in (b"Subtype", b"Attached"))
            elif kind == c.FPDF_PAGEOBJ_TEXT and _has(mark, b"ActualText"):
                text = _replacement(mark)
                if text.strip():
                    self._replaced.append((pointer(item), text))
        return hidden

    def _is_covered(self, rect: Rect) -> bool:
        """True if something is drawn where the text stands, on which white letters may show."""
        x, y = (rect[0] + rect[2]) / 2, (rect[1] + rect[3]) / 2
        return any(left <= x <= right and bottom <= y <= top for left, bottom, right, top in self._covers)

    # ------------------------------------------------------------ notes and forms

    def _notes(self) -> Iterator[tuple[str, Rect, float]]:
        for number in range(c.FPDFPage_GetAnnotCount(self.page)):
            note = c.FPDFPage_GetAnnot(self.page, number)
            if not note:
                continue
            if c.FPDFAnnot_GetSubtype(note) in _TYPED and not c.FPDFAnnot_GetFlags(note) & _HIDDEN_FLAGS:
                value = _value(self._forms, note)
                if c.FPDFAnnot_HasKey(note, b"AP") and not (value and _draws_nothing(note)):
                    self._must_flatten = True
                else:
                    yield from _typed(note, value)
            c.FPDFPage_CloseAnnot(note)


def _value(forms: Any, note: Any) -> str:
    """What was typed into a field, or as a note; empty for fields that are pressed or that hide it."""
    if c.FPDFAnnot_GetSubtype(note) != c.FPDF_ANNOT_WIDGET:
        return _string(lambda *to: c.FPDFAnnot_GetStringValue(note, b"Contents", *to), counts=True)
    kind = c.FPDFAnnot_GetFormFieldType(forms, note) if forms else c.FPDF_FORMFIELD_TEXTFIELD
    if kind == c.FPDF_FORMFIELD_TEXTFIELD:
        if forms and c.FPDFAnnot_GetFormFieldFlags(forms, note) & _PASSWORD:
            return ""
    elif kind not in (c.FPDF_FORMFIELD_COMBOBOX, c.FPDF_FORMFIELD_LISTBOX):
        return ""
    chosen = (
        [
            _string(lambda *to, at=at: c.FPDFAnnot_GetOptionLabel(forms, note, at, *to), counts=True)
            for at in range(min(MAX_OPTIONS, max(0, c.FPDFAnnot_GetOptionCount(forms, note))))
            if c.FPDFAnnot_IsOptionSelected(forms, note, at)
        ]
        if forms
        else []
    )
    if chosen:
        return "\n".join(chosen)
    if forms:
        return _string(lambda *to: c.FPDFAnnot_GetFormFieldValue(forms, note, *to), counts=True)
    return _string(lambda *to: c.FPDFAnnot_GetStringValue(note, b"V", *to), counts=True)


def _draws_nothing(note: Any) -> bool:
    """True if a field's own drawing is empty: the program that filled it left that to the viewer."""
    if c.FPDFAnnot_GetSubtype(note) != c.FPDF_ANNOT_WIDGET:
        return False
    drawing = _string(lambda *to: c.FPDFAnnot_GetAP(note, c.FPDF_ANNOT_APPEARANCEMODE_NORMAL, *to), counts=True)
    return "Tj" not in drawing and "TJ" not in drawing and "Do" not in drawing


def _typed(note: Any, text: str) -> Iterator[tuple[str, Rect, float]]:
    """The lines of a note or of a form's value, spread from the top of its place."""
    rect = c.FS_RECTF()
    c.FPDFAnnot_GetRect(note, rect)
    low, high = sorted((rect.bottom, rect.top))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    step = (high - low) / max(1, len(lines))
    size = min(10.0, 0.8 * step)
    for number, line in enumerate(lines):
        bottom = high - step * number - (step + size) / 2 + 0.2 * size
        yield line, (rect.left, bottom, max(rect.left + 1, rect.right), bottom + size), size


def _placing(page: pypdfium2.PdfPage) -> Any:
    """The function from page space to shares of the page as it is shown."""

    def at(x: float, y: float) -> tuple[float, float]:
        px, py = ctypes.c_int(), ctypes.c_int()
        c.FPDF_PageToDevice(page, 0, 0, _SCALE, _SCALE, 0, x, y, px, py)
        return px.value / _SCALE, py.value / _SCALE

    (ox, oy), (ax, ay), (bx, by) = at(0, 0), at(100, 0), at(0, 100)
    ax, ay, bx, by = (ax - ox) / 100, (ay - oy) / 100, (bx - ox) / 100, (by - oy) / 100
    return lambda x, y: (ox + ax * x + bx * y, oy + ay * x + by * y)


def _bounds(item: Any) -> Rect:
    left, bottom, right, top = (ctypes.c_float() for _ in range(4))
    c.FPDFPageObj_GetBounds(item, left, bottom, right, top)
    return left.value, bottom.value, right.value, top.value


def _is_clipped(text_object: Any) -> bool:
    """True if the middle of a text lies outside what its page lets through there, as in a picture that was cropped."""
    clip = c.FPDFPageObj_GetClipPath(text_object)
    if not clip:
        return False
    left, bottom, right, top = _bounds(text_object)
    at = (left + right) / 2, (bottom + top) / 2
    x, y = ctypes.c_float(), ctypes.c_float()
    for path in range(min(MAX_CLIPS, c.FPDFClipPath_CountPaths(clip))):
        xs, ys = [], []
        for number in range(min(MAX_SEGMENTS, c.FPDFClipPath_CountPathSegments(clip, path))):
            if c.FPDFPathSegment_GetPoint(c.FPDFClipPath_GetPathSegment(clip, path, number), x, y):
                xs.append(x.value)
                ys.append(y.value)
        if xs and not (min(xs) - 1 <= at[0] <= max(xs) + 1 and min(ys) - 1 <= at[1] <= max(ys) + 1):
            return True
    return False


def _has(mark: Any, key: bytes) -> bool:
    return bool(c.FPDFPageObjMark_GetParamValueType(mark, key) != c.FPDF_OBJECT_UNKNOWN)


def _replacement(mark: Any) -> str:
    """The /ActualText of a mark, which is UTF-16 with a mark of its own or PDFDocEncoding."""
    buffer, length = ctypes.create_string_buffer(4096), ctypes.c_ulong()
    place = ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ubyte))
    if not c.FPDFPageObjMark_GetParamBlobValue(mark, b"ActualText", place, len(buffer), length):
        return ""
    data = buffer.raw[: min(length.value, len(buffer))]
    return data[2:].decode("utf-16-be", "ignore") if data.startswith(b"\xfe\xff") else data.decode("cp1252", "ignore")


def _string(get: Any, counts: bool = False) -> str:
    """A string of PDFium, which is UTF-16 and ends in a zero; `counts`: `get` returns its length."""
    buffer = ctypes.create_string_buffer(65_536)
    place = ctypes.cast(buffer, ctypes.POINTER(c.FPDF_WCHAR))
    if counts:
        length = get(place, len(buffer))
    else:
        number = ctypes.c_ulong()
        get(place, len(buffer), number)
        length = number.value
    return buffer.raw[: max(0, min(length, len(buffer)) - 2)].decode("utf-16-le", "replace")
