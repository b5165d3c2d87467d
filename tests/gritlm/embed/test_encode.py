"""Embedding: laws that hold whatever the batch, the order, the window and the padding."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grit_app.gritlm import GritLM
from grit_app.gritlm.embed import encoding
from grit_app.gritlm.embed.encoding import batch_tokens, batches
from grit_app.gritlm.errors import Cancelled, InputError
from tests.conftest import FAMILIES, SENTENCES

TEXTS = [
    "The river rises in the mountains and reaches the sea.",
    "Bees",
    "370 schools took part",
    "A KV cache keeps the keys and values of tokens that a model has read before. " * 3,
    "Bees",
    " leading space and 日本語",
    "Retrieve semantically similar text.",
]


def alone(model: GritLM, text: str, instruction: str = "") -> np.ndarray:
    """One text's vector in float64, by the stock model and a loop: no batch, no padding, no code under test."""
    prompt = model.prompts.embed(text, instruction)
    with model.lock, torch.inference_mode():
        states = model.hf_model.get_decoder()(
            input_ids=torch.tensor([prompt.ids]), is_causal=model.config.embedding_is_causal
        ).last_hidden_state[0]
    total = np.zeros(model.hidden_size)
    for row in states[prompt.header_length :].double().numpy():
        total += row
    mean = total / (len(prompt.ids) - prompt.header_length)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("instruction", ["", "Retrieve text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_each_text_its_own_vector(load_tiny: Any, family: str, instruction: str) -> None:
    """Sorting, padding and neighbours change nothing, and pooling skips everything but the text."""
    model = load_tiny(family)
    vectors = model.encode(TEXTS, instruction=instruction)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), model.hidden_size)
    expected = np.stack([alone(model, text, instruction) for text in TEXTS])
    np.testing.assert_allclose(vectors, expected, atol=3e-6)
    assert np.abs(expected[0] - expected[2]).max() > 0.05, "the texts must differ for this to prove anything"


def test_causal_checkpoints_embed_causally(tiny_model_folder: Callable[..., Path]) -> None:
    model = GritLM.from_pretrained(tiny_model_folder("mistral"), dtype="float32", attention="cccc")
    bidirectional = GritLM.from_pretrained(tiny_model_folder("mistral"), dtype="float32")
    vectors = model.encode(TEXTS)
    np.testing.assert_allclose(vectors, [alone(model, text) for text in TEXTS], atol=3e-6)
    assert np.abs(vectors - bidirectional.encode(TEXTS)).max() > 0.01
    (first,) = model.encode_iter(TEXTS[:1], return_cache=True)
    assert first.cache is not None
    assert first.cache.attention == "causal"


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_batch_size_and_order_change_nothing(tiny_model: GritLM, batch_size: int) -> None:
    expected = tiny_model.encode(TEXTS)
    np.testing.assert_allclose(tiny_model.encode(TEXTS, batch_size=batch_size), expected, atol=2e-6)
    np.testing.assert_allclose(tiny_model.encode(TEXTS[::-1])[::-1], expected, atol=2e-6)


