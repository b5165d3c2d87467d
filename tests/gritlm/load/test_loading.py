"""Where models come from, that they are what they seem, and that what cannot work is said in a sentence."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from grit_app.gritlm import GritLM
from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.load import loading, sources
from grit_app.gritlm.load.loading import FULL_SIZE_MODEL, resolve_device, resolve_dtype, resolve_model
from grit_app.gritlm.load.size import WORKING_BYTES, Weights, read_weights
from grit_app.gritlm.load.sources import cached_folder, find_folder, fingerprint
from tests.conftest import FAMILIES, SENTENCES, tiny_hf_model, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[3]


def published_layout(folder: Path, **changes: Any) -> Path:
    """A tiny model laid out as GritLM-7B is on the hub: shards, old configuration keys, modelling code beside them."""
    tiny_hf_model("mistral", tie_word_embeddings=False, **changes).save_pretrained(folder, max_shard_size="60KB")
    tiny_tokenizer().save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {
        "rope_theta": rope["rope_theta"],
        "torch_dtype": "bfloat16",
        "sliding_window": 8,
        "transformers_version": "4.37.2",
        "auto_map": {
            "AutoModel": "modeling_gritlm7b.MistralModel",
            "AutoModelForCausalLM": "modeling_gritlm7b.MistralForCausalLM",
        },
    }
    config.pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling_gritlm7b.py").write_text("raise SystemExit('code from a model folder was run')\n")
    return folder


# --- stock classes only ---


def test_the_published_layout_loads_without_its_code(tmp_path: Path) -> None:
    folder = published_layout(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    model = GritLM.from_pretrained(folder, dtype="float32")
    assert type(model.hf_model).__module__ == "transformers.models.mistral.modeling_mistral"
    expected = 500.0 ** (-torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(model.rope.inv_freq, expected, msg="rope_theta of the old configuration was lost")
    original = tiny_hf_model(
        "mistral", tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    )
    for name, tensor in original.state_dict().items():
        assert torch.equal(model.hf_model.state_dict()[name], tensor), name


def test_the_sliding_window_is_off(tmp_path: Path) -> None:
    """A window of 8 would narrow both kinds of attention of this 60-token text, and cut its cache."""
    folder = published_layout(tmp_path)
    assert json.loads((folder / "config.json").read_text())["sliding_window"] == 8
    model = GritLM.from_pretrained(folder, dtype="float32")
    (result,) = model.encode_iter([SENTENCES[0] * 4], return_cache=True)
    without = GritLM(tiny_hf_model("mistral", tie_word_embeddings=False), tiny_tokenizer())
    np.testing.assert_allclose(result.vector, without.encode([SENTENCES[0] * 4])[0], atol=1e-6)
    assert result.cache is not None
    assert result.cache.length == result.tokens > 60


def test_qwen_windows_are_off(tmp_path: Path) -> None:
    tiny_hf_model("qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=0).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "sliding_attention" in config["layer_types"]
    model = GritLM.from_pretrained(tmp_path, dtype="float32")
    without = GritLM(tiny_hf_model("qwen2"), tiny_tokenizer())
    np.testing.assert_allclose(model.encode(SENTENCES), without.encode(SENTENCES), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_saved_weights_come_back(tiny_model_folder: Callable[..., Path], family: str, tied: bool) -> None:
    model = GritLM.from_pretrained(tiny_model_folder(family, tie_word_embeddings=tied), dtype="float32")
    original = tiny_hf_model(family, tie_word_embeddings=tied)
    ids = torch.tensor([[1, 50, 60, 70]])
    with torch.inference_mode():
        torch.testing.assert_close(model.hf_model(ids).logits, original(ids).logits)
    head, table = model.hf_model.get_output_embeddings().weight, model.hf_model.get_input_embeddings().weight
    assert (head is table) == tied


# --- damaged or unsuitable folders ---


@pytest.fixture
def folder(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(tiny_model_folder("mistral"), tmp_path / "model"))


def spoil(folder: Path, what: str) -> None:
    weights = folder / "model.safetensors"
    if what == "prefix":
        save_file({f"module.{name}": tensor for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    elif what == "cut":
        weights.write_bytes(weights.read_bytes()[:200])
    elif what == "no config":
        (folder / "config.json").unlink()
    elif what == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif what == "bad tokenizer":
        (folder / "tokenizer.json").write_text('{"model": 3}')
    elif what == "pickles only":
        weights.rename(folder / "pytorch_model.bin")
    elif what == "unknown kind":
        (folder / "config.json").write_text('{"model_type": "martian"}')
    elif what == "bad config":
        (folder / "config.json").write_text("{")
    elif what == "other shape":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("prefix", "lacks .* tensors"),
        ("cut", "not a whole safetensors file"),
        ("no config", "no config.json"),
        ("no tokenizer", "no tokenizer.json"),
        ("bad tokenizer", "tokenizer in .* cannot be read"),
        ("pickles only", "Only safetensors weights"),
        ("unknown kind", "unknown to transformers"),
        ("bad config", "not a model configuration"),
        ("other shape", "cannot be loaded"),
    ],
)
def test_spoiled_folders_are_explained(folder: Path, what: str, message: str) -> None:
    spoil(folder, what)
    with pytest.raises(ModelError, match=message) as caught:
        GritLM.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    published_layout(tmp_path)
    victim = sorted(tmp_path.glob("model-*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(ModelError, match=victim.name):
        GritLM.from_pretrained(tmp_path)


def test_a_file_that_was_cut_short_is_not_whole(folder: Path) -> None:
    """An interrupted copy: the header is there, the last tensors are not. Said before anything is loaded."""
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"model\.safetensors is not a whole .* Copy or download the model again"):
        GritLM.from_pretrained(folder)


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_damaged_index_is_said(tmp_path: Path, index: str) -> None:
    published_layout(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"index\.json is damaged"):
        GritLM.from_pretrained(tmp_path)


def test_a_tokenizer_with_more_tokens_than_rows_is_refused(tmp_path: Path) -> None:
    """Added tokens without a resized table: the first text that needs one would end the process on a GPU."""
    tokenizer = tiny_tokenizer()
    tiny_hf_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    rows = len(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    assert GritLM.from_pretrained(tmp_path, dtype="float32").encode(["text"]).shape == (1, 32)
    tokenizer.add_tokens([f"<added {number}>" for number in range(3)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=f"has {rows + 3} tokens, but the model's table has only {rows} rows"):
        GritLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["no/such/folder", "missing-folder", "/absolute/missing"])
def test_names_that_are_nothing(name: str) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        find_folder(name)


# --- the hub's cache ---


@pytest.fixture
def hub_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache as huggingface_hub lays it out, holding `owner/tiny`; gives the snapshot's folder."""
    repository = tmp_path / "hub" / "models--owner--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


