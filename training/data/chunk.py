"""The tensors of one forward, and the sequences that they are made from.

A chunk may pool vectors, predict tokens, or both. Its rows are of one of two forms:

    padded   [b, t] rows of one sequence each, under a mask where anybody would see the padding
    packed   [1, t] all sequences in one row without padding; `segments` say which tokens read which
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from grit_app.gritlm.layout import Layout

Stream = Literal["contrastive", "generative", "rag"]
T = TypeVar("T")

Span = tuple[int, int, int, int]
"""(row, start of the block, start of the sample, stop)"""


@dataclass(frozen=True)
class Forwards:
    """How sequences are put into forwards."""

    is_packed: bool = False
    """One row without padding instead of padded rows."""

    padding_share: float = 0.1
    """Padded rows: a chunk ends when padding would exceed this share of it."""

    pooling: str = "mean"


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
class Segments:
    """One call of attention over a packed row: s sequences of queries, each with the keys that it reads.

    The queries are the row's tokens from `start` to `stop`. If `is_causal`, a sequence's last query reads all of its
    keys, the one before all but the last, and so on.
    """

    start: int
    stop: int
    query_ends: Tensor
    """[s + 1] int32: 0, then where each sequence's queries end."""
    key_ends: Tensor
    """[s + 1] int32"""
    longest_query: int
    longest_key: int
    is_causal: bool
    keys: Tensor | None = None
    """[keys of all sequences] places in the row; None: the queries themselves."""


@dataclass(frozen=True)
class Pooling:
    """Vectors as weighted sums of states: vector `numbers[i]` gets `weights[i]` × the state at `places[i]`."""

    places: Tensor
    """[p] in the flattened rows"""
    numbers: Tensor
    """[p]"""
    weights: Tensor
    """[p] float32"""

    @classmethod
    def of(cls, spans: Sequence[Span], width: int, method: str) -> Pooling:
        """The method of `grit_app.gritlm.embed.pooling`, as weights that are known before the states are."""
        row, block, sample, stop = np.array(spans, dtype=np.int64).reshape(-1, 4).T
        numbers = np.arange(len(row))
        if method in ("lasttoken", "cls"):
            places = row * width + (stop - 1 if method == "lasttoken" else block)
            return cls(torch.from_numpy(places), torch.from_numpy(numbers), torch.ones(len(row)))
        lengths = stop - sample
        numbers = np.repeat(numbers, lengths)
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places = np.repeat(row * width + sample, lengths) + within
        # weightedmean: the k-th token weighs k
        sums = lengths if method == "mean" else lengths * (lengths + 1) / 2
        weights = (1.0 if method == "mean" else within + 1) / sums[numbers]
        return cls(torch.from_numpy(places), torch.from_numpy(numbers), torch.from_numpy(weights).float())


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
    segments: list[Segments] | None = None
    """A packed row: together they hold each of its tokens once, in order."""
    spans: list[Span] = field(default_factory=list)
    """n, one a vector"""
    vectors: list[int] = field(default_factory=list)
    """n numbers of the vectors in their stream."""
    pooling: Pooling | None = None
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
    teacher: Chunk | None = None
    """The same answers behind the full causal prompt, in the same order of labels."""
    is_dummy: bool = False
    """Runs only because another process has one chunk more."""

    def to(self, device: torch.device) -> Chunk:
        """The same chunk with its tensors on `device`."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Chunk:
        """The same chunk in memory that a GPU copies from without anybody waiting."""
        return with_tensors(self, lambda tensor: tensor.pin_memory())


def with_tensors(value: T, change: Any) -> T:
    """The value with each tensor in it changed: through lists and dataclasses."""
    if isinstance(value, Tensor):
        changed: T = change(value)
        return changed
    if isinstance(value, list):
        return [with_tensors(item, change) for item in value] if value and not isinstance(value[0], int) else value  # type: ignore[return-value]
    if isinstance(value, (Chunk, Segments, Pooling)):
        assert is_dataclass(value)
        return replace(value, **{f.name: with_tensors(getattr(value, f.name), change) for f in fields(value)})
    return value


class Labels:
    """Collects predicted tokens, place by place."""

    def __init__(self) -> None:
        self._predictors: list[int] = []
        self._labels: list[int] = []
        self._samples: list[int] = []

    def __len__(self) -> int:
        return len(self._labels)

    def add(self, item: WriteItem, tail_place: int) -> None:
        """`tail_place`: where the item's tail starts in the flattened rows. Every trained token lies in the tail."""
        first, _ = item.layout.tail_span
        self._predictors += [tail_place + place - first - 1 for place in item.labels]
        self._labels += [item.layout.tail[place - first] for place in item.labels]
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
    span: list[Span] = [(0, 0, width - 1, width)] if pools else []
    return Chunk(
        stream,
        like.input_ids[:1, :width],
        is_causal=True,
        tokens=0,
        spans=span,
        vectors=[0] if pools else [],
        pooling=Pooling.of(span, width, "mean") if pools else None,
        predictors=zero,
        labels=zero,
        label_samples=zero,
        weights=torch.zeros(1) if predicts else None,
        is_dummy=True,
    )
