"""Attention over packed rows: each sequence reads the keys that its segment names, and nothing is padded.

On CUDA in half precision one kernel takes all sequences (`torch.nn.attention.varlen.varlen_attn`); elsewhere they are
taken one after the other, which is slow and exact: the tests' way, and the kernel's own proof (`prove_kernel`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from training.data.chunk import Segments

NAME = "sdpa_segments"


def use_segments(hf_model: PreTrainedModel) -> None:
    """Makes the model's attention understand `segments`; without that argument nothing changes."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    hf_model.set_attn_implementation(NAME)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: list[Segments] | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[1, heads, t, d] → [1, t, heads, d], as transformers wants it."""
    if segments is None:
        exact: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)[0]
        return exact, None
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend(q, k, v, segments, scaling)[None], None


def attend(query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Segments], scale: float | None) -> Tensor:
    """What each token reads.

    query       [t, heads, d]
    key, value  [t, kv_heads, d]

    Returns [t, heads, d].
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):  # positions are added in float32
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    kernel = varlen if has_kernel(query) else one_by_one
    outputs = []
    for part in segments:
        own = slice(part.start, part.stop)
        keys, values = (
            (tensor[own] if part.keys is None else tensor.index_select(0, part.keys)) for tensor in (key, value)
        )
        outputs.append(kernel(query[own], keys, values, part, scale))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def has_kernel(query: Tensor) -> bool:
    """Whether the one kernel takes these tensors."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)


def varlen(query: Tensor, key: Tensor, value: Tensor, part: Segments, scale: float | None) -> Tensor:
    """All sequences in one call."""
    from torch.nn.attention.varlen import varlen_attn

    known = _parameters(varlen_attn)
    options: dict[str, Any] = {"scale": scale} if "scale" in known else {}
    if "window_size" in known:
        options["window_size"] = (-1, 0) if part.is_causal else (-1, -1)
    else:  # torch before 2.12
        options["is_causal"] = part.is_causal
    if "enable_gqa" in known:
        options["enable_gqa"] = query.shape[1] != key.shape[1]
    elif query.shape[1] != key.shape[1]:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], dim=1) for t in (key, value))
    q, k, v = (tensor.contiguous() for tensor in (query, key, value))
    ends = (part.query_ends, part.key_ends, part.longest_query, part.longest_key)
    output: Any = varlen_attn(q, k, v, *ends, **options)
    return output


@cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def one_by_one(query: Tensor, key: Tensor, value: Tensor, part: Segments, scale: float | None) -> Tensor:
    """One call a sequence."""
    pieces = []
    queries, keys = part.query_ends.tolist(), part.key_ends.tolist()
    for number in range(len(queries) - 1):
        q = query[queries[number] : queries[number + 1]].transpose(0, 1)
        k, v = (tensor[keys[number] : keys[number + 1]].transpose(0, 1) for tensor in (key, value))
        mask = None
        if part.is_causal and q.shape[1] != k.shape[1]:
            mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device)
            mask = mask.tril(k.shape[1] - q.shape[1])
        is_causal = part.is_causal and mask is None and q.shape[1] > 1
        output = F.scaled_dot_product_attention(
            q[None], k[None], v[None], mask, is_causal=is_causal, scale=scale, enable_gqa=q.shape[0] != k.shape[0]
        )
        pieces.append(output[0].transpose(0, 1))
    return torch.cat(pieces)


@torch.no_grad()
def kernel_error(device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int) -> float:
    """How far the one kernel is from one sequence after the other: tails that read more keys than they ask with."""
    generator = torch.Generator().manual_seed(0)
    asked, read = [5, 1, 40], [17, 9, 40]
    shapes = ((sum(asked), heads), (sum(read), kv_heads), (sum(read), kv_heads))
    q, k, v = (torch.randn(n, h, head_dim, generator=generator).to(device, dtype) for n, h in shapes)
    ends = [torch.tensor([0, *lengths]).cumsum(0).int().to(device) for lengths in (asked, read)]
    worst = 0.0
    for is_causal in (True, False):
        part = Segments(0, sum(asked), ends[0], ends[1], max(asked), max(read), is_causal)
        exact = one_by_one(q.float(), k.float(), v.float(), part, None)
        worst = max(worst, float((varlen(q, k, v, part, None).float() - exact).abs().max()))
    return worst
