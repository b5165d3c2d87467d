"""Causal attention of new tokens over cached ones, where several query heads share a key head.

Keys and values are never repeated for each query head. On a CPU: for few new tokens the query heads of a key head
become rows of one small matrix, so that each key is read once for all of them; for many, key heads take the batch axis
and their query heads share them through a stride of zero. On a GPU the flash kernel knows groups of heads, and a causal
triangle in the lower right corner, by itself: no mask is built. Elsewhere a mask is made once for all layers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
"""(queries [kv_heads, group, t, d], keys and values [kv_heads, T, d], scaling) → [kv_heads, group, t, d]"""

FOLDED_TOKENS = 64
"""Up to here folding is the faster form. For one token by half; for a few on a CPU, in plain products: 1.3 ms a layer
where torch's fused kernel takes 3.3 (43 tokens over 4,096 cached ones, 8 heads on 2, bfloat16, two cores)."""

CHUNK_TOKENS = 256
"""New tokens attended at once over a cache: columns after a chunk are skipped for it, and its mask stays small."""


def attention_plan(cached: int, count: int, group: int, like: Tensor, may_attend: Tensor | None = None) -> Attend:
    """How `count` new tokens attend to `cached` ones and to each other.

    group       query heads for each key head
    like        any tensor of the device and dtype of the queries
    may_attend  bool [count, count]: among the new tokens, instead of causally
    """
    if count == 1:
        return _folded
    on_gpu = like.device.type == "cuda"
    if on_gpu and may_attend is None:
        return lower_right(cached, count)
    if cached == 0 and may_attend is None:
        return lambda q, k, v, scale: _shared(q, k, v, scale, is_causal=True)
    rows = count if may_attend is not None else min(count, CHUNK_TOKENS)
    allowed = torch.ones(rows, rows, dtype=torch.bool).tril() if may_attend is None else may_attend
    square = like.new_zeros(rows, rows).masked_fill_(~allowed.to(like.device), float("-inf"))
    if count <= FOLDED_TOKENS and not on_gpu:
        return _Products(square)
    # All zero but for the square at its end. Of a longer tail these are the last rows; earlier ones use its right part.
    mask = like.new_zeros(rows, cached + count)
    mask[:, -rows:] = square
    if count <= FOLDED_TOKENS or on_gpu:  # a GPU's kernels with a mask do not take a stride of zero for granted
        mask = mask.repeat(group, 1)
        return lambda q, k, v, scale: _folded(q, k, v, scale, mask)
    if count <= rows:
        return lambda q, k, v, scale: _shared(q, k, v, scale, mask)
    return lambda q, k, v, scale: _in_chunks(q, k, v, scale, mask)


def lower_right(cached: int, count: int) -> Attend:
    """Causal attention of the last `count` of `cached` + `count` tokens, without a mask where a flash kernel runs."""
    triangle = causal_lower_right(count, cached + count)

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        heads = q.flatten(0, 1)[None]
        mixed: Tensor = scaled_dot_product_attention(
            heads, k[None], v[None], attn_mask=triangle, scale=scale, enable_gqa=True
        )
        return mixed.view(q.shape)

    return attend


class _Products:
    """Folded attention as two products and a softmax between them, in place; its scores' memory serves all layers.

    `square` [t, t] is added to the scores among the new tokens; cached ones are open to all.
    """

    def __init__(self, square: Tensor) -> None:
        self._square = square
        self._scores: Tensor | None = None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        heads, group, count, size = q.shape
        if self._scores is None:
            self._scores = q.new_empty(heads, group * count, k.shape[1])
        rows = q.reshape(heads, group * count, size)
        scores = torch.baddbmm(self._scores, rows, k.transpose(1, 2), beta=0, alpha=scale, out=self._scores)
        scores.view(heads, group, count, -1)[..., -count:] += self._square
        return torch.bmm(torch.softmax(scores, dim=-1, out=scores), v).view(q.shape)


def _folded(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """`mask` [group · t, T]."""
    rows = q.reshape(1, q.shape[0], -1, q.shape[3])
    return scaled_dot_product_attention(rows, k[None], v[None], attn_mask=mask, scale=scale).view(q.shape)


def _shared(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, *, is_causal: bool = False
) -> Tensor:
    """`mask` [t, T]."""
    shape = (*q.shape[:2], *k.shape[1:])
    return scaled_dot_product_attention(
        q, k[:, None].expand(shape), v[:, None].expand(shape), attn_mask=mask, scale=scale, is_causal=is_causal
    )


def _in_chunks(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor) -> Tensor:
    """`mask` [CHUNK_TOKENS, T] of the last chunk."""
    rows, columns = mask.shape
    count = q.shape[2]
    parts = []
    for first in range(0, count, rows):
        size = min(rows, count - first)
        stop = columns - count + first + size
        part = mask[rows - size :, columns - stop :]
        parts.append(_shared(q[:, :, first : first + size], k[:, :stop], v[:, :stop], scale, part))
    return torch.cat(parts, dim=2)
