"""Rows of tokens for causal pretraining; which row comes when is a pure function of (seed, step).

Each source is one long array of tokens (documents in random order, each `<s>` … `</s>`), cut into windows. A document
that fits into a window and would be cut by its end begins the next window too, so it is seen whole once: an answer is
never asked for without its passage. The mixture is a cycle of CYCLE rows in which every source has its share; row r of
the run is entry r mod CYCLE of the cycle, and takes the next window of its source in an order shuffled anew each epoch.
So nothing has to be stored to resume, shares are exact, and no window comes twice before all of its source have come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CYCLE = 512


@dataclass(frozen=True)
class TokenSource:
    """The tokens of one source and its share of the rows."""

    name: str
    tokens: np.ndarray
    weight: float


def window_starts(tokens: np.ndarray, length: int, bos_id: int) -> np.ndarray:
    """First tokens of the windows of `length` over a source, in order. Every token is in a window, but for the last
    few; every document of at most `length` tokens stands whole in one."""
    begins = np.flatnonzero(tokens == bos_id)
    ends = np.append(begins[1:], len(tokens))
    starts, place = [], 0
    while place + length <= len(tokens):
        starts.append(place)
        place += length
        document = int(np.searchsorted(begins, place)) - 1  # the one that the window's end may have cut
        if document >= 0 and ends[document] > place and ends[document] - begins[document] <= length:
            place = max(int(begins[document]), starts[-1] + 1)
    return np.array(starts, dtype=np.int64)


class RowOrder:
    """Rows of `length` tokens: `rows(step, batch_rows)` gives an int64 array [batch_rows, length]."""

    def __init__(self, sources: Sequence[TokenSource], length: int, bos_id: int, seed: int) -> None:
        self.sources = [s for s in sources if len(s.tokens) >= length]
        if not self.sources:
            raise ValueError(f"no source holds a row of {length} tokens")
        self.length, self.bos_id, self.seed = length, bos_id, seed
        self._starts = [window_starts(s.tokens, length, bos_id) for s in self.sources]
        self._cycle = self._make_cycle()
        # ordinal of each entry among those of its own source, and how many of a source one cycle holds
        self._counts = np.bincount(self._cycle, minlength=len(self.sources))
        self._ordinal = np.zeros(CYCLE, dtype=np.int64)
        for source in range(len(self.sources)):
            places = np.flatnonzero(self._cycle == source)
            self._ordinal[places] = np.arange(len(places))
        self._permutations: dict[tuple[int, int], np.ndarray] = {}

    def _make_cycle(self) -> np.ndarray:
        weights = np.array([s.weight for s in self.sources])
        exact = weights / weights.sum() * CYCLE
        counts = np.floor(exact).astype(int)
        for source in np.argsort(counts - exact)[: CYCLE - counts.sum()]:  # largest remainders first
            counts[source] += 1
        cycle = np.repeat(np.arange(len(counts)), counts)
        return np.random.default_rng([self.seed, self.length]).permutation(cycle)

    def _window(self, source: int, draw: int) -> int:
        """Where the window begins that the source's `draw`-th row takes."""
        windows = len(self._starts[source])
        epoch, place = divmod(draw, windows)
        key = (source, epoch)
        if key not in self._permutations:
            rng = np.random.default_rng([self.seed, self.length, source, epoch])
            self._permutations = {k: v for k, v in self._permutations.items() if k[0] != source}
            self._permutations[key] = rng.permutation(windows)
        return int(self._starts[source][self._permutations[key][place]])

    def row(self, number: int) -> np.ndarray:
        """Row `number` of the run [length]: `<s>` and then the window without its last token."""
        cycle, entry = divmod(number, CYCLE)
        source = int(self._cycle[entry])
        start = self._window(source, cycle * int(self._counts[source]) + int(self._ordinal[entry]))
        row = self.sources[source].tokens[start : start + self.length].astype(np.int64)
        if row[0] != self.bos_id:  # a window may start inside a document; serving always starts with <s>
            row = np.concatenate([[self.bos_id], row[:-1]])
        return row

    def rows(self, step: int, batch_rows: int) -> np.ndarray:
        return np.stack([self.row(step * batch_rows + i) for i in range(batch_rows)])
