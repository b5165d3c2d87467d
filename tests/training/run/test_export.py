"""Exports load everywhere, replace what was there at the end and as a whole, and say how far they drifted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from grit_app.gritlm import GritConfig, GritLM
from tests.training.helpers import lora, make_config
from training.config import TrainConfig
from training.export import ExportConfig, ExportError, export
from training.run.checkpoint import checkpoints
from training.train import train


@pytest.fixture
def config(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> TrainConfig:
    return make_config(tmp_path, tiny_model_folder("mistral"))


def silent(_: str) -> None:
    """Nobody listens."""


@pytest.mark.parametrize("method", ["full", "lora"])
def test_export_gives_the_same_vectors_and_logits(config: TrainConfig, method: str) -> None:
    """For the app and for plain transformers; adapters are merged; grit_config.json travels along."""
    if method == "lora":
        config = replace(config, adapter=lora(), optimizer=replace(config.optimizer, learning_rate=0.05))
    config = replace(config, grit={"retrieval_instruction": "Find it", "default_strategy": "docs_cache"})
    train(config, silent)
    target = config.output_dir / "export"
    export(ExportConfig(output_dir=config.output_dir, export_dir=target, dtype="float32"))
    served = GritLM.from_pretrained(target, dtype="float32")
    assert served.config.retrieval_instruction == "Find it" and served.config.trained_context == 512
    ids = torch.tensor([served.prompts.opening("The river reaches the sea")])
    from training.run.checkpoint import load_weights
    from training.run.setup import set_up

    trainer = set_up(config)
    load_weights(trainer, config.output_dir / "checkpoint-000004")
    trainer.core.eval()
    with torch.no_grad():
        expected = trainer.core.hf_model(ids, is_causal=True).logits
        plain = AutoModelForCausalLM.from_pretrained(target, local_files_only=True)(ids).logits
        start = AutoModelForCausalLM.from_pretrained(config.model.path, local_files_only=True)(ids).logits
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)
    assert float((expected - start).abs().max()) > 1e-3
    texts = ["bees make honey", "a river"]
    before = GritLM(trainer.core.hf_model, trainer.tokenizer, trainer.grit).encode(texts)
    assert abs(served.encode(texts) - before).max() < 1e-5
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": " Hello "},
        {"role": "user", "content": "x"},
    ]
    template = served.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert template == "<s><|user|>\nHi\n<|assistant|>\nHello</s>\n<|user|>\nx\n<|assistant|>\n"
    with pytest.raises(ExportError, match="not empty"):
        export(ExportConfig(output_dir=config.output_dir, export_dir=target))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_an_export_that_fails_leaves_the_old_one(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails, and whenever: a checkpoint that is not whole, or a new model that gives other vectors."""
    train(config, silent)
    target = config.output_dir / "export"
    export(ExportConfig(output_dir=config.output_dir, export_dir=target))
    before = contents(target)
    again = ExportConfig(output_dir=config.output_dir, export_dir=target, overwrite=True)
    recipe = checkpoints(config.output_dir)[-1] / "recipe.json"
    kept = recipe.read_text()
    recipe.unlink()
    with pytest.raises(ExportError, match=r"no readable recipe\.json"):
        export(again)
    assert contents(target) == before
    recipe.write_text(kept)
    monkeypatch.setattr("training.export.LEAST_COSINE", 1.1)
    with pytest.raises(ExportError, match="other vectors"):
        export(again)
    assert contents(target) == before
    assert [path.name for path in config.output_dir.iterdir() if "tmp-" in path.name or "old-" in path.name] == []
    monkeypatch.undo()
    (target / "left-over.txt").write_text("of the old export")
    export(again)
    assert contents(target) == before, "replaced as a whole"


def test_int8_and_back(tiny_model_folder: Callable[..., Path], tmp_path: Path) -> None:
    """A folder in another precision, from a model instead of a run; int8 is read by the app, and by export again."""
    source = tiny_model_folder("llama")
    drift = export(ExportConfig(model=source, export_dir=tmp_path / "int8", dtype="int8"))
    assert 0.99 < drift.cosine <= drift.mean_cosine < 1 - 1e-7 and 0 < drift.kl_nats < 0.05
    assert drift.same_token > 0.8
    size = sum(file.stat().st_size for file in (tmp_path / "int8").glob("*.safetensors"))
    assert size < 0.4 * (source / "model.safetensors").stat().st_size
    back = export(ExportConfig(model=tmp_path / "int8", export_dir=tmp_path / "back", dtype="float32"))
    assert back.cosine > 1 - 1e-6 and back.kl_nats < 1e-6 and back.same_token == 1.0
    served = GritLM.from_pretrained(tmp_path / "int8", dtype="float32").hf_model.state_dict()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "back", local_files_only=True).state_dict()
    assert all(torch.equal(plain[name], value) for name, value in served.items())


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
@pytest.mark.parametrize("attention", ["bbcc", "cccc"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of libraries that sentence-transformers imports
def test_sentence_transformers_gives_the_same_vectors(
    tiny_model_folder: Callable[..., Path], tmp_path: Path, attention: str, pooling: str
) -> None:
    """Through the folder alone, as people use it: no prompt, attention or pooling is named by the caller."""
    from sentence_transformers import SentenceTransformer

    source = shutil.copytree(tiny_model_folder("llama"), tmp_path / "source")
    GritConfig(attention=attention, pooling=pooling, retrieval_instruction="Find what answers").save(source)
    export(ExportConfig(model=source, export_dir=tmp_path / "plain", dtype="float32"))
    ours = GritLM.from_pretrained(source, dtype="float32")
    theirs = SentenceTransformer(str(tmp_path / "plain"), device="cpu", local_files_only=True)
    texts = ["Bees make honey from nectar.", "a river", "How many schools took part in the study of reading?"]
    np.testing.assert_allclose(theirs.encode(texts, batch_size=2), ours.encode(texts), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_document(texts), ours.encode(texts), atol=1e-5)
    queries = ours.encode(texts, instruction="Find what answers")
    np.testing.assert_allclose(theirs.encode_query(texts), queries, atol=1e-5)
    assert abs(queries - ours.encode(texts)).max() > 1e-3


def test_nothing_to_export_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds no checkpoint"):
        export(ExportConfig(output_dir=tmp_path, export_dir=tmp_path / "x"))