def test_a_cached_hub_model_needs_no_network(hub_cache: Path) -> None:
    assert find_folder("owner/tiny") == hub_cache
    model = GritLM.from_pretrained("owner/tiny", dtype="float32")
    assert model.name == "owner/tiny"
    assert model.encode(["text"]).shape == (1, 32)


def test_a_half_downloaded_model_is_not_used(hub_cache: Path) -> None:
    (hub_cache / "model.safetensors").unlink()
    assert cached_folder("owner/tiny") is None
    with pytest.raises(ModelError, match="owner/tiny is not on this machine and could not be downloaded"):
        find_folder("owner/tiny")
    with pytest.raises(ModelError, match="Allow downloading it"):
        find_folder("owner/tiny", local_only=True)


# --- precision, quantisation, memory ---


def test_precisions_and_devices() -> None:
    cpu = torch.device("cpu")
    assert resolve_dtype(cpu, "bfloat16") == torch.bfloat16
    assert resolve_dtype(cpu, torch.float16) == torch.float16
    assert resolve_dtype(cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ModelError, match="no dtype 'int8'"):
        resolve_dtype(cpu, "int8")
    assert resolve_device("cpu") == cpu
    with pytest.raises(ModelError, match="no device 'gpu'"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_missing_gpu_is_said() -> None:
    with pytest.raises(ModelError, match="no CUDA GPU"):
        resolve_device("cuda")
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
    ],
)
def test_cpus_that_multiply_bfloat16_use_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_dtype(torch.device("cpu")) == expected


