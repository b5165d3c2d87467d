"""Products against a float64 softmax over single heads, and the served model against plain sdpa."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from grit_app.gritlm import GritLM
from grit_app.gritlm.embed.attention import run_trunk
from grit_app.gritlm.embed.short_attention import LONGEST, NAME, products


def naive(q: Tensor, k: Tensor, v: Tensor, may_attend: Tensor, scaling: float) -> Tensor:
    batch, heads, length, size = q.shape
    result = torch.zeros(batch, length, heads, size, dtype=torch.float64)
    for text in range(batch):
        for head in range(heads):
            shared = head * k.shape[1] // heads
            scores = scaling * q[text, head].double() @ k[text, shared].double().T
            scores[~may_attend[text]] = float("-inf")
            result[text, :, head] = scores.softmax(-1) @ v[text, shared].double()
    return result


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("masked", [False, True])
def test_products_are_attention(dtype: torch.dtype, tolerance: float, masked: bool) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 11, 6, 16).to(dtype).transpose(1, 2)  # as the projections give it
    k, v = (torch.randn(3, 11, 2, 16).to(dtype).transpose(1, 2) for _ in range(2))
    may_attend = torch.ones(3, 11, 11, dtype=torch.bool)
    if masked:
        may_attend[0, :, 7:] = may_attend[2, :, 4:] = False
    result = products(q, k, v, may_attend[:, None] if masked else None, 0.3)
    torch.testing.assert_close(result.double(), naive(q, k, v, may_attend, 0.3), atol=tolerance, rtol=0)


def test_a_row_that_sees_nothing_is_a_number() -> None:
    q = torch.randn(1, 2, 3, 4)
    mask = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    assert torch.isfinite(products(q, q, q, mask, 0.5)).all()


@pytest.mark.parametrize("family", ["mistral", "qwen3"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("length", [9, LONGEST + 3])
def test_the_loaded_model_gives_the_states_of_plain_sdpa(
    tiny_model_folder: Any, family: str, is_causal: bool, length: int
) -> None:
    folder = tiny_model_folder(family)
    model = GritLM.from_pretrained(folder, device="cpu", dtype="float32")
    assert model.hf_model.config._attn_implementation == NAME
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
    ids = torch.randint(3, 50, (2, length), generator=torch.Generator().manual_seed(1))
    for mask in (None, torch.arange(length).expand(2, -1).lt(torch.tensor([[length], [length - 4]])).long()):
        states = []
        for hf_model in (model.hf_model, plain):
            with torch.inference_mode():
                states.append(run_trunk(hf_model, ids, is_causal=is_causal, attention_mask=mask).last_hidden_state)
        real = slice(None) if mask is None else mask.bool()
        torch.testing.assert_close(states[0][real], states[1][real], atol=2e-5, rtol=1e-4)
