"""From the words of a page to stretches of one baseline without a wide gap.

Words drawn twice count once; raised figures join the word they stand on, as superscripts.
"""

import bisect
from collections import Counter
from dataclasses import dataclass
from statistics import median

from grit_app.documents.read.clean import logical_order, normalise, raised
from grit_app.documents.read.pdf.glyphs import Rect, Word

CELL_GAP = 1.0  # em; spaces in justified prose stay below, column gutters and table gaps above
WORD_GAP = 0.13  # em
MOST_ALIKE = 200  # equal words before it that a word is compared with

Piece = tuple[str, Rect]
"""A word of a line's text and its place on the page as it is shown."""


@dataclass(slots=True)
class Segment:
    """Words on one baseline without a wide gap."""

    text: str
    x0: float
    x1: float
    y: float
    size: float
    words: list[Piece]


def make_segments(words: list[Word]) -> list[Segment]:
    """Segments from top to bottom, left to right."""
    words = _without_doubles([w for w in words if w.size > 0])
    _lift_figures(words)
    segments: list[Segment] = []
    for group in _by_baseline(words):
        current: list[Word] = []
        for word in sorted(group, key=lambda w: (w.x0, w.x1)):
            if current and not _fits(current, word):
                segments.append(_segment(current))
                current = []
            current.append(word)
        segments.append(_segment(current))
    return [s for s in segments if s.text]


def _without_doubles(words: list[Word]) -> list[Word]:
    """Words drawn twice on nearly the same spot (imitated bold, shadows) once."""
    # Most words of a page stand alone: only those whose text comes again are compared.
    counts = Counter([w.text for w in words])
    seen: dict[str, list[Word]] = {}
    kept = []
    for word in words:
        if counts[word.text] > 1:
            step = max(1.0, 0.2 * word.size)
            others = seen.setdefault(word.text, [])
            if any(abs(o.x0 - word.x0) < step and abs(o.y - word.y) < step for o in others[-MOST_ALIKE:]):
                continue
            others.append(word)
        kept.append(word)
    return kept


def _lift_figures(words: list[Word]) -> None:
    """Puts small words that hang on a larger one onto its baseline: note marks, exponents, ordinals, indices."""
    ends = sorted(words, key=lambda w: w.x1)
    starts = sorted(words, key=lambda w: w.x0)
    end_places, start_places = [w.x1 for w in ends], [w.x0 for w in starts]
    body = median(w.size for w in words) if words else 0.0
    reach = min(0.4 * max((w.size for w in words), default=0.0), 2 * body)
    for word in words:
        if word.size > 0.9 * body or len(word.text) > 6:
            continue
        after = ends[bisect.bisect_left(end_places, word.x0 - reach) : bisect.bisect(end_places, word.x0 + reach)]
        before = starts[
            bisect.bisect_left(start_places, word.x1 - reach) : bisect.bisect(start_places, word.x1 + reach)
        ]
        base = next((b for b in after if _hangs(word, b, word.x0 - b.x1)), None)
        if base is None:  # a note's own mark, or an affiliation's, stands before its word
            base = next((b for b in before if _hangs(word, b, b.x0 - word.x1)), None)
            if base is None:
                continue
        if word.y - base.y > 0.12 * base.size:
            word.text = raised(word.text)
        word.spaced = word.spaced and word.x1 <= base.x0
        word.y, word.size = base.y, base.size


def _hangs(small: Word, base: Word, gap: float) -> bool:
    rise = abs(small.y - base.y) / base.size
    sign = 0.75 if small.y > base.y else 0.35
    return small.size <= 0.82 * base.size and 0.08 < rise < sign and abs(gap) < 0.3 * base.size


def _by_baseline(words: list[Word]) -> list[list[Word]]:
    groups: list[list[Word]] = []
    for word in sorted(words, key=lambda w: -w.y):
        if groups and groups[-1][0].y - word.y <= 0.22 * min(groups[-1][0].size, word.size):
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def _fits(current: list[Word], word: Word) -> bool:
    last = current[-1]
    em = max(min(last.size, word.size), 0.5 * max(last.size, word.size))
    gap = word.x0 - max(w.x1 for w in current[-3:])
    return -0.8 * em < gap < CELL_GAP * em


def _segment(words: list[Word]) -> Segment:
    glyphs: list[str] = []
    plain = all(w.glyphs is None for w in words)
    for before, word in zip([None, *words], words, strict=False):
        if before and _is_apart(before, word):
            glyphs.append(" ")
        glyphs += word.glyphs or ([word.text] if plain else word.text)
    text = "".join(glyphs) if plain else logical_order(glyphs)
    tokens = normalise(text).split()
    pieces = _pieces(words, tokens)
    return Segment(" ".join(tokens), words[0].x0, max(w.x1 for w in words), words[0].y, _main_size(words), pieces)


def _is_apart(before: Word, word: Word) -> bool:
    gap = word.x0 - before.x1
    return (word.spaced and gap > 0.02 * word.size) or gap > WORD_GAP * min(before.size, word.size)


def _pieces(words: list[Word], tokens: list[str]) -> list[Piece]:
    """The place of each word of a segment's text.

    Words in the order of drawing and of the text differ where a script runs from right to left: there a word is known
    by its letters.
    """
    drawn: list[tuple[str, Rect]] = []
    for before, word in zip([None, *words], words, strict=False):
        if before is not None and not _is_apart(before, word):
            text, rect = drawn[-1]
            drawn[-1] = (text + word.text, _union(rect, word.box))
        else:
            drawn.append((word.text, word.box))
    if len(drawn) == len(tokens) and all(word.glyphs is None for word in words):
        return [(token, rect) for token, (_, rect) in zip(tokens, drawn, strict=True)]
    by_letters: dict[str, list[Rect]] = {}
    for text, rect in reversed(drawn):
        by_letters.setdefault(_letters(normalise(text)), []).append(rect)
    whole = drawn[0][1]
    for _, rect in drawn:
        whole = _union(whole, rect)
    found = []
    for token in tokens:
        rects = by_letters.get(_letters(token))
        found.append((token, rects.pop(0) if rects else whole))
    return found


def _letters(text: str) -> str:
    return "".join(sorted(c for c in text if c.isalnum())) or text


def _union(a: Rect, b: Rect) -> Rect:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _main_size(words: list[Word]) -> float:
    """The size of most letters: a long word in another font does not make a line another paragraph."""
    sizes: Counter[float] = Counter()
    for word in words:
        sizes[round(word.size, 2)] += len(word.text)
    return sizes.most_common(1)[0][0]
