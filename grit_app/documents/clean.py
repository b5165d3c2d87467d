"""Characters and words as people read them: compatibility forms, right-to-left order, raised figures."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# Decompositions that only tell how a character is drawn. Not among them: <super>, <sub> and <fraction>, whose
# decomposition changes what is said (m² is not m2, ½ is not 1/2), and <circle>, <square>, which are signs of their own.
_DRAWN_ONLY = {
    "<compat>",
    "<initial>",
    "<medial>",
    "<final>",
    "<isolated>",
    "<wide>",
    "<narrow>",
    "<noBreak>",
    "<font>",
}
_KEPT = set("…‥µ™ªº´¨¯¸°")
# Zero-width marks, direction marks, byte order mark. (Joiners U+200C and U+200D change meaning in Persian and Hindi.)
_INVISIBLE = dict.fromkeys([0x200B, 0x2060, 0xFEFF, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
_SUPERSCRIPTS = str.maketrans("0123456789+-−()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾ⁿ")
_MIRROR = str.maketrans("()[]{}<>«»", ")(][}{><»«")
_RTL = re.compile(r"[\u0590-\u08FF\uFB1D-\uFDFF\uFE70-\uFEFF\U00010800-\U00010FFF\U0001E800-\U0001EFFF]")
# TeX's old fonts draw an accent as a sign of its own before the letter.
_ACCENTS = dict(zip("´`¨ˆ˜¯˘˙˚ˇ¸", "\u0301\u0300\u0308\u0302\u0303\u0304\u0306\u0307\u030a\u030c\u0327", strict=True))
_LOOSE_ACCENT = re.compile(f"([{''.join(_ACCENTS)}]) ?([^\\W\\d_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    if character in _KEPT:
        return character
    tag = unicodedata.decomposition(character).partition(" ")[0]
    return unicodedata.normalize("NFKC", character) if tag in _DRAWN_ONLY else character


def normalise(text: str) -> str:
    """The text with ligatures, presentation forms, widths and odd spaces made plain, and accents composed (NFC)."""
    text = _CONTROL.sub("", text.translate(_INVISIBLE))
    if text.isascii():
        return text
    text = _LOOSE_ACCENT.sub(_attach, "".join(map(_plain, text)))
    return unicodedata.normalize("NFC", text)


def _attach(match: re.Match[str]) -> str:
    composed = unicodedata.normalize("NFC", match[2] + _ACCENTS[match[1]])
    return composed if len(composed) == 1 else match[0]


def is_right_to_left(text: str) -> bool:
    """True if a letter of a right-to-left script is in the text."""
    return _RTL.search(text) is not None


def logical_order(glyphs: Sequence[str]) -> str:
    """The text of one line whose glyphs are given from left to right, in the order in which it is spoken.

    A line counts as right-to-left if at least half of its letters are. Its glyphs are reversed, and in it the stretches
    of left-to-right words and numbers are turned back; in a left-to-right line only the right-to-left stretches are.
    A glyph that stands for several characters (a ligature) keeps their order.
    Source: the reordering rule L2 of the Unicode bidirectional algorithm (UAX 9), read backwards, with two levels.
    """
    rtl = [is_right_to_left(g) for g in glyphs]
    ltr = [not r and any(c.isalnum() for c in g) for g, r in zip(glyphs, rtl, strict=True)]
    main_rtl = sum(rtl) >= sum(ltr)
    parts: list[str] = []
    i = 0
    strong, other = (ltr, rtl) if main_rtl else (rtl, ltr)
    order = range(len(glyphs) - 1, -1, -1) if main_rtl else range(len(glyphs))
    items = [(glyphs[k], strong[k], other[k]) for k in order]
    while i < len(items):
        if not items[i][1]:
            parts.append(items[i][0].translate(_MIRROR) if main_rtl and len(items[i][0]) == 1 else items[i][0])
            i += 1
            continue
        # A stretch against the line's direction: up to its last strong glyph, neutral ones inside included.
        end = last = i
        while end < len(items) and not items[end][2]:
            if items[end][1]:
                last = end
            end += 1
        stretch = [g for g, _, _ in reversed(items[i : last + 1])]
        parts += [g.translate(_MIRROR) if not main_rtl and len(g) == 1 else g for g in stretch]
        i = last + 1
    return "".join(parts)


def raised(text: str) -> str:
    """A raised figure as superscript characters (10⁶, a note's ¹²); other raised text as it is (4th)."""
    lifted = text.translate(_SUPERSCRIPTS)
    return lifted if not any(c.isascii() and c.isalnum() for c in lifted) else text
