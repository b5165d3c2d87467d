"""Keys and values of a text that the model has read, and how several of them become one.

A *header* is the run of tokens that opens an embedding input (BOS, instruction, embed marker); the *sample* is the
text. Texts were encoded alone, each from position 0. Joined consecutively:

    cache 1   [ header | sample 1 ]                      taken whole, stays at 0 …
    cache 2   [ ~header~ | sample 2 ]  ── moved by  ──►  [ sample 2 ]   directly behind sample 1
    cache 3   [ ~header~ | sample 3 ]  ── end − header ──►           [ sample 3 ]   … and so on
    tail                                                          computed at question time, causal, from `end`

Later headers go because BOS-like tokens draw attention to themselves: several in one context pull it off the text.
Only keys move (see rope.py); values have no position.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from grit_app.gritlm.cache.buffers import empty_buffer
from grit_app.gritlm.cache.pack import BITS, Scheme, pack_keys, pack_values, unpack_keys, unpack_values
from grit_app.gritlm.cache.staging import to_device
from grit_app.gritlm.errors import InputError, ModelError
from grit_app.gritlm.layout import Block, Layout, Positions

if TYPE_CHECKING:
    from grit_app.gritlm.cache.rope import Rope

CacheAttention = Literal["bidirectional", "causal", "mixed"]

ROOM_TOKENS = 768
"""Rows kept free behind a join for the tail and the answer, so that answering copies nothing. 0.1 GB for a 7B model."""

GPU_JOIN_NUMBERS = 1 << 25
"""Keys turned by one launch on a GPU, where float32 intermediates of 128 MB are worth fewer launches."""


class Room:
    """The larger buffer that a joined cache lies in. Only one answer at a time may write behind the cached rows."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys = keys  # [L, kv_heads, capacity, d]
        self.values = values
        self._taken = threading.Lock()

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def claim(self) -> bool:
        """True if the caller may now write behind the cached rows, until it calls `release`."""
        return self._taken.acquire(blocking=False)

    def release(self) -> None:
        self._taken.release()


@dataclass(frozen=True, eq=False)
class Scales:
    """What unpacks keys and values in 8 or 4 bits; see kv_pack.py."""

    keys: Tensor
    """float16 [layers, kv_heads, groups, head_size]"""

    values: Tensor
    """float16 [layers, kv_heads, tokens, 1]"""

    dtype: torch.dtype
    """What keys and values were, and are again once unpacked."""