@pytest.mark.parametrize("family", ["mistral", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("quantization", "least_cosine"), [("8bit", 0.995), ("4bit", 0.90)])
def test_quantized_vectors_stay_close(load_tiny: Any, family: str, quantization: str, least_cosine: float) -> None:
    """bitsandbytes on the CPU, and for nothing: the layers must really be small, and the model must still write."""
    shape = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "initializer_range": 0.1}
    plain = load_tiny(family, **shape)
    quantized = GritLM.from_pretrained(plain.hf_model.name_or_path, quantization, dtype="float32")
    assert quantized.quantization == quantization
    expected = read_weights(Path(plain.hf_model.name_or_path)).memory_bytes(torch.float32, quantization)
    assert quantized.describe()["memory_bytes"] == pytest.approx(expected, rel=0.02)
    assert expected < 0.5 * plain.describe()["memory_bytes"]
    assert quantized.describe()["parameters"] == plain.describe()["parameters"]

    vectors = plain.encode(SENTENCES)
    cosines = (quantized.encode(SENTENCES) * vectors).sum(1)
    assert least_cosine <= cosines.min() < 1 - 1e-6
    others = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    assert others.max() < least_cosine, "texts must be further apart than the tolerance"
    assert quantized.generate([{"role": "user", "content": "Hello"}], max_new_tokens=3) is not None
    assert quantized.identity != plain.identity


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_what_loading_takes(load_tiny: Any, family: str) -> None:
    model = load_tiny(family)
    weights = read_weights(Path(model.hf_model.name_or_path))
    assert weights.parameters == model.describe()["parameters"]
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in model.hf_model.buffers())
    assert weights.memory_bytes(torch.float32) == model.describe()["memory_bytes"] - buffers


GRITLM_7B = Weights(parameters=7_241_732_096, quantizable=6_979_321_856)


@pytest.mark.parametrize(
    ("free_gb", "asked", "chosen"),
    [(24, "auto", "none"), (8, "auto", "4bit"), (24, "4bit", "4bit"), (10, "8bit", "8bit"), (24, "none", "none")],
)
def test_auto_takes_the_best_that_fits(monkeypatch: pytest.MonkeyPatch, free_gb: int, asked: str, chosen: str) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda device: free_gb * 10**9)
    assert (
        loading.choose_quantization(asked, GRITLM_7B, torch.bfloat16, torch.device("cuda"), FULL_SIZE_MODEL) == chosen
    )


def test_what_cannot_fit_is_told_with_numbers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(loading, "free_bytes", lambda device: 8 * 10**9)
    with pytest.raises(ModelError, match=r"needs about 15\.0 GB .* 8\.0 GB free\. Use --quantization 4bit"):
        loading.choose_quantization("none", GRITLM_7B, torch.bfloat16, torch.device("cpu"), "GritLM-7B")
    monkeypatch.setattr(loading, "free_bytes", lambda device: WORKING_BYTES)
    with pytest.raises(ModelError, match="Use a smaller model"):
        GritLM.from_pretrained(folder, quantization="auto")
    with pytest.raises(ModelError, match="quantization must be one of"):
        GritLM.from_pretrained(folder, quantization="2bit")


@pytest.mark.parametrize(
    ("device", "free_gb", "expected"),
    [
        ("cpu", [], {"": torch.device("cpu")}),
        ("cuda:1", [40, 40], {"": torch.device("cuda:1")}),
        ("cuda", [10, 40], {"": 1}),
        ("cuda", [10, 10], "balanced"),
    ],
)
def test_gpus_share_a_model_only_where_one_is_too_small(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, free_gb: list[int], expected: Any
) -> None:
    """One GPU is faster than two; which one is named by the user, or the roomiest."""
    monkeypatch.setattr(loading, "read_weights", lambda folder: GRITLM_7B)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(free_gb))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (free_gb[index] * 10**9, 80 * 10**9))
    assert loading._device_map(tmp_path, torch.device(device), torch.bfloat16, "none") == expected


# --- the automatic choice ---


def test_auto_without_a_gpu_is_the_bundled_model() -> None:
    choice = resolve_model("auto", "assets/gritlm-135m", device="cpu")
    assert (choice.source, choice.notice) == ("assets/gritlm-135m", "")
    assert resolve_model("some/model", "assets/gritlm-135m").source == "some/model"


