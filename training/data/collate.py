"""From token ids to the tensors of forwards.

Padded rows: sequences are sorted by length and cut into chunks by a token budget, so that a chunk holds little padding.
Packed rows: sequences are dealt out to as few chunks of the budget as hold them. The order is restored afterwards by
numbers, since neither loss depends on it. Kinds of padded chunks:

    embedding     one sample a row, its vector pooled
    causal        one sample a row padded on the right: no mask needed, nobody looks to the right
    layout        blocks and a tail under the serving mask: blocks pooled, the answer predicted
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.data.chunk import Chunk, EmbedItem, Forwards, Labels, Pooling, Span, Stream, WriteItem
from training.data.packed import packed_chunk

PADDING_TOKENS = 128
"""Padding up to this many tokens never ends a chunk: about what a forward costs by itself on a CPU."""


def plan_chunks(lengths: Sequence[int], budget: int, padding_share: float = 0.1) -> list[list[int]]:
    """Indices in groups: longest first, each group at most `budget` tokens with padding, or one sequence."""
    groups: list[list[int]] = []
    padding = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups:
            longest = lengths[groups[-1][0]]
            area = (len(groups[-1]) + 1) * longest
            padding += longest - lengths[index]
            if area <= budget and padding <= max(PADDING_TOKENS, padding_share * area):
                groups[-1].append(index)
                continue
        groups.append([index])
        padding = 0
    return groups


def plan_packed(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in as few groups of at most `budget` tokens as best-fit-decreasing finds; a longer one stands alone.

    Groups are about equally long: the largest decides how much memory a step takes.
    """
    groups: list[list[int]] = []
    held: list[int] = []
    wanted = -(-sum(lengths) // budget)
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [group for group in range(len(groups)) if held[group] + lengths[index] <= budget]
        if len(groups) < wanted or not fitting:
            groups.append([])
            held.append(0)
            fitting = [len(groups) - 1]
        group = min(fitting, key=lambda g: held[g])
        groups[group].append(index)
        held[group] += lengths[index]
    return groups


def embed_chunks(
    items: Sequence[EmbedItem], *, budget: int, is_causal: bool, stream: Stream, forwards: Forwards
) -> list[Chunk]:
    """Chunks that pool one vector a sequence."""
    lengths = [len(item) for item in items]
    if forwards.is_packed:
        return [
            packed_chunk([items[i] for i in group], stream, pooling=forwards.pooling, embedding_is_causal=is_causal)
            for group in plan_packed(lengths, budget)
        ]
    groups = plan_chunks(lengths, budget, forwards.padding_share)
    return [_embed_chunk([items[i] for i in group], is_causal, stream, forwards.pooling) for group in groups]


def write_chunks(items: Sequence[WriteItem], *, budget: int, stream: Stream, forwards: Forwards) -> list[Chunk]:
    """Chunks that predict tokens. In padded rows items with blocks and items without never share one: only the former
    need a mask."""
    if forwards.is_packed:
        return layout_chunks(items, (), budget=budget, is_causal=False, stream=stream, forwards=forwards)
    causal = [item for item in items if not item.layout.blocks]
    chunks = [
        _causal_chunk([causal[i] for i in group], stream)
        for group in plan_chunks([len(item) for item in causal], budget, forwards.padding_share)
    ]
    blocked = [item for item in items if item.layout.blocks]
    return chunks + [
        _layout_chunk([blocked[i] for i in group], stream, forwards.pooling)
        for group in plan_chunks([len(item) for item in blocked], budget, forwards.padding_share)
    ]


def layout_chunks(
    items: Sequence[WriteItem],
    asked: Sequence[EmbedItem],
    *,
    budget: int,
    is_causal: bool,
    stream: Stream,
    forwards: Forwards,
) -> list[Chunk]:
    """Chunks of samples in layouts, and of questions that are embedded by themselves (`is_causal`: with causal
    attention); packed rows hold both together."""
    if not forwards.is_packed:
        chunks = write_chunks(items, budget=budget, stream=stream, forwards=forwards)
        return chunks + embed_chunks(asked, budget=budget, is_causal=is_causal, stream=stream, forwards=forwards)
    everything: list[EmbedItem | WriteItem] = [*items, *asked]
    return [
        packed_chunk([everything[i] for i in group], stream, pooling=forwards.pooling, embedding_is_causal=is_causal)
        for group in plan_packed([len(item) for item in everything], budget)
    ]


def _embed_chunk(items: Sequence[EmbedItem], is_causal: bool, stream: Stream, pooling: str) -> Chunk:
    width = max(map(len, items))
    input_ids = torch.zeros(len(items), width, dtype=torch.long)
    for row, item in enumerate(items):
        input_ids[row, : len(item)] = torch.tensor(item.ids)
    mask = None
    # Causal rows never see the padding on their right; without a mask sdpa takes its faster path.
    if not is_causal and min(map(len, items)) < width:
        mask = (torch.arange(width) < torch.tensor([len(item) for item in items])[:, None]).long()
    spans: list[Span] = [(row, 0, item.header_length, len(item)) for row, item in enumerate(items)]
    return Chunk(
        stream,
        input_ids,
        is_causal,
        tokens=sum(map(len, items)),
        attention_mask=mask,
        spans=spans,
        vectors=[item.number for item in items],
        pooling=Pooling.of(spans, width, pooling),
    )


def _causal_chunk(items: Sequence[WriteItem], stream: Stream) -> Chunk:
    width = max(map(len, items))
    input_ids, samples = _filled(items, width)
    labels = Labels()
    for row, item in enumerate(items):
        labels.add(item, row * width)
    tokens = sum(map(len, items))
    return Chunk(stream, input_ids, is_causal=True, tokens=tokens, samples=samples, **labels.tensors())


def _layout_chunk(items: Sequence[WriteItem], stream: Stream, pooling: str) -> Chunk:
    width = max(map(len, items))
    input_ids, samples = _filled(items, width)
    positions = torch.zeros_like(input_ids)
    mask = torch.eye(width, dtype=torch.bool).repeat(len(items), 1, 1)  # padding sees itself: no empty row, no NaN
    labels = Labels()
    spans: list[Span] = []
    vectors: list[int] = []
    for row, item in enumerate(items):
        length = len(item)
        positions[row, :length] = item.layout.position_ids()
        mask[row, :length, :length] = item.layout.mask()
        labels.add(item, row * width + item.layout.tail_span[0])
        if item.vectors:
            pooled = item.layout.pooled_spans()
            starts = [
                start
                for start, block in zip(item.layout.block_starts(), item.layout.blocks, strict=True)
                if block.attention == "bidirectional"
            ]
            spans += [(row, start, *span) for start, span in zip(starts, pooled, strict=True)]
            vectors += list(item.vectors)
    teachers = [item.teacher for item in items if item.teacher is not None]
    return Chunk(
        stream,
        input_ids,
        is_causal=True,
        tokens=sum(map(len, items)),
        attention_mask=mask[:, None],
        position_ids=positions,
        spans=spans,
        vectors=vectors,
        pooling=Pooling.of(spans, width, pooling) if spans else None,
        samples=samples,
        teacher=_causal_chunk(teachers, stream) if teachers else None,
        **labels.tensors(),
    )


def _filled(items: Sequence[WriteItem], width: int) -> tuple[Tensor, Tensor]:
    """Ids [b, width] filled with 0, and each token's sample, −1 for padding."""
    input_ids = torch.zeros(len(items), width, dtype=torch.long)
    samples = torch.full_like(input_ids, -1)
    for row, item in enumerate(items):
        input_ids[row, : len(item)] = item.layout.input_ids()
        samples[row, : len(item)] = item.sample
    return input_ids, samples
