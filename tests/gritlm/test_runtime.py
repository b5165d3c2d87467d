"""The own forward pass must be the stock model's, for every family; it only moves fewer bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from grit_app.gritlm.errors import Cancelled, ModelError
from grit_app.gritlm.runtime import TAIL_ROWS, Decoder
from tests.conftest import FAMILIES, tiny_hf_model

TOLERANCE = 1e-4


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def stock_logits(hf_model: Any, ids: list[int]) -> Tensor:
    """[t, vocabulary] of one plain causal forward."""
    return hf_model(torch.tensor([ids]), is_causal=True, use_cache=False).logits[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_tail_and_steps_equal_one_stock_forward(family: str) -> None:
    """However a prompt is cut into reads (a long one, a short one, single tokens), logits are the stock model's."""
    hf_model = tiny_hf_model(family)
    ids = random_ids(40)
    expected = stock_logits(hf_model, ids)
    assert expected.std() > 0.5, "flat logits would hide errors"
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=len(ids))
    read = 0
    for count in (25, 9, 1, 1, 4):
        logits = decoder.logits(ids[read : read + count], space)
        read += count
        assert (logits - expected[read - 1]).abs().max() < TOLERANCE
    assert space.length == read == len(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_stock_generate(family: str) -> None:
    """The same text as the library's own loop."""
    hf_model = tiny_hf_model(family)
    prompt = random_ids(12, seed=1)
    expected = hf_model.generate(
        torch.tensor([prompt]), max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=None
    )[0, 12:].tolist()
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=40)
    tokens, unread = [], prompt
    for _ in range(20):
        tokens.append(int(decoder.logits(unread, space).argmax()))
        unread = tokens[-1:]
    assert tokens == expected
    assert len(set(tokens)) > 3, "a model that repeats one token proves little"


def test_a_long_tail_over_a_cache_is_attended_in_runs() -> None:
    """Tails longer than TAIL_ROWS use slices of one mask; an off-by-one there would move the causal border."""
    hf_model = tiny_hf_model("mistral")
    ids = random_ids(2 * TAIL_ROWS + 30)
    decoder = Decoder(hf_model)
    space = decoder.workspace(None, new_tokens=len(ids))
    decoder.hidden(ids[:7], space)
    hidden = decoder.hidden(ids[7:], space)
    logits = decoder.project(hidden[0])
    assert (logits - stock_logits(hf_model, ids)[7:]).abs().max() < TOLERANCE
