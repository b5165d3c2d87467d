"""From token ids to the tensors of one forward.

Sequences are sorted by length and cut into chunks by a token budget, so that a chunk holds almost no padding; their
order is restored afterwards by numbers, since neither loss depends on it. A chunk may pool vectors, predict tokens, or
both:

    embedding     one sample a row, its vector pooled
    causal        one sample a row padded on the right (no mask needed: nobody looks to the right), or several packed
    layout        blocks and a tail under the serving mask: blocks pooled, the answer predicted
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from grit_app.gritlm.layout import Layout

Stream = Literal["contrastive", "generative", "rag"]


@dataclass(frozen=True)
class EmbedItem:
    """A sequence to embed alone. `number` is its vector's place among the stream's vectors."""

    ids: Sequence[int]
    header_length: int
    number: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class WriteItem:
    """A sequence with tokens to predict; a plain causal one is a layout without blocks.

    labels      places in `layout.input_ids()` of the trained tokens; each is predicted from the place before
    sample      local number of the sample
    vectors     numbers of the vectors pooled from the layout's bidirectional blocks, in block order
    """

    layout: Layout
    labels: Sequence[int]
    sample: int
    vectors: Sequence[int] = ()
    teacher: WriteItem | None = None

    def __len__(self) -> int:
        return self.layout.length


@dataclass(frozen=True)
class Chunk:
    """The tensors of one forward. b rows of t tokens, n pooled vectors, m predicted tokens."""

    stream: Stream
    input_ids: Tensor
    """[b, t]"""
    is_causal: bool
    tokens: int
    """Real ones, padding excluded."""
    attention_mask: Tensor | None = None
    """None: no padding that anybody sees. [b, t]: 0 for padding. [b, 1, t, t] bool: True where allowed."""
    position_ids: Tensor | None = None
    spans: list[tuple[int, int, int, int]] = field(default_factory=list)
    """n × (row, start of the block, start of the sample, stop)"""
    vectors: list[int] = field(default_factory=list)
    """n numbers of the vectors in their stream."""
    predictors: Tensor | None = None
    """[m] places in the flattened [b · t] whose state predicts `labels`."""
    labels: Tensor | None = None
    """[m]"""
    label_samples: Tensor | None = None
    """[m] local sample of each label."""
    samples: Tensor | None = None
    """[b, t] local sample of each token, −1 for padding."""
    weights: Tensor | None = None
    """[m] weight of each label in the loss."""
    sample_weights: Tensor | None = None
    """[local samples] weight of each sample's router loss."""
    tail_rows: Tensor | None = None
    """[b, t] bool: tokens that read rounded keys and values of the blocks (`rag.fake_int8`)."""
    rounded_blocks: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(row, first column, last column + 1, shift) of the blocks that they read."""
    teacher: Chunk | None = None
    """The same answers behind the full causal prompt, in the same order of labels."""
    is_dummy: bool = False
    """Runs only because another process has one chunk more."""

    def to(self, device: torch.device) -> Chunk:
        """The same chunk with its tensors on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.device != device
        }
        teacher = self.teacher.to(device) if self.teacher is not None else None
        return replace(self, **moved, teacher=teacher)


PADDING_SHARE = 0.1
PADDING_TOKENS = 128
"""A chunk ends when padding would exceed this share of it and this number of tokens: about what a forward costs by
itself."""


