"""Packed rows on the library's own operator, and what they spare a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.benchmark.launches import LaunchConfig, count, varlen_on_cpu
from training.data.chunk import Segments
from training.run.kernels import fuse_norms
from training.step.segments import kernel_error, one_by_one, varlen


@pytest.mark.parametrize("kv_heads", [1, 3])
@pytest.mark.parametrize("is_causal", [True, False])
def test_the_operator_is_called_with_what_it_means(kv_heads: int, is_causal: bool) -> None:
    """Arguments, heads and gradients of `varlen_attn` = one sequence after the other. A tail reads keys before it."""
    varlen_on_cpu()
    assert kernel_error(torch.device("cpu"), torch.float32, 3, kv_heads, 8) < 1e-5
    asked, read = [4, 1, 7], [9, 1, 8]
    part = Segments(0, 12, *(torch.tensor([0, *n]).cumsum(0).int() for n in (asked, read)), 7, 9, is_causal)
    shapes = ((12, 3), (18, kv_heads), (18, kv_heads))
    torch.manual_seed(0)
    start = [torch.randn(n, h, 8) for n, h in shapes]
    found = []
    for kernel in (varlen, one_by_one):
        inputs = [tensor.clone().requires_grad_() for tensor in start]
        output = kernel(*inputs, part, 0.3)
        (output * torch.linspace(0, 1, output.numel()).view_as(output)).sum().backward()
        found.append([output.detach(), *(tensor.grad for tensor in inputs)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    # By the definition: a query of the last sequence's start must not read the last key if causal.
    changed = [start[0], start[1].clone(), start[2].clone()]
    changed[2][-1] += 5
    before, after = (one_by_one(*tensors, part, 0.3) for tensors in (start, changed))
    assert bool((before[5] != after[5]).any()) != is_causal and bool((before[-1] != after[-1]).any())


def test_a_step_of_packed_rows_is_a_handful_of_forwards() -> None:
    """At most a quarter of the launches of padded rows, and nobody waits for the device inside a pass."""
    sizes = LaunchConfig(queries=96, chats=24, answers=16, layers=3, contrastive_tokens=4096, other_tokens=8192)
    packed, padded = count(sizes), count(replace(sizes, rows="padded"))
    assert packed["tokens"] == padded["tokens"] and packed["padding_share"] == 0
    assert packed["launches"] < padded["launches"] / 2 and packed["forwards"] < padded["forwards"]
    assert packed["waits"] <= 6, "counted on the host before the first forward, and the report after the last"


@pytest.mark.parametrize("family", ["mistral", "llama", "qwen3", "mixtral"])
def test_fused_norms_give_the_same_states(tiny_model_folder, family: str) -> None:  # type: ignore[no-untyped-def]
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder(family), dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    before = model(ids).logits
    assert fuse_norms(model) >= 5
    torch.testing.assert_close(model(ids).logits, before, rtol=1e-4, atol=1e-5)
