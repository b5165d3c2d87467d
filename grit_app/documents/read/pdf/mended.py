"""A copy of a PDF in which two things are said that PDFium would not find: hidden layers, and letters of ligatures.

PDFium reads the text of layers that are switched off, and does not say which are. In the copy each of them carries a
mark of our own, and drawings and notes that are wholly hidden are empty. And some fonts map a ligature to its last
letter alone (the glyph `f_i` to i): in the copy their maps say what the glyph's name says.
Source: ISO 32000-2, 8.11 (optional content), 9.10.3 (ToUnicode); Adobe Glyph List specification, section 2.
"""

import io
import logging
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pypdf import PdfReader, PdfWriter
from pypdf.generic import DictionaryObject, NameObject, NumberObject, StreamObject

from grit_app.documents.read.pdf.objects import HIDDEN_LAYER

_MOST_OBJECTS = 200_000
_SUSPECT = (b"/OCProperties", b"/ObjStm", b"/Differences")
_MAPPED = re.compile(
    rb"<([0-9a-fA-F]{2})>\s*(<\1>\s*)?<([0-9a-fA-F]{4})>"
)  # a code, perhaps as a range, and its letter


def mended(path: Path, password: str | None) -> bytes | None:
    """The copy; None where the file needs none, or makes so little sense that none can be made."""
    data = path.read_bytes()
    if not any(word in data for word in _SUSPECT):
        return None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted:
            reader.decrypt(password or "")
        if not _off(reader.root_object) and not any(True for _ in _wrong_maps(reader)):
            return None
        return _copy(reader)
    except Exception:  # pypdf meets arbitrary bytes and raises whatever; the file is then read as PDFium has it
        logging.getLogger(__name__).debug("%s could not be mended", path, exc_info=True)
        return None


def _copy(reader: PdfReader) -> bytes:
    writer = PdfWriter(clone_from=reader)
    off = _off(writer.root_object)
    if off:
        _mark_layers(writer, off)
    for font, stream in list(_wrong_maps(writer)):
        font["/ToUnicode"].get_object().set_data(stream)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


# ---------------------------------------------------------------- layers


def _off(root: Any) -> set[int]:
    """Object numbers of the groups that are off when the document is opened."""
    properties = root.get("/OCProperties")
    if properties is None:
        return set()
    properties = properties.get_object()
    default = properties.get("/D", {}).get_object()
    off = {reference.idnum for reference in default.get("/OFF", [])}
    if default.get("/BaseState") == "/OFF":
        on = {reference.idnum for reference in default.get("/ON", [])}
        off |= {reference.idnum for reference in properties.get("/OCGs", [])} - on
    return off


def _mark_layers(writer: PdfWriter, off: set[int]) -> None:
    objects = [writer.get_object(number) for number in range(1, _MOST_OBJECTS) if _exists(writer, number)]
    for item in objects:
        if isinstance(item, DictionaryObject) and item.get("/Type") in ("/OCG", "/OCMD") and _is_off(item, off):
            item[NameObject(f"/{HIDDEN_LAYER}")] = NumberObject(1)
    for item in objects:
        if not isinstance(item, DictionaryObject) or "/OC" not in item or not _is_off(item["/OC"].get_object(), off):
            continue
        if isinstance(item, StreamObject) and item.get("/Subtype") == "/Form":
            item.set_data(b"")
        elif "/Rect" in item:
            item[NameObject("/F")] = NumberObject(2)  # a hidden note


def _exists(writer: PdfWriter, number: int) -> bool:
    try:
        return writer.get_object(number) is not None
    except (ValueError, IndexError):
        return False


def _is_off(item: Any, off: set[int]) -> bool:
    """True if a group, or a membership of groups, is not shown."""
    if item.get("/Type") != "/OCMD":
        return _number(item) in off
    groups = item.get("/OCGs", [])
    states = [_number(group) in off for group in (groups if isinstance(groups, list) else [groups])]
    hidden = {"/AllOn": any(states), "/AnyOff": not any(states), "/AllOff": not all(states)}
    return bool(states) and hidden.get(item.get("/P", "/AnyOn"), all(states))


def _number(item: Any) -> int:
    reference = getattr(item, "indirect_reference", None) or item
    return int(getattr(reference, "idnum", -1))


# ---------------------------------------------------------------- ligatures


def _wrong_maps(document: PdfReader | PdfWriter) -> Iterator[tuple[Any, bytes]]:
    """(font, its map with the ligatures whole) of each font whose map names a ligature's last letter alone."""
    seen: set[int] = set()
    for page in document.pages:
        resources = page.get("/Resources")
        fonts = resources.get_object().get("/Font") if resources is not None else None
        for reference in (fonts.get_object() if fonts is not None else {}).values():
            font = reference.get_object()
            if _number(font) in seen or not isinstance(font, DictionaryObject):
                continue
            seen.add(_number(font))
            names = _ligatures(font.get("/Encoding"))
            if names and "/ToUnicode" in font:
                stream: Any = font["/ToUnicode"].get_object()
                before: bytes = stream.get_data()
                after = _MAPPED.sub(partial(_whole, names=names), before)
                if after != before:
                    yield font, after


def _ligatures(encoding: Any) -> dict[int, str]:
    """Bytes whose glyph name lists its letters, as in f_f_i."""
    encoding = encoding.get_object() if encoding is not None else None
    found, code = {}, 0
    for item in encoding.get("/Differences", []) if isinstance(encoding, DictionaryObject) else []:
        if isinstance(item, NameObject):
            parts = str(item)[1:].partition(".")[0].split("_")
            if len(parts) > 1 and all(len(part) == 1 for part in parts):
                found[code] = "".join(parts)
            code += 1
        elif isinstance(item, int):
            code = int(item)
    return found


def _whole(found: re.Match[bytes], names: dict[int, str]) -> bytes:
    letters = names.get(int(found[1], 16), "")
    if not letters or chr(int(found[3], 16)) != letters[-1]:
        return found[0]
    return b"<%s> %s<%s>" % (found[1], found[2] or b"", letters.encode("utf-16-be").hex().encode())
