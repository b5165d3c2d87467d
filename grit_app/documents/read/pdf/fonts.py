"""What a PDF font says: which characters a byte stands for and how wide its glyph is.

pypdf parses encodings, ToUnicode maps, embedded fonts and widths; here its three known slips are mended (pypdf 7.1):
a named encoding is overruled by the numbering of the embedded font; a character that an unmapped byte stands for is
looked up as if it were a byte; and a ToUnicode map that gives a ligature's last letter alone (`f_i` → i) is believed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pypdf._codecs import charset_encoding
from pypdf._codecs.adobe_glyphs import adobe_glyphs
from pypdf.generic import DictionaryObject, NameObject
from pypdf.generic._font import Font  # the one place that knows encodings and widths; pypdf is pinned

UNREADABLE = "\ufffd"
Glyph = tuple[str, float, bool]  # characters, width in em, is it a one-byte space


@dataclass(slots=True)
class PdfFont:
    """A font as the drawing loop needs it."""

    font: Font
    scale: float
    """Text space units of one glyph space unit."""
    word_gap: float
    """In em: a wider move of the pen inside a string is a space between words."""
    table: list[Glyph] | None
    """For one-byte fonts: the glyph of each byte."""

    @classmethod
    def of(cls, resource: DictionaryObject) -> "PdfFont":
        """Raises ValueError, TypeError, KeyError, AttributeError or IndexError for a damaged font."""
        font = Font.from_font_resource(resource)
        scale = 0.001
        if font.sub_type == "Type3":  # the only kind whose glyph space is its own
            scale = abs(float(resource.get("/FontMatrix", [scale])[0])) or scale
        space = font.space_width * scale if font.space_width else 0.25
        table = _byte_table(font, resource, scale) if isinstance(font.encoding, dict) else None
        return cls(font, scale, min(max(space / 2, 0.09), 0.2), table)

    def glyphs(self, data: bytes) -> Iterator[Glyph]:
        if self.table is not None:
            for byte in data:
                yield self.table[byte]
            return
        try:
            codes = data.decode(str(self.font.encoding), "surrogatepass")
        except (UnicodeDecodeError, LookupError):
            codes = data.decode("utf-16-be", "replace")
        mapped = self.font.character_map
        for code in codes:
            yield str(mapped.get(code, code)), self.font.get_text_width(code) * self.scale, False


def _byte_table(font: Font, resource: DictionaryObject, scale: float) -> list[Glyph]:
    assert isinstance(font.encoding, dict)
    declared = _declared_encoding(resource)
    mapped: dict[Any, Any] = font.character_map if declared is None else declared
    ligatures = _ligatures(resource)
    table = []
    for byte in range(256):
        raw = chr(byte)
        key = raw if declared is None else byte
        text = str(mapped.get(key, font.encoding.get(byte, raw))) if font.interpretable else UNREADABLE
        ligature = ligatures.get(byte, "")
        if len(ligature) > len(text.strip()) and ligature.endswith(text.strip()):
            text = ligature
        table.append((text, font.get_text_width(raw) * scale, byte == 32))
    return table


def _declared_encoding(resource: DictionaryObject) -> dict[int, str] | None:
    """What bytes mean, if the dictionary itself settles it so that the embedded font's numbering must not."""
    encoding = resource.get("/Encoding")
    encoding = encoding.get_object() if encoding is not None else None
    name = encoding.get("/BaseEncoding") if isinstance(encoding, DictionaryObject) else encoding
    if "/ToUnicode" in resource or name not in charset_encoding:
        return None
    declared = dict(enumerate(charset_encoding[str(name)]))
    for code, glyph in _differences(encoding):
        declared[code] = adobe_glyphs.get(f"/{glyph}", declared.get(code, ""))
    return declared


def _ligatures(resource: DictionaryObject) -> dict[int, str]:
    """Bytes whose glyph name lists its letters, as in f_f_i. Source: Adobe Glyph List specification, section 2."""
    encoding = resource.get("/Encoding")
    found = {}
    for code, glyph in _differences(encoding.get_object() if encoding is not None else None):
        parts = glyph.partition(".")[0].split("_")
        letters = [adobe_glyphs.get(f"/{part}", "") for part in parts]
        if len(parts) > 1 and all(letters):
            found[code] = "".join(letters)
    return found


def _differences(encoding: Any) -> Iterator[tuple[int, str]]:
    """(byte, glyph name) of each entry of an encoding's /Differences."""
    differences = encoding.get("/Differences") if isinstance(encoding, DictionaryObject) else None
    code = 0
    for item in differences.get_object() if differences is not None else ():
        if isinstance(item, NameObject):
            yield code, str(item)[1:]
            code += 1
        elif isinstance(item, int):
            code = int(item)