def plan_chunks(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in groups: longest first, each group at most `budget` tokens with padding, or one sequence."""
    groups: list[list[int]] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups:
            longest = lengths[groups[-1][0]]
            area = (len(groups[-1]) + 1) * longest
            padding += longest - lengths[index]
            if area <= budget and padding <= max(PADDING_TOKENS, PADDING_SHARE * area):
                groups[-1].append(index)
                continue
        groups.append([index])
        padding = 0
    return groups


def plan_rows(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices in rows of at most `capacity` tokens: best-fit-decreasing, which leaves little room unused."""
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [row for row in range(len(rows)) if free[row] >= lengths[index]]
        if fitting:
            row = min(fitting, key=lambda r: free[r])
        else:
            row = len(rows)
            rows.append([])
            free.append(max(capacity, lengths[index]))
        rows[row].append(index)
        free[row] -= lengths[index]
    return rows


def embed_chunks(items: Sequence[EmbedItem], *, budget: int, is_causal: bool, stream: Stream) -> list[Chunk]:
    """Chunks that pool one vector a row."""
    return [
        _embed_chunk([items[i] for i in group], is_causal, stream)
        for group in plan_chunks([len(item) for item in items], budget)
    ]


def write_chunks(
    items: Sequence[WriteItem], *, budget: int, stream: Stream, pack_to: int | None = None, fake_int8: bool = False
) -> list[Chunk]:
    """Chunks that predict tokens. Items with blocks and items without never share one: only the former need a mask.

    pack_to   join plain causal items into rows of this many tokens
    """
    causal = [item for item in items if not item.layout.blocks]
    blocked = [item for item in items if item.layout.blocks]
    rows = plan_rows([len(item) for item in causal], pack_to) if pack_to else [[i] for i in range(len(causal))]
    lengths = [sum(len(causal[i]) for i in row) for row in rows]
    chunks = [
        _causal_chunk([[causal[i] for i in rows[r]] for r in group], stream) for group in plan_chunks(lengths, budget)
    ]
    for group in plan_chunks([len(item) for item in blocked], budget):
        chunks.append(_layout_chunk([blocked[i] for i in group], stream, fake_int8))
    return chunks


def _embed_chunk(items: Sequence[EmbedItem], is_causal: bool, stream: Stream) -> Chunk:
    width = max(map(len, items))
    input_ids = torch.zeros(len(items), width, dtype=torch.long)
    for row, item in enumerate(items):
        input_ids[row, : len(item)] = torch.tensor(item.ids)
    mask = None
    # Causal rows never see the padding on their right; without a mask sdpa takes its faster path.
    if not is_causal and min(map(len, items)) < width:
        mask = (torch.arange(width) < torch.tensor([len(item) for item in items])[:, None]).long()
    return Chunk(
        stream,
        input_ids,
        is_causal,
        tokens=sum(map(len, items)),
        attention_mask=mask,
        spans=[(row, 0, item.header_length, len(item)) for row, item in enumerate(items)],
        vectors=[item.number for item in items],
    )


def _causal_chunk(rows: Sequence[Sequence[WriteItem]], stream: Stream) -> Chunk:
    """Rows of one or more causal samples; several in a row restart their positions and do not see each other."""
    width = max(sum(map(len, row)) for row in rows)
    is_packed = any(len(row) > 1 for row in rows)
    input_ids, samples = _filled(rows, width)
    positions = torch.zeros_like(input_ids)
    labels = _Labels(width)
    for number, row in enumerate(rows):
        start = 0
        for item in row:
            positions[number, start : start + len(item)] = torch.arange(len(item))
            labels.add(item, number, start, input_ids)
            start += len(item)
    mask = None
    if is_packed:
        place = torch.arange(width)
        same = samples[:, :, None] == samples[:, None, :]  # padding (−1) sees padding, so no row is empty
        mask = (same & (place[:, None] >= place))[:, None]
    return Chunk(
        stream,
        input_ids,
        is_causal=True,
        tokens=int((samples >= 0).sum()),
        attention_mask=mask,
        position_ids=positions if is_packed else None,
        samples=samples,
        **labels.tensors(),
    )


def _layout_chunk(items: Sequence[WriteItem], stream: Stream, fake_int8: bool) -> Chunk:
    width = max(map(len, items))
    input_ids, samples = _filled([[item] for item in items], width)
    positions = torch.zeros_like(input_ids)
    mask = torch.eye(width, dtype=torch.bool).repeat(len(items), 1, 1)  # padding sees itself: no empty row, no NaN
    tail_rows = torch.zeros_like(input_ids, dtype=torch.bool)
    labels = _Labels(width)
    spans, vectors = [], []
    rounded: list[tuple[int, int, int, int]] = []
    for row, item in enumerate(items):
        length = len(item)
        places = zip(item.layout.block_starts(), item.layout.blocks, item.layout.block_shifts(), strict=True)
        rounded += [(row, start, start + len(block), shift) for start, block, shift in places]
        positions[row, :length] = item.layout.position_ids()
        mask[row, :length, :length] = item.layout.mask()
        tail_rows[row, item.layout.tail_span[0] : length] = True
        labels.add(item, row, 0, input_ids)
        if item.vectors:
            pooled = item.layout.pooled_spans()
            starts = [
                start
                for start, block in zip(item.layout.block_starts(), item.layout.blocks, strict=True)
                if block.attention == "bidirectional"
            ]
            spans += [(row, start, *span) for start, span in zip(starts, pooled, strict=True)]
            vectors += list(item.vectors)
    teachers = [[item.teacher] for item in items if item.teacher is not None]
    return Chunk(
        stream,
        input_ids,
        is_causal=True,
        tokens=int((samples >= 0).sum()),
        attention_mask=mask[:, None],
        position_ids=positions,
        spans=spans,
        vectors=vectors,
        samples=samples,
        tail_rows=tail_rows if fake_int8 else None,
        rounded_blocks=rounded if fake_int8 else [],
        teacher=_causal_chunk(teachers, stream) if teachers else None,
        **labels.tensors(),
    )


def _filled(rows: Sequence[Sequence[WriteItem]], width: int) -> tuple[Tensor, Tensor]:
    """Ids [b, width] filled with 0, and each token's sample, −1 for padding."""
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    samples = torch.full_like(input_ids, -1)
    for number, row in enumerate(rows):
        start = 0
        for item in row:
            input_ids[number, start : start + len(item)] = item.layout.input_ids()
            samples[number, start : start + len(item)] = item.sample
            start += len(item)
    return input_ids, samples


class _Labels:
    """Collects predicted tokens row by row."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._predictors: list[int] = []
        self._labels: list[int] = []
        self._samples: list[int] = []

    def add(self, item: WriteItem, row: int, start: int, input_ids: Tensor) -> None:
        for place in item.labels:
            self._predictors.append(row * self._width + start + place - 1)
        self._labels += input_ids[row, [start + place for place in item.labels]].tolist()
        self._samples += [item.sample] * len(item.labels)

    def tensors(self) -> dict[str, Any]:
        return {
            "predictors": torch.tensor(self._predictors, dtype=torch.long),
            "labels": torch.tensor(self._labels, dtype=torch.long),
            "label_samples": torch.tensor(self._samples, dtype=torch.long),
        }


def dummy_chunk(like: Chunk, stream: Stream, *, predicts: bool, pools: bool) -> Chunk:
    """A forward of one short row that changes no gradient, for a process with fewer chunks than another.

    It takes the same way through the model as the chunk that the other process runs: LM head, pooling, or both.
    """
    width = min(4, like.input_ids.shape[1])
    zero = torch.zeros(1, dtype=torch.long) if predicts else None
    return Chunk(
        stream,
        like.input_ids[:1, :width],
        is_causal=True,
        tokens=0,
        spans=[(0, 0, width - 1, width)] if pools else [],
        vectors=[0] if pools else [],
        predictors=zero,
        labels=zero,
        label_samples=zero,
        weights=torch.zeros(1) if predicts else None,
        is_dummy=True,
    )
