"""Attention over grouped key heads against a float64 loop over single heads, queries and keys."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from grit_app.gritlm.write.grouped_attention import CHUNK_TOKENS, FOLDED_TOKENS, attention_plan, lower_right

KV_HEADS, GROUP, SIZE = 2, 3, 16


def naive(q: Tensor, k: Tensor, v: Tensor, scale: float, may_attend: Tensor) -> Tensor:
    """`may_attend` [t, T]: each head, query and key on its own."""
    result = torch.zeros(q.shape, dtype=torch.float64)
    for head in range(q.shape[0]):
        for member in range(q.shape[1]):
            for row in range(q.shape[2]):
                seen = may_attend[row].nonzero()[:, 0].tolist()
                scores = [scale * float(q[head, member, row].double() @ k[head, key].double()) for key in seen]
                most = max(scores)
                weights = [math.exp(score - most) for score in scores]
                for weight, key in zip(weights, seen, strict=True):
                    result[head, member, row] += weight / sum(weights) * v[head, key].double()
    return result


def tensors(cached: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(cached + count)
    q = torch.randn(KV_HEADS, GROUP, count, SIZE, generator=generator).to(dtype)
    # A view into a larger buffer, as the workspace gives it.
    k, v = torch.randn(2, KV_HEADS, cached + count + 5, SIZE, generator=generator).to(dtype)[:, :, : cached + count]
    return q, k, v


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize(
    ("cached", "count"),
    [(7, 1), (0, 5), (7, 2), (40, FOLDED_TOKENS), (9, FOLDED_TOKENS + 1), (3, CHUNK_TOKENS + 2)],
)
def test_new_tokens_attend_to_all_cached_ones_and_causally(
    cached: int, count: int, dtype: torch.dtype, tolerance: float
) -> None:
    q, k, v = tensors(cached, count, dtype)
    causal = torch.ones(count, cached + count, dtype=torch.bool).tril(cached)
    attend = attention_plan(cached, count, GROUP, q)
    rows = slice(None) if count <= FOLDED_TOKENS else slice(count - 8, None)  # the loop is slow
    expected = naive(q[:, :, rows], k, v, 0.3, causal[rows])
    for _ in range(2):  # the second layer meets the memory of the first one
        result = attend(q, k, v, 0.3)[:, :, rows].double()
        torch.testing.assert_close(result, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("cached", [0, 11])
@pytest.mark.parametrize("count", [6, FOLDED_TOKENS + 6])
def test_a_tree_attends_to_its_ancestors_only(cached: int, count: int) -> None:
    q, k, v = tensors(cached, count, torch.float32)
    ancestors = torch.eye(count, dtype=torch.bool)
    for node in range(1, count):
        ancestors[node] |= ancestors[(node - 1) // 2]
    may_attend = torch.cat([torch.ones(count, cached, dtype=torch.bool), ancestors], dim=1)
    result = attention_plan(cached, count, GROUP, q, ancestors)(q, k, v, 0.25)
    torch.testing.assert_close(result.double(), naive(q, k, v, 0.25, may_attend), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("cached", "count"), [(7, 2), (0, 5), (9, FOLDED_TOKENS + 1), (3, CHUNK_TOKENS + 2)])
def test_the_triangle_of_the_gpu_kernels_sees_the_same_tokens(cached: int, count: int) -> None:
    """What a GPU runs without a mask: grouped heads and a causal triangle in the lower right corner."""
    q, k, v = tensors(cached, count, torch.float32)
    causal = torch.ones(count, cached + count, dtype=torch.bool).tril(cached)
    rows = slice(max(0, count - 8), None)
    result = lower_right(cached, count)(q, k, v, 0.3)[:, :, rows].double()
    torch.testing.assert_close(result, naive(q[:, :, rows], k, v, 0.3, causal[rows]), atol=1e-5, rtol=0)
