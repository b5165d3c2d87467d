"""The laws of the model on the device at hand: one command proves them on a GPU, `pytest -m gpu`.

What runs on a GPU is compared with the same weights on the CPU: other kernels, other buffers, captured graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from grit_app.gritlm import GritLM, KVCache, Sampling, join
from grit_app.gritlm.cache.file import load as load_cache
from grit_app.gritlm.cache.file import save as save_cache
from grit_app.gritlm.write.fixed_step import can_be_captured, steps_of
from grit_app.gritlm.write.runtime import Decoder
from tests.conftest import FAMILIES, SENTENCES

Load = Callable[..., Any]


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """TensorFloat-32 rounds products to ten bits, which is not what is compared here."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture
def on_cpu(load_tiny: Load) -> Load:
    return load_tiny


def ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_the_cpu(load_on: Load, on_cpu: Load, family: str) -> None:
    """Padded and unpadded batches take different kernels."""
    model = load_on(family)
    for texts in (list(SENTENCES), [SENTENCES[0]] * 3):
        np.testing.assert_allclose(model.encode(texts), on_cpu(family).encode(texts), atol=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_are_those_of_the_cpu(load_on: Load, on_cpu: Load, family: str, temperature: float) -> None:
    """Prompts, tails and tokens; on a GPU most tokens come from captured graphs. The seed is the host's."""
    sampling = Sampling(max_new_tokens=24, temperature=temperature, seed=5)
    answer = load_on(family).stream_ids(ids(40), sampling=sampling)
    expected = on_cpu(family).stream_ids(ids(40), sampling=sampling)
    assert answer.read_all() == expected.read_all()
    assert len(answer.token_ids) > 2


def test_tokens_come_from_graphs_where_the_device_has_them(load_on: Load, device: str) -> None:
    model: GritLM = load_on("llama")
    steps_of(model.hf_model).clear()
    model.stream_ids(ids(40), sampling=Sampling(max_new_tokens=8)).read_all()
    decoder = Decoder(model.hf_model)
    assert can_be_captured(decoder, "none") == (device == "cuda")
    slots = steps_of(model.hf_model)._free
    assert len(slots) == (1 if device == "cuda" else 0)
    assert all(graph is not None for slot in slots for graph in slot._graphs.values())


@pytest.mark.parametrize("tail", [1, 3, 64, 65, 300])
def test_tails_over_joined_caches_are_those_of_the_cpu(load_on: Load, on_cpu: Load, tail: int) -> None:
    """Caches in the device's memory, and in the machine's: those travel through pinned buffers."""

    def logits(model: GritLM, on_host: bool) -> torch.Tensor:
        caches = [model.causal_cache(ids(30 + part, part)) for part in range(3)]
        if on_host:
            caches = [moved(cache, torch.device("cpu")) for cache in caches]
        joined = join(caches, model.rope)
        assert joined.keys.device.type == model.device.type
        decoder = Decoder(model.hf_model)
        return decoder.logits(ids(tail, 9), decoder.workspace(joined, tail)).cpu()

    model, expected = load_on("mistral"), logits(on_cpu("mistral"), False)
    assert expected.std() > 0.3
    for on_host in (False, True):
        torch.testing.assert_close(logits(model, on_host), expected, atol=3e-4, rtol=0)


def moved(cache: KVCache, device: torch.device) -> KVCache:
    return replace(cache, keys=cache.keys.to(device), values=cache.values.to(device))


@pytest.mark.parametrize("scheme", ["native", "int8", "int4"])
def test_caches_come_back_from_files(load_on: Load, scheme: Any, tmp_path: Any) -> None:
    model: GritLM = load_on("mistral")
    (encoding,) = model.encode_iter([SENTENCES[0]], return_cache=True)
    packed = moved(encoding.cache, torch.device("cpu")).packed(scheme)
    save_cache(packed, tmp_path / "cache.safetensors", identity=model.identity)
    again = load_cache(tmp_path / "cache.safetensors", identity=model.identity)
    assert again is not None
    joined = [join([cache], model.rope).keys.cpu() for cache in (packed, again)]
    assert torch.equal(*joined)


def test_likelihoods_are_those_of_the_cpu(load_on: Load, on_cpu: Load) -> None:
    """A tree of continuations: the one path that needs a mask."""
    continuations = [ids(5, seed) for seed in range(4)] + [ids(5, 0)[:3]]
    scores = [model.score(ids(20, 8), continuations) for model in (load_on("mistral"), on_cpu("mistral"))]
    np.testing.assert_allclose(*scores, atol=2e-3)


def test_low_precision_is_near_the_exact_numbers(load_on: Load, on_cpu: Load, device: str) -> None:
    """What a GPU serves in. CPUs without units for it are far too slow, but not wrong."""
    vectors = load_on("mistral", dtype="bfloat16").encode(list(SENTENCES))
    expected = on_cpu("mistral").encode(list(SENTENCES))
    assert (vectors * expected).sum(axis=1).min() > 0.99


def test_a_failed_allocation_is_a_sentence(load_on: Load, device: str) -> None:
    """On a GPU a real one, of more memory than any card has."""
    from grit_app.gritlm.errors import ModelError
    from grit_app.gritlm.memory import with_second_try

    def allocate() -> None:
        if device == "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory")
        torch.empty(1 << 45, dtype=torch.uint8, device=device)

    with pytest.raises(ModelError, match="memory does not suffice"):
        with_second_try(allocate, "")
