"""Which sample comes when: a pure function of (seed, step).

A stream's place is one integer, the step; nothing else needs saving to resume. Rows are counted globally, over all
processes: a process takes its share of a step's rows afterwards, so another number of processes sees the same batches.

    epoch      every row as often as its data set's weight says, in an order of its own
    batch      the rows of one optimizer step, over all processes
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Row = tuple[int, int]
"""(data set, row in it)"""


def row_random(seed: int, stream: str, step: int, row: Row) -> random.Random:
    """The generator of a row's own choices (positive, negatives, layout): the same in every process and worker."""
    return random.Random(f"{seed}/{stream}/{step}/{row[0]}/{row[1]}")


def repeats(size: int, weight: float) -> int:
    """How many rows a data set of `size` gives to one epoch; at least one."""
    return max(1, round(size * weight))


class MixedOrder:
    """Rows of all data sets in one shuffled order an epoch; batches run on across the epochs' borders."""

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], batch_size: int, seed: int) -> None:
        self._sizes, self._seed, self.batch_size = list(sizes), seed, batch_size
        self._counts = [repeats(size, weight) for size, weight in zip(sizes, weights, strict=True)]
        self.epoch_rows = sum(self._counts)
        self._epochs: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> list[Row]:
        """The rows of one step."""
        rows = []
        for number in range(step * self.batch_size, (step + 1) * self.batch_size):
            epoch, place = divmod(number, self.epoch_rows)
            dataset, index = self._epoch(epoch)[place]
            rows.append((int(dataset), int(index)))
        return rows

    def _epoch(self, epoch: int) -> np.ndarray:
        if epoch not in self._epochs:
            pieces = []
            for number, (size, count) in enumerate(zip(self._sizes, self._counts, strict=True)):
                chosen = epoch_rows(size, count, self._seed, number, epoch)
                pieces.append(np.stack([np.full(count, number), chosen], axis=1))
            rows = np.concatenate(pieces)
            order = np.random.default_rng([self._seed, 7, epoch]).permutation(len(rows))
            self._epochs = {k: v for k, v in self._epochs.items() if k >= epoch - 1} | {epoch: rows[order]}
        return self._epochs[epoch]


@dataclass(frozen=True)
class BlockOrder:
    """Every batch comes from one data set, as far as its rows go.

    In each epoch the rows of a data set are shuffled and cut into blocks of one batch. What is left of all data sets
    is put together into mixed blocks. Then the blocks are shuffled. Rows that fill no mixed block are left out of this
    epoch (`dropped` counts them); another epoch leaves out others.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    batch_size: int
    seed: int

    @cached_property
    def counts(self) -> list[int]:
        return [repeats(size, weight) for size, weight in zip(self.sizes, self.weights, strict=True)]

    @cached_property
    def epoch_batches(self) -> int:
        """Batches of one epoch, the same for every epoch."""
        return sum(self.counts) // self.batch_size

    @property
    def dropped(self) -> int:
        """Rows that an epoch leaves out."""
        return sum(self.counts) % self.batch_size

    @cached_property
    def _epochs(self) -> dict[int, list[np.ndarray]]:
        return {}

    def batch(self, step: int) -> list[Row]:
        """The rows of one step."""
        epoch, place = divmod(step, self.epoch_batches)
        if epoch not in self._epochs:
            for old in [key for key in self._epochs if key < epoch - 1]:
                del self._epochs[old]
            self._epochs[epoch] = self._blocks(epoch)
        return [(int(dataset), int(index)) for dataset, index in self._epochs[epoch][place]]

    def _blocks(self, epoch: int) -> list[np.ndarray]:
        blocks, leftovers = [], []
        for number, (size, count) in enumerate(zip(self.sizes, self.counts, strict=True)):
            chosen = epoch_rows(size, count, self.seed, number, epoch)
            rows = np.stack([np.full(count, number), chosen], axis=1)
            whole = count // self.batch_size * self.batch_size
            blocks += list(rows[:whole].reshape(-1, self.batch_size, 2))
            leftovers.append(rows[whole:])
        rest = np.concatenate(leftovers)
        rng = np.random.default_rng([self.seed, 11, epoch])
        rest = rest[rng.permutation(len(rest))]
        whole = len(rest) // self.batch_size * self.batch_size
        blocks += list(rest[:whole].reshape(-1, self.batch_size, 2))
        return [blocks[place] for place in rng.permutation(len(blocks))]


def epoch_rows(size: int, count: int, seed: int, dataset: int, epoch: int) -> np.ndarray:
    """`count` row numbers of a data set in random order: whole passes, then a random part of one."""
    rng = np.random.default_rng([seed, dataset, epoch])
    return np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count]


def share_of(rows: Sequence[Row], rank: int, world_size: int) -> list[Row]:
    """The rows of one process: a contiguous slice; sizes differ by one at most."""
    start, stop = rank * len(rows) // world_size, (rank + 1) * len(rows) // world_size
    return list(rows[start:stop])


class FixedOrder:
    """The same rows in every step."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = list(rows)

    def batch(self, step: int) -> list[Row]:
        """The rows, whatever the step."""
        return self._rows
