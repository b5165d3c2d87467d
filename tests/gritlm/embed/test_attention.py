"""Which attention really ran, for each family and kernel; and that two threads do not disturb each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from grit_app.gritlm import GritLM
from grit_app.gritlm.embed.attention import base_model, first_position_moves, prove_attention, run_trunk
from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.load.loading import load_hf_model
from tests.conftest import FAMILIES, tiny_hf_model


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_asked_attention_runs(tiny_model_folder: Callable[..., Path], family: str, kernel: str) -> None:
    """Change the last token: the first position moves when bidirectional, and does not when causal."""
    model = load_hf_model(
        tiny_model_folder(family),
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization="none",
        attention_kernel=kernel,
    )
    assert model.config._attn_implementation == kernel
    for padded in (False, True):
        assert first_position_moves(model, is_causal=False, padded=padded)
        assert not first_position_moves(model, is_causal=True, padded=padded)
    prove_attention(model, with_bidirectional=True)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bidirectional_states_against_a_full_mask(
    tiny_model_folder: Callable[..., Path], family: str, kernel: str
) -> None:
    """`is_causal=False` is the same as an explicit mask in which every real token sees every real token."""
    model = load_hf_model(
        tiny_model_folder(family),
        device=torch.device("cpu"),
        dtype=torch.float32,
        quantization="none",
        attention_kernel=kernel,
    )
    ids = torch.tensor([[1, 60, 70, 80, 90], [1, 65, 75, 0, 0]])
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    explicit = torch.zeros(2, 1, 5, 5).masked_fill(real[:, None, None] == 0, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        asked = run_trunk(model, ids, is_causal=False, attention_mask=real).last_hidden_state
        masked = run_trunk(model, ids, is_causal=True, attention_mask=explicit).last_hidden_state
    torch.testing.assert_close(asked[real == 1], masked[real == 1], atol=1e-5, rtol=1e-5)


def test_the_trunk_gives_hidden_states_and_not_logits(tiny_model: GritLM) -> None:
    trunk = base_model(tiny_model.hf_model)
    assert trunk is not tiny_model.hf_model
    states = run_trunk(tiny_model.hf_model, torch.tensor([[1, 5, 6]]), is_causal=False).last_hidden_state
    assert states is not None
    assert states.shape == (1, 3, tiny_model.hidden_size)


def test_a_model_that_ignores_the_request_is_refused() -> None:
    """A class whose attention cannot be switched would embed causally, and nothing would look wrong."""
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", n_layer=2, n_embd=32, n_head=2, vocab_size=100, n_positions=64)
    ).eval()
    honest = model.transformer.forward

    def always_causal(*args: Any, is_causal: bool = True, **kwargs: Any) -> Any:
        return honest(*args, **kwargs)

    model.transformer.forward = always_causal
    prove_attention(model, with_bidirectional=False)
    with pytest.raises(ModelError, match="ignores the request for bidirectional"):
        prove_attention(model, with_bidirectional=True)


def test_threads_encode_and_generate_at_once(tiny_model: GritLM) -> None:
    """transformers keeps the request in the shared configuration for the time of a call; the lock keeps calls apart."""
    texts = ["The river rises", "Bees make honey from nectar in combs", "370 schools"]
    messages = [{"role": "user", "content": "How many schools took part?"}]
    vectors = tiny_model.encode(texts)
    answer = tiny_model.generate(messages, max_new_tokens=12)
    causal = tiny_model.causal_cache(tiny_model.prompts.chat(messages).ids)
    failures: list[str] = []

    def encode() -> None:
        for _ in range(15):
            if not np.allclose(tiny_model.encode(texts), vectors, atol=1e-5):
                failures.append("encode")

    def write() -> None:
        for _ in range(8):
            if tiny_model.generate(messages, max_new_tokens=12) != answer:
                failures.append("generate")

    def read() -> None:
        for _ in range(15):
            if not torch.allclose(tiny_model.causal_cache(causal.ids.tolist()).keys, causal.keys, atol=1e-5):
                failures.append("prefill")

    threads = [threading.Thread(target=work) for work in (encode, write, read, encode, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert getattr(tiny_model.hf_model.config, "is_causal", True) is True


def test_the_hazard_of_the_lock_exists() -> None:
    """Without a lock the shared configuration is really changed during a call: else the test above proves nothing."""
    model: Any = tiny_hf_model("mistral")
    seen: list[bool] = []
    hook = model.model.layers[0].register_forward_pre_hook(lambda *_: seen.append(model.config.is_causal))
    run_trunk(model, torch.tensor([[1, 5]]), is_causal=False)
    hook.remove()
    assert seen == [False]
