"""Few tokens are multiplied with an int8 checkpoint's rows, as near to the exact product as many with the weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from grit_app.gritlm import GritLM
from grit_app.gritlm.load import int8
from grit_app.gritlm.load.few_rows import MOST_ROWS, FewRowsLinear, rows_bytes
from grit_app.gritlm.load.size import weight_files
from tests.gritlm.load.test_int8 import int8_copy


@pytest.fixture
def folder(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    return int8_copy(tiny_model_folder("llama"), tmp_path / "int8")


def layers(model: GritLM) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.hf_model.named_modules() if isinstance(module, nn.Linear)}


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in weight_files(folder) for name, tensor in load_file(file).items()}


def test_few_tokens_are_as_near_to_the_exact_product_as_many(folder: Path) -> None:
    """Against float64 over the file's own numbers; one token more than MOST_ROWS goes through the products."""
    model = GritLM.from_pretrained(folder, device="cpu", dtype="bfloat16")
    files, found = stored(folder), layers(model)
    assert found and all(isinstance(layer, FewRowsLinear) for layer in found.values())
    for name, layer in found.items():
        weight = files[f"{name}.weight"].double() * files[f"{name}.weight" + int8.SCALE].double()[:, None]
        x = torch.randn(1, MOST_ROWS + 1, layer.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
        exact = x.double() @ weight.T
        with torch.inference_mode():
            few, many = layer(x[:, :MOST_ROWS]), layer(x)
        assert many.equal(nn.functional.linear(x, layer.weight))
        errors = [float((y.double() - e).norm() / e.norm()) for y, e in ((few, exact[:, :MOST_ROWS]), (many, exact))]
        assert few.shape == (1, MOST_ROWS, layer.out_features) and errors[0] < max(0.004, 1.5 * errors[1]), name


def test_an_answer_reads_the_rows_and_says_what_the_products_say(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = GritLM.from_pretrained(folder, device="cpu", dtype="bfloat16")
    read: list[int] = []
    rows_product = torch._weight_int8pack_mm

    def counted(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        read.append(len(x))
        return rows_product(x, *weights)

    monkeypatch.setattr(torch, "_weight_int8pack_mm", counted)
    vector = model.encode(["How is honey made by the bees of the valley?"])
    assert read == [], "texts are read as before"
    model.generate([{"role": "user", "content": "How is honey made?"}], 4)
    assert read and max(read) <= MOST_ROWS
    assert vector.shape[1] == model.hf_model.config.hidden_size


def test_other_checkpoints_and_precisions_are_left_alone(folder: Path, tiny_model_folder: Callable[..., Path]) -> None:
    exact = GritLM.from_pretrained(folder, device="cpu", dtype="float32")
    plain = GritLM.from_pretrained(tiny_model_folder("llama"), device="cpu", dtype="bfloat16")
    for model in (exact, plain):
        assert not any(isinstance(layer, FewRowsLinear) for layer in layers(model).values())
        assert rows_bytes(model.hf_model) == 0
    model = GritLM.from_pretrained(folder, device="cpu", dtype="bfloat16")
    assert model.describe()["memory_bytes"] == model.hf_model.get_memory_footprint() + rows_bytes(model.hf_model)


def test_a_file_that_is_replaced_changes_nothing(folder: Path) -> None:
    model = GritLM.from_pretrained(folder, device="cpu", dtype="bfloat16")
    before = model.generate([{"role": "user", "content": "How is honey made?"}], 8)
    for file in weight_files(folder):
        save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file)
    assert model.generate([{"role": "user", "content": "How is honey made?"}], 8) == before