@pytest.mark.parametrize(
    ("reachable", "free_gb", "source", "notice"),
    [
        (True, 24, FULL_SIZE_MODEL, ""),
        (True, 3, "bundled", "needs about"),
        (False, 24, "bundled", "hub cannot be reached"),
    ],
)
def test_auto_with_a_gpu(
    monkeypatch: pytest.MonkeyPatch, reachable: bool, free_gb: int, source: str, notice: str
) -> None:
    """GritLM-7B needs a GPU with room and weights that can be had; otherwise the user is told why not."""
    monkeypatch.setattr(loading, "resolve_device", lambda device: torch.device("cuda"))
    monkeypatch.setattr(loading, "resolve_dtype", lambda device: torch.bfloat16)
    monkeypatch.setattr(loading, "free_bytes", lambda device: free_gb * 10**9)
    monkeypatch.setattr(loading, "cached_folder", lambda name: None)
    monkeypatch.setattr(loading, "remote_weights", lambda name: GRITLM_7B if reachable else None)
    choice = resolve_model("auto", "bundled")
    assert choice.source == source
    assert notice in choice.notice
    assert bool(notice) == bool(choice.notice)


# --- identity ---


def test_identity_follows_the_content(folder: Path, tmp_path: Path) -> None:
    """Caches are used again only where the identity is equal: it must depend on all but the path."""
    base = GritLM.from_pretrained(folder, dtype="float32").identity
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert GritLM.from_pretrained(copy, dtype="float32").identity == base
    assert GritLM.from_pretrained(folder, dtype="bfloat16").identity != base
    assert GritLM.from_pretrained(folder, dtype="float32", attention="cccc").identity != base
    tensors = load_file(copy / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    assert GritLM.from_pretrained(copy, dtype="float32").identity != base


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_fingerprint_covers_settings_and_tokenizer(folder: Path, file: str) -> None:
    before = fingerprint(folder)
    (folder / file).write_text((folder / file).read_text() + " ")
    assert fingerprint(folder) != before


def test_large_files_are_sampled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor of a new training run differs, so samples tell runs apart without reading gigabytes."""
    monkeypatch.setattr(sources, "HASHED_WHOLE_BYTES", 1000)
    monkeypatch.setattr(sources, "SAMPLE_BYTES", 64)
    before = fingerprint(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t + 1e-3 for n, t in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    assert fingerprint(folder) != before


# --- manners ---


def test_overriding_the_checkpoint_warns(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    GritConfig(attention="bbcc", pooling="mean").save(folder)
    with caplog.at_level(logging.WARNING):
        GritLM.from_pretrained(folder, attention="bbcc", pooling="mean")
        assert not caplog.records
        model = GritLM.from_pretrained(folder, attention="cccc", pooling="lasttoken")
    assert [record.message.rsplit("model ")[-1] for record in caplog.records] == [
        "was trained with attention bbcc and now runs with cccc.",
        "was trained with pooling mean and now runs with lasttoken.",
    ]
    assert (model.config.attention, model.config.pooling) == ("cccc", "lasttoken")
    with pytest.raises(ModelError, match="attention must be one of"):
        GritLM.from_pretrained(folder, attention="cb")


def test_loading_is_quiet(folder: Path) -> None:
    """No bars and no remarks: what is printed belongs to the program, not to its libraries."""
    code = f"from grit_app.gritlm import GritLM; GritLM.from_pretrained({str(folder)!r}, '8bit').encode(['a'])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_error_classes_come_without_torch() -> None:
    """Settings and `--help` import them, and must not wait for a second or more."""
    code = (
        "import sys, os, grit_app.gritlm.errors; print('torch' in sys.modules, os.environ['HF_HUB_DISABLE_TELEMETRY'])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "1"]


def test_describe_tells_the_facts(tiny_model: GritLM) -> None:
    facts = tiny_model.describe()
    assert {key: facts[key] for key in ("device", "dtype", "quantization", "context")} == {
        "device": "cpu",
        "dtype": "float32",
        "quantization": "none",
        "context": 1024,
    }
    assert facts["parameters"] == sum(p.numel() for p in tiny_model.hf_model.parameters())
