"""Where each word of a document's text stands on its pages: packed, 16 bytes a word.

Positions are shares of the page as it is shown (left 0, top 0, right 1, bottom 1), so they fit a picture of any size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Rect = tuple[float, float, float, float]
"""(left, top, right, bottom), 0 … 1."""

_LAYOUT = np.dtype([("start", "<u4"), ("length", "<u2"), ("page", "<u2"), ("rect", "<u2", 4)])
_MOST = 65_535
# Signs of scripts without spaces: of a "word" of them only the part that is asked for is boxed.
_PART_OF = 12


class Place(NamedTuple):
    """One word: `document.text[start:stop]`, on the page with this index."""

    start: int
    stop: int
    page: int
    rect: Rect


def quantised(rects: Sequence[Rect]) -> bytes:
    """The rectangles as four numbers of two bytes each, 0 … 65,535; what lies outside a page is cut at its edge."""
    return np.rint(_MOST * np.clip(np.nan_to_num(np.array(rects, dtype=np.float64)), 0.0, 1.0)).astype("<u2").tobytes()


def pack(places: Sequence[Place]) -> bytes:
    """The places as bytes, in the order given."""
    if not places:
        return b""
    starts, stops, pages, rects = zip(*places, strict=True)
    return pack_quantised(starts, stops, pages, quantised(rects))


def pack_quantised(starts: Sequence[int], stops: Sequence[int], pages: Sequence[int], rects: bytes) -> bytes:
    """The same from columns, with what `quantised` gave."""
    table = np.zeros(len(starts), dtype=_LAYOUT)
    table["start"] = starts
    table["length"] = np.minimum(_MOST, np.subtract(stops, starts))
    table["page"] = np.minimum(_MOST, pages)
    table["rect"] = np.frombuffer(rects, dtype="<u2").reshape(-1, 4)
    return table.tobytes()


def boxes(packed: bytes, page: int, start: int, stop: int) -> list[Rect]:
    """The places on one page of the words that `text[start:stop]` touches, in the order of the text."""
    table = np.frombuffer(packed, dtype=_LAYOUT)
    begins = table["start"].astype(np.int64)
    ends = begins + table["length"]
    touched = np.flatnonzero((begins < stop) & (ends > start) & (table["page"] == page))
    found = []
    for row in touched[np.argsort(begins[touched], kind="stable")]:
        left, top, right, bottom = (float(share) / _MOST for share in table["rect"][row])
        begin, end = int(begins[row]), int(ends[row])
        if end - begin > _PART_OF and (begin < start or end > stop):
            width = (right - left) / (end - begin)
            left, right = left + width * max(0, start - begin), right - width * max(0, end - stop)
        found.append((left, top, right, bottom))
    return found