def test_windows_change_nothing(tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tiny_model.encode(TEXTS)
    monkeypatch.setattr(encoding, "WINDOW_TEXTS", 2)
    monkeypatch.setattr(encoding, "WINDOW_CACHE_BYTES", 3000)
    np.testing.assert_allclose(tiny_model.encode(TEXTS), expected, atol=2e-6)
    streamed = list(tiny_model.encode_iter(iter(TEXTS), return_cache=True))
    np.testing.assert_allclose([e.vector for e in streamed], expected, atol=2e-6)
    assert [e.tokens for e in streamed] == [len(tiny_model.prompts.embed(text).ids) for text in TEXTS]


def test_batches_keep_to_the_budget_and_hold_every_text_once(tiny_model: GritLM) -> None:
    prompts = tiny_model.prompts.embed_many([sentence[:length] for sentence in SENTENCES for length in (1, 9, 40, 80)])
    groups = batches(prompts, budget=100)
    assert sorted(index for group in groups for index in group) == list(range(len(prompts)))
    assert len(groups) > 3
    for group in groups:
        longest = max(len(prompts[index].ids) for index in group)
        assert len(group) * longest <= 100 or len(group) == 1
    real = sum(len(prompt.ids) for prompt in prompts)
    padded = sum(len(group) * max(len(prompts[index].ids) for index in group) for group in groups)
    in_given_order = sum(4 * max(len(p.ids) for p in prompts[start : start + 4]) for start in range(0, len(prompts), 4))
    assert real <= padded < in_given_order


def test_a_gpu_takes_the_whole_budget_and_a_cpu_what_its_caches_hold() -> None:
    assert batch_tokens(32, torch.device("cuda")) == 8192
    assert batch_tokens(2, torch.device("cpu")) == 512
    assert 1024 <= batch_tokens(64, torch.device("cpu")) <= 4096


def test_caches_hold_the_texts_own_tokens(tiny_model: GritLM) -> None:
    """Cut out of padded batches: equal to the cache of the text alone, and no row of padding."""
    for text, result in zip(TEXTS, tiny_model.encode_iter(TEXTS, "Retrieve", return_cache=True), strict=True):
        prompt = tiny_model.prompts.embed(text, "Retrieve")
        (single,) = tiny_model.encode_iter([text], "Retrieve", return_cache=True)
        assert result.cache is not None and single.cache is not None
        assert result.cache.ids.tolist() == prompt.ids
        assert result.cache.length == result.tokens == len(prompt.ids)
        assert result.cache.header_length == prompt.header_length
        assert result.cache.attention == "bidirectional"
        torch.testing.assert_close(result.cache.keys, single.cache.keys, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(result.cache.values, single.cache.values, atol=1e-5, rtol=1e-5)
        assert result.cache.keys.untyped_storage().nbytes() == result.cache.nbytes // 2, "a view would pin the batch"


def test_memory_is_flat_with_caches(tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """A consumer that lets go of each result never makes the stream hold more than a window."""
    monkeypatch.setattr(encoding, "WINDOW_CACHE_BYTES", 20_000)
    alive = 0
    most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    for result in tiny_model.encode_iter((f"text number {i}" for i in range(200)), return_cache=True):
        assert result.cache is not None
        weakref.finalize(result.cache, gone)
        alive += 1
        del result
        gc.collect(0)
        most = max(most, alive)
    assert most <= 3


def test_generators_are_read_as_they_are_needed(tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "WINDOW_TEXTS", 4)
    taken = 0

    def source() -> Iterator[str]:
        nonlocal taken
        for index in range(100):
            taken += 1
            yield f"text {index}"

    next(tiny_model.encode_iter(source()))
    assert taken == 4


def test_progress_counts_up_to_all(tiny_model: GritLM) -> None:
    seen: list[tuple[int, int]] = []
    tiny_model.encode(TEXTS, batch_size=1, progress=lambda done, total: seen.append((done, total)))
    assert [total for _, total in seen] == [len(TEXTS)] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (len(TEXTS), len(TEXTS))


def test_cancel_stops_before_the_next_batch(tiny_model: GritLM) -> None:
    cancel = threading.Event()
    seen = []

    def after_the_first(done: int, total: int) -> None:
        seen.append(done)
        cancel.set()

    with pytest.raises(Cancelled):
        tiny_model.encode(SENTENCES * 40, batch_size=1, progress=after_the_first, cancel=cancel)
    assert len(seen) == 1
    assert tiny_model.encode(["usable afterwards"]).shape == (1, tiny_model.hidden_size)


def test_long_texts_are_cut_and_say_so(tiny_model: GritLM, caplog: pytest.LogCaptureFixture) -> None:
    long = "river " * 3000
    (result,) = tiny_model.encode_iter([long])
    assert result.truncated
    assert result.tokens == tiny_model.context == 1024
    (short,) = tiny_model.encode_iter(["river"])
    assert not short.truncated
    with caplog.at_level(logging.WARNING):
        tiny_model.encode([long, "river"], max_length=32)
    assert "1 of 2 texts were longer than 32 tokens" in caplog.text


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["a", " \n"], "Text 1 is empty"), (["a", "b", None], "Text 2 is not a string"), ("a string", "list of texts")],
)
def test_unusable_texts_are_named(tiny_model: GritLM, texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_model.encode(texts)


def test_unusable_numbers_are_input_errors(tiny_model: GritLM) -> None:
    for settings in ({"batch_size": 0}, {"max_length": 0}, {"max_length": 3}):
        with pytest.raises(InputError):
            tiny_model.encode(["a text"], **settings)  # type: ignore[arg-type]


def test_normalisation_can_be_left_out(tiny_model: GritLM) -> None:
    raw = tiny_model.encode(TEXTS, normalize=False)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.01
    np.testing.assert_allclose(raw / lengths, tiny_model.encode(TEXTS), atol=1e-6)


def test_no_texts_give_no_vectors(tiny_model: GritLM) -> None:
    assert tiny_model.encode([]).shape == (0, tiny_model.hidden_size)


def test_bfloat16_stays_close(tiny_model: GritLM, tiny_model_folder: Callable[..., Path]) -> None:
    half = GritLM.from_pretrained(tiny_model_folder("mistral"), dtype="bfloat16")
    vectors = half.encode(TEXTS)
    assert vectors.dtype == np.float32
    assert (vectors * tiny_model.encode(TEXTS)).sum(1).min() > 0.99
    (result,) = half.encode_iter(TEXTS[:1], return_cache=True)
    assert result.cache is not None
    assert result.cache.keys.dtype == torch.bfloat16
