"""All sequences of a forward in one row without padding, for kernels that take sequences of any length.

    row    [ bidirectional blocks and texts | causal blocks, tails and plain causal samples ]
             each reads itself                each reads itself; a tail also its blocks' visible columns, put before it

Positions are the layouts' own, so the order in the row is free. Attention is called once for either half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from training.data.chunk import Chunk, EmbedItem, Labels, Pooling, Segments, Span, Stream, WriteItem


@dataclass
class _Half:
    """Sequences of one kind, one after the other; places count from the half's own start."""

    is_causal: bool
    ids: list[np.ndarray] = field(default_factory=list)
    positions: list[np.ndarray] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    reads: list[list[tuple[int, int, bool]]] = field(default_factory=list)
    """For each sequence the ranges that it reads before itself: (start, stop, whether in the causal half)."""
    length: int = 0

    def add(self, ids: Sequence[int], position: int, sample: int) -> int:
        """Puts a sequence behind the others; gives its place."""
        place = self.length
        self.ids.append(np.asarray(ids, dtype=np.int64))
        self.positions.append(np.arange(position, position + len(ids)))
        self.samples.append(sample)
        self.reads.append([])
        self.length += len(ids)
        return place

    def segments(self, start: int, causal_start: int) -> Segments:
        lengths = [len(ids) for ids in self.ids]
        key_lengths, keys = lengths, None
        if any(self.reads):
            pieces, place = [], start
            for length, ranges in zip(lengths, self.reads, strict=True):
                shifted = [(a + causal_start * late, b + causal_start * late) for a, b, late in ranges]
                pieces.append(np.concatenate([np.arange(a, b) for a, b in (*shifted, (place, place + length))]))
                place += length
            key_lengths = [len(piece) for piece in pieces]
            keys = torch.from_numpy(np.concatenate(pieces))
        return Segments(
            start,
            start + self.length,
            _ends(lengths),
            _ends(key_lengths),
            max(lengths),
            max(key_lengths),
            self.is_causal,
            keys,
        )


def _ends(lengths: Sequence[int]) -> torch.Tensor:
    return torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32))


def packed_chunk(
    items: Sequence[EmbedItem | WriteItem], stream: Stream, *, pooling: str, embedding_is_causal: bool
) -> Chunk:
    """One row that holds all items: texts to embed, plain causal samples, and layouts with their blocks."""
    full, causal = _Half(False), _Half(True)
    labels = Labels()
    tails: list[tuple[WriteItem, int]] = []
    pooled: list[tuple[int, int, int, bool, int]] = []  # start, start of the sample, stop, in the causal half, vector
    for item in items:
        if isinstance(item, EmbedItem):
            half = causal if embedding_is_causal else full
            place = half.add(item.ids, 0, -1)
            pooled.append((place, place + item.header_length, place + len(item), embedding_is_causal, item.number))
        else:
            tails.append((item, _add_layout(item, full, causal, pooled)))
    for item, place in tails:
        labels.add(item, full.length + place)
    pooled.sort(key=lambda span: span[-1])
    spans: list[Span] = []
    for start, sample, stop, late, _ in pooled:
        shift = full.length * late
        spans.append((0, start + shift, sample + shift, stop + shift))
    halves = [half for half in (full, causal) if half.length]
    row = np.concatenate([ids for half in halves for ids in half.ids])
    teachers = [item.teacher for item, _ in tails if item.teacher is not None]
    return Chunk(
        stream,
        torch.from_numpy(row)[None],
        is_causal=True,
        tokens=len(row),
        position_ids=torch.from_numpy(np.concatenate([p for half in halves for p in half.positions]))[None],
        segments=[half.segments(full.length if half is causal else 0, full.length) for half in halves],
        spans=spans,
        vectors=[number for *_, number in pooled],
        pooling=Pooling.of(spans, len(row), pooling) if spans else None,
        samples=_samples(halves),
        teacher=packed_chunk(teachers, stream, pooling=pooling, embedding_is_causal=False) if teachers else None,
        **(labels.tensors() if tails else {}),
    )


def _add_layout(item: WriteItem, full: _Half, causal: _Half, pooled: list[tuple[int, int, int, bool, int]]) -> int:
    """Adds blocks and tail; gives the tail's place in the causal half."""
    layout, reads = item.layout, []
    vectors = iter(item.vectors)
    shown = zip(layout.blocks, layout.block_starts(), layout.block_shifts(), layout.visible_spans(), strict=True)
    for block, block_start, shift, (start, stop) in shown:
        is_causal = block.attention == "causal"
        place = (causal if is_causal else full).add(block.ids, shift, item.sample)
        reads.append((place + start - block_start, place + stop - block_start, is_causal))
        if item.vectors and not is_causal:
            pooled.append((place, place + block.header_length, place + len(block), False, next(vectors)))
    place = causal.add(layout.tail, layout.tail_position, item.sample)
    causal.reads[-1] = reads
    return place


def _samples(halves: Sequence[_Half]) -> torch.Tensor:
    pieces = [np.full(len(ids), s) for half in halves for ids, s in zip(half.ids, half.samples, strict=True)]
    return torch.from_numpy(np.concatenate(pieces))[None]
