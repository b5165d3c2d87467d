"""A mixture whose experts stand apart computes the same, shrinks as promised, and is read one tensor at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
import transformers.core_model_loading
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

from grit_app.gritlm import GritLM
from grit_app.gritlm.load.experts import SeparateMixtralForCausalLM
from grit_app.gritlm.load.loading import load_hf_model
from grit_app.gritlm.load.size import Weights, is_quantizable, read_weights
from grit_app.gritlm.write.runtime import Decoder
from tests.conftest import SENTENCES, tiny_hf_model, tiny_tokenizer

# At more than 0.05 rounding sends tokens of so small a model to other experts: nothing that a bound could be set for.
SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "initializer_range": 0.05}
LAYOUTS = ("published", "stacked")
IDS = [1, 50, 60, 70, 80, 90]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same tiny Mixtral in both layouts."""
    model, made = tiny_hf_model("mixtral", **SHAPE), {}
    for layout in LAYOUTS:
        made[layout] = tmp_path_factory.mktemp(layout)
        model.save_pretrained(made[layout], save_original_format=layout == "published")
        tiny_tokenizer().save_pretrained(made[layout])
        names = "".join(load_file(made[layout] / "model.safetensors"))
        assert ("block_sparse_moe.experts.0.w1.weight" in names) == (layout == "published")
        assert ("mlp.experts.gate_up_proj" in names) == (layout == "stacked")
    return made


@pytest.fixture(scope="module")
def plain(folders: dict[str, Path]) -> GritLM:
    model = GritLM.from_pretrained(folders["published"], dtype="float32")
    assert type(model.hf_model) is MixtralForCausalLM
    return model


def load_separate(folder: Path, quantization: Any = "none") -> Any:
    cpu = torch.device("cpu")
    return load_hf_model(folder, device=cpu, dtype=torch.float32, quantization=quantization, separate_experts=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_apart_they_compute_the_same(folders: dict[str, Path], plain: GritLM, layout: str) -> None:
    """Many tokens and a single one, of which most experts get none, against transformers' stacked experts."""
    separate = load_separate(folders[layout])
    assert isinstance(separate, SeparateMixtralForCausalLM)
    with torch.inference_mode():
        for ids in (IDS, IDS[:1]):
            expected = plain.hf_model(torch.tensor([ids]), output_router_logits=True)
            found = separate(torch.tensor([ids]), output_router_logits=True)
            torch.testing.assert_close(found.logits, expected.logits)
            torch.testing.assert_close(found.router_logits, expected.router_logits)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_they_are_saved_as_published(folders: dict[str, Path], tmp_path: Path, layout: str) -> None:
    load_separate(folders[layout]).save_pretrained(tmp_path)
    saved, published = (load_file(folder / "model.safetensors") for folder in (tmp_path, folders["published"]))
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[name], published[name]) for name in published)
    assert '"MixtralForCausalLM"' in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("quantization", "kind", "times_smaller", "least_cosine"),
    [("4bit", bnb.nn.Linear4bit, 3.5, 0.90), ("8bit", bnb.nn.Linear8bitLt, 1.9, 0.995)],
)
def test_quantized_experts(
    folders: dict[str, Path],
    plain: GritLM,
    layout: str,
    quantization: str,
    kind: type,
    times_smaller: float,
    least_cosine: float,
) -> None:
    """Stored bytes (with their scales) against bfloat16, the estimate, vectors, and the decoder's own forward."""
    model = GritLM.from_pretrained(folders[layout], quantization, dtype="float32")
    matrices = [m for name, m in model.hf_model.named_modules() if ".experts." in name and hasattr(m, "weight")]
    assert len(matrices) == 2 * 4 * 3 and all(type(matrix) is kind for matrix in matrices)
    in_bfloat16 = 2 * len(matrices) * 128 * 256
    assert in_bfloat16 / sum(map(stored_bytes, matrices)) > times_smaller
    estimate = read_weights(folders[layout]).memory_bytes(torch.float32, quantization)
    assert model.describe()["memory_bytes"] == pytest.approx(estimate, rel=0.03)
    assert model.describe()["parameters"] == plain.describe()["parameters"]

    vectors = plain.encode(SENTENCES)
    cosines = (model.encode(SENTENCES) * vectors).sum(1)
    assert least_cosine <= cosines.min() < 1 - 1e-6
    assert (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)].max() < least_cosine

    decoder = Decoder(model.hf_model)
    found = decoder.logits(IDS, decoder.workspace(None, len(IDS)))
    with torch.inference_mode():
        expected = model.hf_model(torch.tensor([IDS])).logits[0, -1]
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)
    assert model.stream([{"role": "user", "content": "Hello"}], max_new_tokens=3).read_all() is not None


def stored_bytes(matrix: Any) -> int:
    """Bytes of a quantised matrix and of what is needed to expand it, without the tables that all matrices share."""
    weight = matrix.weight
    if isinstance(weight, bnb.nn.Params4bit):
        state = weight.quant_state
        assert state.quant_type == "nf4" and state.nested
        return weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    return weight.nbytes + weight.SCB.nbytes


@pytest.mark.parametrize(("layout", "matrices"), [("published", 1), ("stacked", 2 * 4)])
def test_weights_are_read_one_after_the_other(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, layout: str, matrices: int
) -> None:
    """When a tensor is read, all of full size that were read before are gone: else 93 GB would gather."""
    read, most = [], 0
    original: Callable[..., torch.Tensor] = transformers.core_model_loading._materialize_copy

    def spy(*arguments: Any, **settings: Any) -> torch.Tensor:
        nonlocal most
        tensor = original(*arguments, **settings)
        if tensor.dim() > 1 and 512 not in tensor.shape:  # the table of tokens stays as it is
            read.append(weakref.ref(tensor))
        most = max(most, sum(alive.numel() for reference in read if (alive := reference()) is not None))
        return tensor

    monkeypatch.setattr(transformers.core_model_loading, "_materialize_copy", spy)
    load_separate(folders[layout], "4bit")
    assert len(read) > 10
    assert most <= matrices * 128 * 256


@pytest.mark.parametrize("kind", [MixtralForCausalLM, SeparateMixtralForCausalLM])
def test_gritlm_8x7b_in_4_bits(kind: Any) -> None:
    """The published shape (the configuration's defaults), without memory: 46.7 B parameters come to about 25 GB."""
    with torch.device("meta"):
        model = kind(MixtralConfig())
    sizes = {name: (parameter.numel(), list(parameter.shape)) for name, parameter in model.named_parameters()}
    counted = Weights(
        parameters=sum(size for size, _ in sizes.values()),
        quantizable=sum(size for name, (size, shape) in sizes.items() if is_quantizable(name, shape)),
    )
    assert counted.parameters == 46_702_792_704
    attention, experts = 2 * 4096 * (4096 + 1024), 8 * 3 * 4096 * 14336
    assert counted.quantizable == 32 * (attention + experts)
    assert counted.memory_bytes(torch.bfloat16, "4bit") == pytest.approx(24.6e9, rel=0.01)
    assert counted.memory_bytes(torch.bfloat16, "none") == pytest.approx(93.4e9, rel=0.01)
