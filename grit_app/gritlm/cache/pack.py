"""Keys and values in 8 or 4 bits: symmetric, with scales in float16 (3 to 6 % of int8's bytes on top).

    int8   a number a byte: half of bfloat16's bytes
    int4   two channels a byte: a fourth. The lower half holds channel c, the upper half channel c + d / 2. On the
           served model keys and values are then off by a tenth (int8: 0.6 %). A zero point beside each scale would
           halve the change of the next token's distribution, and cost 6 % more bytes

Keys get one scale a channel for each group of 64 tokens: some channels are many times larger than others, all along
the text. Values get one scale a token. (Axes: KIVI, arXiv 2402.02750.) Keys are packed as they are cached, rotated.
Un-rotating them first gained nothing on the served model in 8 bits (error of a key 0.50 % rotated, 0.49 % un-rotated)
and would cost a turn of every key at every load.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Scheme = Literal["native", "int8", "int4"]
"""How a cache is kept: as computed, or packed."""

BITS: dict[Scheme, int] = {"int8": 8, "int4": 4}

GROUP_TOKENS = 64

SMALLEST_SCALE = 2.0**-14  # the smallest normal float16: below, its own rounding would exceed half a step


def pack_keys(keys: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Packed keys and float16 scales [..., groups, d] of keys [..., T, d]; the last group may be shorter.

    Packed: int8 [..., T, d] for 8 bits, uint8 [..., T, d / 2] for 4.
    """
    groups = [_scale(group.float().abs().amax(dim=-2), bits) for group in keys.split(GROUP_TOKENS, dim=-2)]
    rounded = [
        _round(group, scale.unsqueeze(-2), bits)
        for group, scale in zip(keys.split(GROUP_TOKENS, dim=-2), groups, strict=True)
    ]
    return torch.cat(rounded, dim=-2), torch.stack(groups, dim=-2)


def pack_values(values: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """Packed values (shapes as for keys) and float16 scales [..., T, 1] of values [..., T, d]."""
    scales = _scale(values.float().abs().amax(dim=-1, keepdim=True), bits)
    return _round(values, scales, bits), scales


def unpack_keys(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The keys [..., T, d] again, each within 0.51 steps of its scale."""
    keys = _numbers(packed)
    whole = packed.shape[-2] // GROUP_TOKENS
    grouped = keys[..., : whole * GROUP_TOKENS, :].unflatten(-2, (whole, GROUP_TOKENS))
    grouped.mul_(scales[..., :whole, None, :].float())
    keys[..., whole * GROUP_TOKENS :, :].mul_(scales[..., whole:, :].float())
    return keys.to(dtype)


def unpack_values(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The values [..., T, d] again, each within 0.51 steps of its scale."""
    return _numbers(packed).mul_(scales.float()).to(dtype)


def _largest(bits: int) -> int:
    return (1 << (bits - 1)) - 1


def _scale(largest: Tensor, bits: int) -> Tensor:
    return (largest / _largest(bits)).clamp_min(SMALLEST_SCALE).to(torch.float16)


def _round(numbers: Tensor, scales: Tensor, bits: int) -> Tensor:
    # With the scale as stored, so that its own rounding to float16 costs nothing but a clamp at the very end.
    steps = (numbers.float() / scales.float()).round_().clamp_(-_largest(bits), _largest(bits))
    if bits == 8:
        return steps.to(torch.int8)
    low, high = (steps + 8).to(torch.uint8).chunk(2, dim=-1)
    return low | (high << 4)


def _numbers(packed: Tensor) -> Tensor:
    """The steps [..., T, d] in float32."""
    if packed.dtype == torch.int8:
        return packed.to(torch.float32)
    return torch.cat([packed & 15, packed >> 4], dim=-1).to(torch.float32).sub_(8)
