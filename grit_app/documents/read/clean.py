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
_INSIDE_WORDS = set(" \u00a0.,;:'’-–&/")  # between left-to-right words that belong together
_INSIDE_NUMBERS = ("", *"+-.,:/\u00a0")  # separators of UAX 9, classes ES and CS
_WITH_NUMBERS = set("%‰$€£°")
_RTL = re.compile(r"[\u0590-\u08FF\uFB1D-\uFDFF\uFE70-\uFEFF\U00010800-\U00010FFF\U0001E800-\U0001EFFF]")
# TeX's old fonts draw an accent as a sign of its own before the letter.
_ACCENTS = dict(zip("´`¨ˆ˜¯˘˙˚ˇ¸", "\u0301\u0300\u0308\u0302\u0303\u0304\u0306\u0307\u030a\u030c\u0327", strict=True))
_LOOSE_ACCENT = re.compile(f"([{''.join(_ACCENTS)}]) ?([^\\W\\d_])")
_HYPHENS = {0x2010: "-", 0x2011: "-"}  # the typographic one and the one that does not break: people type neither
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half of a character that needs two, which nothing can write
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    if character in _KEPT:
        return character
    tag = unicodedata.decomposition(character).partition(" ")[0]
    return unicodedata.normalize("NFKC", character) if tag in _DRAWN_ONLY else character


def normalise(text: str, *, loose_accents: bool = True) -> str:
    """The text with ligatures, presentation forms, widths and odd spaces made plain, and accents composed (NFC).

    loose_accents   accents drawn before their letters join them, as TeX's old fonts need; in typed text ` is a mark
    """
    text = _SURROGATE.sub("\ufffd", _CONTROL.sub("", text.translate(_INVISIBLE)))
    if text.isascii():
        return text
    text = "".join(map(_plain, text))
    text = (_LOOSE_ACCENT.sub(_attach, text) if loose_accents else text).translate(_HYPHENS)
    return unicodedata.normalize("NFC", text)


def _attach(match: re.Match[str]) -> str:
    composed = unicodedata.normalize("NFC", match[2] + _ACCENTS[match[1]])
    return composed if len(composed) == 1 else match[0]


def is_right_to_left(text: str) -> bool:
    """True if a letter of a right-to-left script is in the text."""
    return _RTL.search(text) is not None


def logical_order(glyphs: Sequence[str]) -> str:
    """The text of one line whose glyphs are given from left to right, in the order in which it is spoken.

    A line counts as right-to-left if at least half of its words are. Its glyphs are reversed, and in it stretches of
    left-to-right words and numbers are turned back; in a left-to-right line only the right-to-left stretches are.
    A glyph that stands for several characters (a ligature) keeps their order.
    Source: the reordering rule L2 of the Unicode bidirectional algorithm (UAX 9), read backwards, with two levels.
    """
    kinds = _kinds(glyphs)
    words = [kind for kind, before in zip(kinds, ["N", *kinds], strict=False) if kind in "RL" and kind != before]
    line_kind = "R" if words and words.count("R") >= words.count("L") else "L"
    backwards = line_kind == "R"
    order = range(len(glyphs) - 1, -1, -1) if backwards else range(len(glyphs))
    items = [(glyphs[i], kinds[i]) for i in order]
    parts: list[str] = []
    i = 0
    while i < len(items):
        glyph, kind = items[i]
        if kind in ("N", line_kind) or (kind == "E" and not backwards):
            parts.append(glyph.translate(_MIRROR) if backwards and len(glyph) == 1 else glyph)
            i += 1
            continue
        end = _stretch_end(items, i, line_kind)
        stretch = [g for g, _ in reversed(items[i:end])]
        parts += stretch if backwards else [g.translate(_MIRROR) if len(g) == 1 else g for g in stretch]
        i = end
    return "".join(parts)


def _kinds(glyphs: Sequence[str]) -> list[str]:
    """For each glyph R: right-to-left letter, L: other letter, E: digit or a sign that goes with one, N: neutral."""
    kinds = []
    for glyph in glyphs:
        if is_right_to_left(glyph):
            kinds.append("R")
        else:
            kinds.append("L" if any(c.isalpha() for c in glyph) else "E" if any(c.isdigit() for c in glyph) else "N")
    for i, glyph in enumerate(glyphs):
        if glyph in _WITH_NUMBERS and "E" in kinds[max(0, i - 1) : i + 2]:
            kinds[i] = "E"
    return kinds


def _stretch_end(items: Sequence[tuple[str, str]], start: int, line_kind: str) -> int:
    """Where the stretch against the line's direction ends that begins at `start`.

    Words run on over spaces and signs between them; numbers only over one sign (2011-2012, 3.5), so that the columns of
    a table keep their order; a number runs on to a word on its left (PIRLS 2011).
    """
    end, i = start + 1, start + 1
    while i < len(items) and items[i][1] != line_kind:
        if items[i][1] != "N":
            between = "".join(glyph for glyph, _ in items[end:i])
            to_number = items[i][1] == "E"
            numbers = to_number and items[end - 1][1] == "E"
            together = between in _INSIDE_NUMBERS if numbers else between == between.strip()
            if not together and (to_number or not set(between) <= _INSIDE_WORDS):
                break
            end = i + 1
        i += 1
    return end


def raised(text: str) -> str:
    """A raised figure as superscript characters (10⁶, a note's ¹²); other raised text as it is (4th)."""
    lifted = text.translate(_SUPERSCRIPTS)
    return lifted if not any(c.isascii() and c.isalnum() for c in lifted) else text


def is_soup(lines: Sequence[str]) -> bool:
    """True if a page's text is mostly no words: what a bad text layer, or a font with a wrong map, gives.

    A word is made of letters with a vowel among them, or of figures, with signs around or single ones inside; letters
    of scripts other than Latin count as they are. Fewer than twenty words say nothing.
    """
    tokens = " ".join(lines).split()
    letters = sum(map(len, tokens))
    return len(tokens) >= 20 and sum(len(t) for t in tokens if not _is_word(t)) > 0.6 * letters


def is_sign_soup(text: str) -> bool:
    """True if a line is a muddle of signs without a letter, as a figure's font without a map gives: )*+6:;<6:;"""
    signs = "".join(text.split())
    others = [c for c in signs if not c.isalnum()]
    return len(signs) >= 6 and len(set(others)) >= 4 and len(others) >= 0.6 * len(signs) and not _LETTER.search(signs)


_LETTER = re.compile(r"[^\W\d_]")
_SHAPE = re.compile(r"[\w%€$£]+([-–—'’./,:&@][\w%€$£]+)*")
_VOWELS = re.compile(r"[aeiouyäöüåæøáéíóúàèìòùâêîôûãõąęőűăıýœ]|[^\x00-\u024f]|\d", re.IGNORECASE)


def _is_word(token: str) -> bool:
    plain = token.strip("()[]{}<>«»\"'“”„‘’.,;:!?…-–—*†‡§%°|/+=•")
    if not plain:
        return len(set(token)) <= 2
    return _SHAPE.fullmatch(plain) is not None and (len(plain) < 5 or _VOWELS.search(plain) is not None)
