"""Moved keys are the keys of the same text at other positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from grit_app.gritlm.cache.rope import Rope
from grit_app.gritlm.errors import ModelError
from tests.conftest import FAMILIES, tiny_hf_model

SCALED = {
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256},
}


@torch.inference_mode()
def keys_at(hf_model: Any, start: int, count: int = 12) -> Tensor:
    """[L, kv_heads, T, d] of the same ids, read at positions `start` …"""
    ids = torch.randint(3, 512, (1, count), generator=torch.Generator().manual_seed(5))
    positions = torch.arange(start, start + count)[None]
    output = hf_model.model(ids, position_ids=positions, is_causal=False, use_cache=True)
    return torch.stack([layer.keys[0] for layer in output.past_key_values.layers])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("delta", [1, 37, 700, -5])
def test_moving_equals_encoding_at_shifted_positions(family: str, delta: int) -> None:
    hf_model = tiny_hf_model(family)
    start = 10
    original, shifted = keys_at(hf_model, start), keys_at(hf_model, start + delta)
    assert (original - shifted).abs().max() > 0.1, "keys that do not depend on positions prove nothing"
    moved = Rope.of(hf_model).move(original, delta)
    assert (moved - shifted).abs().max() < 1e-4


@pytest.mark.parametrize("kind", SCALED)
def test_scaled_rotations_move_without_scaling_again(kind: str) -> None:
    """The attention factor is inside the cached key; applying it twice would grow every score."""
    hf_model = tiny_hf_model("llama", rope_parameters=SCALED[kind])
    assert hf_model.model.rotary_emb.rope_type == kind
    if kind == "yarn":
        assert hf_model.model.rotary_emb.attention_scaling != 1.0
    original, shifted = keys_at(hf_model, 0), keys_at(hf_model, 90)
    assert (Rope.of(hf_model).move(original, 90) - shifted).abs().max() < 1e-4


def test_moving_forth_and_back_gives_the_keys_again() -> None:
    hf_model = tiny_hf_model("mistral")
    rope, keys = Rope.of(hf_model), keys_at(hf_model, 0)
    assert (rope.move(rope.move(keys, 1234), -1234) - keys).abs().max() < 1e-5
    assert torch.equal(rope.move(keys, 0), keys)


def test_the_angle_stays_exact_over_long_distances() -> None:
    """A float32 product of position and frequency would be off by thousandths of a radian here."""
    hf_model = tiny_hf_model("mistral")
    rope, keys = Rope.of(hf_model), keys_at(hf_model, 0)
    far = 1_000_003
    half = keys.shape[-1] // 2
    z = torch.complex(keys[..., :half].double(), keys[..., half:].double())
    z = z * torch.polar(torch.ones(half, dtype=torch.float64), far * rope.inv_freq.double())
    expected = torch.cat([z.real, z.imag], dim=-1)
    assert (rope.move(keys, far).double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keys_are_rounded_once(dtype: torch.dtype) -> None:
    """Rotating in the low precision itself would round each product too."""
    hf_model = tiny_hf_model("mistral")
    rope, keys = Rope.of(hf_model), keys_at(hf_model, 0).to(dtype)
    expected = rope.move(keys.float(), 77).to(dtype)
    assert torch.equal(rope.move(keys, 77), expected)


def test_moves_into_a_larger_buffer_and_leaves_the_rest_alone() -> None:
    hf_model = tiny_hf_model("mistral")
    rope, keys = Rope.of(hf_model), keys_at(hf_model, 0)
    buffer = torch.full((*keys.shape[:2], 40, keys.shape[3]), 7.0)
    rope.move(keys, 9, out=buffer[:, :, 5:17])
    assert torch.equal(buffer[:, :, 5:17], rope.move(keys, 9))
    assert (buffer[:, :, :5] == 7).all() and (buffer[:, :, 17:] == 7).all()


def test_rotations_that_depend_on_length_are_refused_with_a_sentence() -> None:
    """Dynamic NTK turns by other angles in longer texts: a key cannot be carried over."""
    settings = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    rope = Rope.of(tiny_hf_model("llama", rope_parameters=settings))
    keys = torch.randn(2, 2, 3, 8)
    assert not rope.is_movable
    with pytest.raises(ModelError, match=r"'dynamic'.*doc_cache"):
        rope.move(keys, 4)
    assert torch.equal(rope.move(keys, 0), keys), "a document in its place needs no move"
