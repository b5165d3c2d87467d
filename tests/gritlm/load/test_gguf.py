"""GGUF files: written here by llama.cpp's own library, read through transformers, the same model as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grit_app.gritlm import GritConfig, GritLM
from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.load.loading import choose_quantization, load_hf_model
from grit_app.gritlm.load.size import read_weights
from grit_app.gritlm.load.sources import fingerprint
from tests.conftest import SENTENCES, tiny_hf_model, tiny_tokenizer

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def llama_cpp_name(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
    tables = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    return tables[name.removesuffix(".weight")] + ".weight"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp turns neighbouring pairs where transformers turns halves: the rows of q and k change places."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: Any, tokenizer: Any, quantized: bool = False) -> Path:
    """A tiny Llama as llama.cpp's converter writes it."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(vocabulary["vocab"], key=vocabulary["vocab"].__getitem__)
    tokens += [f"[unused {number}]" for number in range(config.vocab_size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if number < 3 else 1 for number in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in vocabulary["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    seen = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        value = tensor.float().numpy()
        if ".q_proj" in name or ".k_proj" in name:
            value = interleaved(value, config.num_attention_heads if ".q_proj" in name else config.num_key_value_heads)
        kind = gguf.GGMLQuantizationType.Q8_0 if quantized and value.ndim == 2 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(value, kind)
        writer.add_tensor(llama_cpp_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def original(request: pytest.FixtureRequest) -> Any:
    return tiny_hf_model("llama", tie_word_embeddings=request.param)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, original: Any) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Tiny.Q8.gguf", original, tiny_tokenizer())


def test_a_gguf_file_is_the_model_that_was_written(file: Path, original: Any) -> None:
    """Vectors and writing of the model before it was written; the tables are tied as they were."""
    model = GritLM.from_pretrained(file, dtype="float32")
    expected = GritLM(original, model.tokenizer)
    np.testing.assert_allclose(model.encode(SENTENCES), expected.encode(SENTENCES), atol=1e-5)
    messages = [{"role": "user", "content": "Bees make honey"}]
    assert model.generate(messages, max_new_tokens=12) == expected.generate(messages, max_new_tokens=12)
    for name, tensor in original.state_dict().items():
        torch.testing.assert_close(model.hf_model.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    head, table = model.hf_model.get_output_embeddings().weight, model.hf_model.get_input_embeddings().weight
    assert (head is table) == original.config.tie_word_embeddings
    assert model.name == "Tiny.Q8.gguf"


def test_its_memory_is_said_beforehand(file: Path, original: Any) -> None:
    weights = read_weights(file)
    assert weights.parameters == original.num_parameters()
    assert weights.cache_numbers == 2 * 2 * 2 * 8, "two layers of two heads of 8, keys and values"
    model = GritLM.from_pretrained(file, dtype="float32")
    buffers = sum(buffer.nbytes for buffer in model.hf_model.buffers())
    assert weights.memory_bytes(torch.float32) == model.describe()["memory_bytes"] - buffers
    whole = weights.memory_bytes(torch.float32)
    assert weights.loading_bytes(torch.float32, "4bit") == whole + weights.memory_bytes(torch.float32, "4bit")
    assert weights.loading_bytes(torch.float32, "4bit", on_cpu=False) == weights.memory_bytes(torch.float32, "4bit")


def test_a_quantized_file_is_multiplied_out(original: Any, tmp_path: Path) -> None:
    small = write_gguf(tmp_path / "q8.gguf", original, tiny_tokenizer(), quantized=True)
    model = GritLM.from_pretrained(small, dtype="float32")
    expected = GritLM(original, model.tokenizer).encode(SENTENCES)
    assert 0.99 < (model.encode(SENTENCES) * expected).sum(1).min() < 1 - 1e-8
    assert read_weights(small).parameters == original.num_parameters()


def test_it_is_quantized_again_when_asked(file: Path) -> None:
    model = GritLM.from_pretrained(file, quantization="8bit", dtype="float32")
    assert model.quantization == "8bit" and model.encode(["text"]).shape == (1, 32)


def test_files_beside_it_are_used(file: Path, tmp_path: Path) -> None:
    """A tokenizer.json wins over the file's own; grit_config.json is read as in a folder; both change the identity."""
    copy = Path(shutil.copy(file, tmp_path / "model.gguf"))
    alone = fingerprint(copy)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    GritConfig(retrieval_instruction="Find it").save(tmp_path)
    model = GritLM.from_pretrained(copy, dtype="float32")
    assert model.config.retrieval_instruction == "Find it"
    assert model.tokenizer.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert fingerprint(copy) != alone


def test_it_can_be_saved_as_a_plain_folder(file: Path, original: Any, tmp_path: Path) -> None:
    """Nothing of the file's form is left in the configuration: training starts from it, and saves checkpoints."""
    model = load_hf_model(file, device=torch.device("cpu"), dtype=torch.float32, quantization="none")
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = load_hf_model(tmp_path, device=torch.device("cpu"), dtype=torch.float32, quantization="none")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in original.state_dict().items())


@pytest.mark.parametrize("keep", [0, 3, 2000, -100])
def test_a_file_that_was_cut_short_is_said(file: Path, tmp_path: Path, keep: int) -> None:
    damaged = tmp_path / "cut.gguf"
    damaged.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"cut\.gguf is not a whole GGUF file") as caught:
        GritLM.from_pretrained(damaged)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model"):
        GritLM.from_pretrained(tmp_path / "missing.gguf")


def test_what_cannot_fit_while_it_is_loaded_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from grit_app.gritlm.load import loading

    weights = read_weights(file)
    small = weights.memory_bytes(torch.float32, "4bit")
    monkeypatch.setattr(loading, "free_bytes", lambda device: small + weights.working_bytes(torch.float32))
    cpu = torch.device("cpu")
    with pytest.raises(ModelError, match="needs about"):
        choose_quantization("4bit", weights, torch.float32, cpu, "tiny")
    assert choose_quantization("4bit", weights, torch.float32, torch.device("cuda"), "tiny") == "4bit"
