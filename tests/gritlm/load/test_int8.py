"""Int8 checkpoints: recognised, whole, and the same model as the matrices that were written, up to half a step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from grit_app.gritlm import GritLM
from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.load import int8
from grit_app.gritlm.load.size import read_weights, weight_files
from grit_app.gritlm.load.sources import fingerprint
from tests.conftest import FAMILIES, SENTENCES


def int8_copy(folder: Path, target: Path, largest_file_bytes: int = 20_000) -> Path:
    """The int8 form of a plain checkpoint, in several files."""
    shutil.copytree(folder, target)
    state = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    int8.write(state, target, largest_file_bytes)
    return target


@pytest.fixture
def folder(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return int8_copy(tiny_model_folder("mistral"), tmp_path / "int8")


def test_no_weight_is_off_by_more_than_half_a_step() -> None:
    weight = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    weight[3] = 0.0
    values, scale = int8.quantize(weight)
    assert values.dtype == torch.int8 and scale.shape == (7,)
    error = (int8.dequantize(values, scale, torch.float32) - weight).abs()
    assert (error <= 0.5 * scale[:, None] + 1e-7).all() and error.max() > 0
    assert (error[3] == 0).all(), "a row of zeros stays one"


def rounded(weight: torch.Tensor) -> torch.Tensor:
    return int8.dequantize(*int8.quantize(weight), torch.float32)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_training_added_to_int8_weights_is_not_rounded_away(times: int) -> None:
    """A change of a tenth of a step along some direction, run after run: nearly all of each must survive."""
    generator = torch.Generator().manual_seed(times)
    weight = torch.randn(64, 576, generator=generator)
    for _ in range(times):
        start, learnt = rounded(weight), torch.randn(64, 576, generator=generator)
        weight = start + 0.1 * (start.abs().amax(1) / 127)[:, None] * learnt
        share = ((rounded(weight) - start) * learnt).sum() / ((weight - start) * learnt).sum()
        assert share == pytest.approx(1, abs=0.15)


def test_int8_weights_that_were_not_trained_on_stay_exact() -> None:
    weight = torch.randn(64, 576, generator=torch.Generator().manual_seed(0))
    step = (weight.abs().amax(1) / 127)[:, None]
    for start in (rounded(weight), rounded(rounded(weight) + 0.1 * step * torch.randn_like(weight))):
        assert (rounded(start) - start).abs().max() < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loaded_model_is_the_written_one(
    tiny_model_folder: Callable[..., Path], tmp_path: Path, family: str
) -> None:
    """Against a second, naive reader: every tensor of the files multiplied out by hand."""
    plain = tiny_model_folder(family)
    folder = int8_copy(plain, tmp_path / "int8")
    assert len(weight_files(folder)) > 1
    stored: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        stored |= load_file(file)
    expected = {
        name: value.double() * stored[name + ".scale"].double()[..., None] if value.dtype == torch.int8 else value
        for name, value in stored.items()
        if not name.endswith(".scale")
    }
    aside = shutil.copytree(plain, tmp_path / "by-hand")
    save_file(
        {name: value.float().contiguous() for name, value in expected.items()},
        aside / "model.safetensors",
        {"format": "pt"},
    )
    loaded, by_hand = GritLM.from_pretrained(folder, dtype="float32"), GritLM.from_pretrained(aside, dtype="float32")
    for name, value in by_hand.hf_model.state_dict().items():
        torch.testing.assert_close(loaded.hf_model.state_dict()[name], value, rtol=1e-6, atol=0, msg=name)
    np.testing.assert_allclose(loaded.encode(SENTENCES), by_hand.encode(SENTENCES), atol=1e-5)
    original = GritLM.from_pretrained(plain, dtype="float32").encode(SENTENCES)
    cosine = (loaded.encode(SENTENCES) * original).sum(1)
    assert 0.99 < cosine.min() < 1 - 1e-7


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_computes_in_the_asked_precision_and_takes_the_memory_that_was_said(folder: Path, dtype: str) -> None:
    model = GritLM.from_pretrained(folder, dtype=dtype)
    precision = getattr(torch, dtype)
    assert {parameter.dtype for parameter in model.hf_model.parameters()} == {precision}
    buffers = sum(buffer.nbytes for buffer in model.hf_model.buffers())
    assert read_weights(folder).loading_bytes(precision) == model.describe()["memory_bytes"] - buffers
    assert model.hf_model.name_or_path == str(folder)


def test_it_loads_in_8_bit_as_well(folder: Path) -> None:
    model = GritLM.from_pretrained(folder, quantization="8bit", dtype="float32")
    assert model.encode(["text"]).shape == (1, 32)


def test_files_stay_below_their_limit_and_hold_a_matrix_with_its_scales(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = int8_copy(tiny_model_folder("llama"), tmp_path / "int8", largest_file_bytes=20_000)
    files = weight_files(folder)
    assert [file.name for file in files] == int8.file_names(folder)
    for file in files:
        tensors = load_file(file)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 20_000
        for name, tensor in tensors.items():
            assert (tensor.dtype == torch.int8) == (name + ".scale" in tensors)


def test_a_missing_file_is_named(folder: Path) -> None:
    victim = weight_files(folder)[1]
    victim.unlink()
    with pytest.raises(ModelError, match=victim.name):
        GritLM.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_file_that_was_cut_short_is_named(folder: Path, keep: int) -> None:
    victim = weight_files(folder)[-1]
    victim.write_bytes(victim.read_bytes()[:keep])
    with pytest.raises(ModelError, match=f"{victim.name} is not a whole safetensors file") as caught:
        GritLM.from_pretrained(folder)
    assert "Copy or download the model again" in str(caught.value)


@pytest.mark.parametrize("entry", [{"format": "int4-rows-9", "files": ["a"]}, "int8", {"format": "int8-rows-1"}])
def test_an_unknown_form_is_refused(folder: Path, entry: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"grit_quantization": entry}))
    with pytest.raises(ModelError, match="a form that this program does not know"):
        GritLM.from_pretrained(folder)


def test_the_identity_follows_every_file(folder: Path) -> None:
    """Caches of other weights must never be used, in whichever file the difference lies."""
    before = fingerprint(folder)
    for file in weight_files(folder):
        tensors = load_file(file)
        name = next(name for name, tensor in tensors.items() if tensor.dtype == torch.int8)
        tensors[name][0, 0] += 1
        save_file(tensors, file)
        after = fingerprint(folder)
        assert after != before
        before = after


def test_plain_transformers_finds_no_weights_instead_of_wrong_ones(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)


def test_the_served_model_is_whole_and_fits_a_repository() -> None:
    folder = Path(__file__).resolve().parents[3] / "assets" / "gritlm-135m"
    assert read_weights(folder).parameters == 134_515_008
    assert all(file.stat().st_size < 48_000_000 for file in weight_files(folder))
