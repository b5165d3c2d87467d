"""A GPU whose memory runs out: freed, tried once more, then a sentence. The shortage is played on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.embed import encoding
from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.load.loading import choose_quantization, quantization_settings
from grit_app.gritlm.load.size import TOKENS_IN_USE, WORKING_BYTES, Weights, read_weights
from grit_app.gritlm.memory import register_spare, with_second_try
from grit_app.gritlm.write.runtime import Decoder


class Card:
    """Fails the first `shortages` calls, and counts."""

    def __init__(self, shortages: int) -> None:
        self.shortages = shortages
        self.calls = self.freed = 0

    def clear(self) -> None:
        self.freed += 1

    def use(self) -> str:
        self.calls += 1
        if self.calls <= self.shortages:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"


def test_a_shortage_frees_and_tries_once_more() -> None:
    card = Card(1)
    register_spare(card)
    assert with_second_try(card.use, "Ask less.") == "done"
    assert (card.calls, card.freed) == (2, 1)


def test_a_second_shortage_is_a_sentence() -> None:
    card = Card(9)
    with pytest.raises(ModelError, match=r"memory does not suffice.*Ask less\."):
        with_second_try(card.use, "Ask less.")
    assert card.calls == 2


def test_other_errors_are_not_tried_again() -> None:
    calls = []

    def action() -> None:
        calls.append(1)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        with_second_try(action, "")
    assert len(calls) == 1


def test_an_answer_survives_a_shortage(tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of its tokens: the failed forward left nothing behind."""
    ids, sampling = list(range(5, 20)), Sampling(max_new_tokens=8)
    expected = tiny_model.stream_ids(ids, sampling=sampling).read_all()
    plain, calls = Decoder.logits, []

    def sometimes(self: Decoder, *args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) in (1, 4):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, *args)

    monkeypatch.setattr(Decoder, "logits", sometimes)
    assert tiny_model.stream_ids(ids, sampling=sampling).read_all() == expected
    assert len(calls) > 8


def test_embedding_says_what_helps(tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(encoding, "run_trunk", short)
    with pytest.raises(ModelError, match="smaller batch_size"):
        tiny_model.encode(["a text"])


def test_the_estimate_holds_the_caches_of_lengths_in_use(tiny_model_folder: Callable[..., Path]) -> None:
    """GritLM-7B: 131,072 bytes of keys and values a token in bfloat16."""
    weights = Weights(7_241_732_096, 6_979_584_000, cache_numbers=65_536)
    assert weights.working_bytes(torch.bfloat16) == WORKING_BYTES + TOKENS_IN_USE * 131_072
    tiny = read_weights(tiny_model_folder())
    assert tiny.cache_numbers == 2 * 2 * 2 * 8  # keys and values, layers, key heads, their size


def test_auto_takes_four_bits_where_the_caches_would_not_fit_beside_the_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """15 GB hold the weights in bfloat16, and then nothing runs."""
    weights = Weights(7_241_732_096, 6_979_584_000, cache_numbers=65_536)
    monkeypatch.setattr("grit_app.gritlm.load.loading.free_bytes", lambda _: 15_200_000_000)
    assert choose_quantization("auto", weights, torch.bfloat16, torch.device("cuda"), "m") == "4bit"
    monkeypatch.setattr("grit_app.gritlm.load.loading.free_bytes", lambda _: 17_000_000_000)
    assert choose_quantization("auto", weights, torch.bfloat16, torch.device("cuda"), "m") == "none"


@pytest.mark.parametrize(
    ("dtype", "computes"),
    [(torch.float16, torch.float16), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)],
)
def test_four_bits_compute_in_what_the_card_multiplies(dtype: torch.dtype, computes: torch.dtype) -> None:
    """A card before Ampere has no bfloat16: it would be emulated."""
    assert quantization_settings("4bit", dtype).bnb_4bit_compute_dtype == computes