@dataclass(frozen=True, eq=False)
class KVCache:
    """Rotated keys, and values, of `length` tokens in all layers. Never written to after it was made."""

    keys: Tensor
    """[layers, kv_heads, tokens, head_size], rotated at `start`, `start` + 1, …"""

    values: Tensor
    """Of the same shape; without positions."""

    ids: Tensor
    """int [tokens], on the CPU: what was read. Compared before the cache is used."""

    header_length: int
    """Tokens at the beginning that belong to the prompt format and not to the text."""

    attention: CacheAttention
    """How the text was read: by an embedding pass, or as an ordinary prefix. "mixed" only after a join of both."""

    start: int = 0
    """Position of the first token."""

    scales: Scales | None = field(default=None, repr=False)
    """Given if keys and values are packed (see `packed`): two channels of `head_size` then share a byte in 4 bits."""

    room: Room | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.keys.dim() != 4 or self.keys.shape != self.values.shape:
            raise ValueError(
                f"keys {list(self.keys.shape)} and values {list(self.values.shape)} must be [L, kv_heads, T, d]."
            )
        if self.keys.shape[2] != len(self.ids):
            raise ModelError(
                f"A KV cache holds {self.keys.shape[2]} positions for {len(self.ids)} tokens. The model drops old "
                "positions (a sliding window); load it with sliding_window off to reuse its caches."
            )
        if self.attention not in get_args(CacheAttention):
            raise ValueError(f"attention must be one of {get_args(CacheAttention)}, not {self.attention!r}.")

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.keys.shape[2]

    @property
    def end(self) -> int:
        """Position of the token that follows."""
        return self.start + self.length

    @property
    def shape(self) -> tuple[int, int, int]:
        """(layers, kv_heads, head_size): the same for all caches of a model."""
        wide = self.scales.keys if self.scales else self.keys
        return self.keys.shape[0], self.keys.shape[1], wide.shape[3]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, and of their scales; without free room behind them."""
        scales = self.scales.keys.nbytes + self.scales.values.nbytes if self.scales else 0
        return 2 * self.keys.numel() * self.keys.element_size() + scales

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the model computed, and computes on."""
        return self.scales.dtype if self.scales else self.keys.dtype

    def layers(self, group: slice, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values [layers, kv_heads, T, d] of some layers, on `device` and unpacked: for computing."""
        keys, values = to_device(self.keys[group], device), to_device(self.values[group], device)
        if self.scales is None:
            return keys, values
        return (
            unpack_keys(keys, to_device(self.scales.keys[group], device), self.dtype),
            unpack_values(values, to_device(self.scales.values[group], device), self.dtype),
        )

    def layer(self, index: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Keys and values [kv_heads, T, d] of one layer, on `device` and unpacked."""
        keys, values = self.layers(slice(index, index + 1), device)
        return keys[0], values[0]

    def packed(self, scheme: Scheme) -> KVCache:
        """The same as a scheme keeps it: in 8 or 4 bits with a small error, or unchanged. A packed one stays so."""
        if self.scales is not None or scheme == "native":
            return self
        keys, key_scales = pack_keys(self.keys, BITS[scheme])
        values, value_scales = pack_values(self.values, BITS[scheme])
        scales = Scales(key_scales, value_scales, self.keys.dtype)
        return replace(self, keys=keys, values=values, scales=scales, room=None)

    def unpacked(self) -> KVCache:
        """The same in the precision of the model."""
        if self.scales is None:
            return self
        keys = unpack_keys(self.keys, self.scales.keys, self.dtype)
        values = unpack_values(self.values, self.scales.values, self.dtype)
        return replace(self, keys=keys, values=values, scales=None)

    def slice(self, first: int, last: int) -> KVCache:
        """Tokens `first` … `last` − 1, at their own positions. Shares memory, unless packed."""
        if not 0 <= first <= last <= self.length:
            raise ValueError(f"tokens {first} to {last} do not lie within the {self.length} tokens of this cache.")
        whole = self.unpacked()
        return KVCache(
            keys=whole.keys[:, :, first:last],
            values=whole.values[:, :, first:last],
            ids=self.ids[first:last],
            header_length=max(0, min(self.header_length, last) - first),
            attention=self.attention,
            start=self.start + first,
        )

    def clone(self) -> KVCache:
        """A copy with memory of its own: no view that keeps a larger tensor alive."""
        own = self.unpacked()
        return replace(own, keys=own.keys.clone(), values=own.values.clone(), ids=own.ids.clone(), room=None)

    @classmethod
    def harvest(
        cls,
        layers: Iterable[tuple[Tensor, Tensor]],
        row: int,
        ids: Sequence[int] | Tensor,
        header_length: int,
        attention: CacheAttention,
    ) -> KVCache:
        """One text's cache, cut out of a right-padded batch, with memory of its own.

        layers   for each layer keys and values [batch, kv_heads, padded, d], such as a model's `past_key_values` holds
        ids      the text's own tokens, without padding

        Raises ModelError if a layer holds fewer positions than there are tokens (a sliding window).
        """
        pairs = [(keys[row, :, : len(ids)], values[row, :, : len(ids)]) for keys, values in layers]
        return cls(
            keys=torch.stack([keys for keys, _ in pairs]),
            values=torch.stack([values for _, values in pairs]),
            ids=torch.as_tensor(ids, dtype=torch.int32).cpu(),
            header_length=header_length,
            attention=attention,
        )


@dataclass(frozen=True)
class _Piece:
    """A cache's part in a join: its tokens from `skip` on, turned by `delta` positions."""

    cache: KVCache
    skip: int
    delta: int

    @property
    def length(self) -> int:
        return self.cache.length - self.skip


def layout_of(caches: Sequence[KVCache], positions: Positions, keep_headers: bool) -> Layout:
    """The layout whose blocks are these caches: it decides what a join keeps and where it stands."""
    blocks = [Block(cache.ids.tolist(), header_length=cache.header_length) for cache in caches]
    return Layout(blocks, tail=[], positions=positions, keep_headers=keep_headers)


def join(
    caches: Sequence[KVCache],
    rope: Rope,
    positions: Positions = "consecutive",
    keep_headers: bool = False,
    room_tokens: int = ROOM_TOKENS,
) -> KVCache:
    """Puts caches of texts that were read alone behind each other, as one cache for a tail.

    positions     "consecutive": keys are moved, so that each sample stands directly behind the one before.
                  "colliding": no key is moved, and all headers stay: the published two-cache strategies
    keep_headers  keep the header of every cache, not only of the first; always so with "colliding"
    room_tokens   rows to keep free for the tail and the answer

    The result lies in one new buffer on the model's device. The given caches are not changed.
    Raises InputError if there is nothing to join, ModelError if the caches are of different models or cannot be moved.
    """
    if not caches:
        raise InputError("There is no KV cache to join: give at least one.")
    if positions not in get_args(Positions):
        raise InputError(f"positions must be one of {', '.join(get_args(Positions))}, not {positions!r}.")
    first = caches[0]
    for cache in caches[1:]:
        if cache.shape != first.shape or cache.dtype != first.dtype:
            raise ModelError("These KV caches have different shapes or dtypes: they were made by different models.")
    layout = layout_of(caches, positions, keep_headers)
    pieces = [
        _Piece(cache, skip=visible - start, delta=shift - cache.start)
        for cache, start, (visible, _), shift in zip(
            caches, layout.block_starts(), layout.visible_spans(), layout.block_shifts(), strict=True
        )
    ]
    total = layout.cached_length
    room = _write(pieces, rope, total + room_tokens)
    return KVCache(
        keys=room.keys[:, :, :total],
        values=room.values[:, :, :total],
        ids=torch.cat([piece.cache.ids[piece.skip :] for piece in pieces]),
        header_length=first.header_length,
        attention=first.attention if all(cache.attention == first.attention for cache in caches) else "mixed",
        room=room,
    )


def _write(pieces: Sequence[_Piece], rope: Rope, capacity: int) -> Room:
    """All pieces in one buffer on the model's device, some layers at a time."""
    layers, kv_heads, head_size = pieces[0].cache.shape
    shape, dtype = (layers, kv_heads, capacity, head_size), pieces[0].cache.dtype
    keys, values = empty_buffer(shape, dtype, rope.device), empty_buffer(shape, dtype, rope.device)
    longest = max(piece.length for piece in pieces)
    for group in layer_groups(layers, kv_heads * longest * head_size, rope.device):
        row = 0
        for piece in pieces:
            rows = slice(row, row + piece.length)
            group_keys, group_values = piece.cache.layers(group, rope.device)
            rope.move(group_keys[:, :, piece.skip :], piece.delta, out=keys[group, :, rows])
            values[group, :, rows].copy_(group_values[:, :, piece.skip :])
            row += piece.length
    return Room(keys, values)


def layer_groups(layers: int, numbers_a_layer: int, device: torch.device) -> list[slice]:
    """Layers that are moved together.

    On a CPU one: what is unpacked and turned stays in the processor's caches. On a GPU as many as fit into a bounded
    intermediate: each launch then turns all of them.
    """
    size = 1 if device.type == "cpu" else max(1, GPU_JOIN_NUMBERS // max(1, numbers_a_layer))
    return [slice(first, min(first + size, layers)) for first in range(0, layers, size)]
