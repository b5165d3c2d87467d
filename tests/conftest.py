"""Shared fixtures: tiny random models with a real tokenizer, made from a configuration and a seed."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.quick import has_quick, is_quick, longest_first

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores; set before torch is loaded

MOST_WORKERS = 4
"""A worker holds torch, Gradio and models: one to two GB."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process a core for the whole suite; none beside this one for named files, which start faster so."""
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS) if is_whole and cores > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks quick tests, and puts long files first, so that no worker is left with one at the end (quick.py)."""
    for item in items:
        if is_quick(item.path) and not {"browser", "gpu"} & {mark.name for mark in item.iter_markers()}:
            item.add_marker("quick")
    items.sort(key=lambda item: longest_first(item.path))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m quick` slow files, and the conftest.py beside them, are not even imported: Gradio takes seconds."""
    return True if config.getoption("markexpr") == "quick" and not has_quick(collection_path) else None


def pytest_collection_finish() -> None:
    """What the imports left is looked through by no garbage collection any more: tests that ask for one are many."""
    gc.collect()
    gc.freeze()


FAMILIES = ("mistral", "mixtral", "llama", "qwen2", "qwen3")

SENTENCES = (
    "The river rises in the mountains and reaches the sea after three hundred kilometres.",
    "A KV cache keeps the keys and values of tokens that a model has read before.",
    "Question: how many schools took part? The answer is 370 schools in the United States.",
    "Bees make honey from nectar; they store it in combs made of wax.",
    "The text does not give the answer. Represent the sentence. Retrieve semantically similar text.",
    "Optionally using the prior context answer the query prior to it.",
    "Answer the prior query while optionally using the context prior to it.",
    "<|user|>\nHello there\n<|assistant|>\nThe answer is yes\n<|embed|>\nno",
)


def tiny_tokenizer() -> Any:
    """Byte-level BPE with 512 entries: `<unk>`, `<s>`, `</s>`, all bytes, and merges from SENTENCES."""
    from training.toy.make import make_tokenizer

    return make_tokenizer(SENTENCES * 4, vocab_size=512)


def tiny_config(family: str, **changes: Any) -> Any:
    """Two layers, hidden size 32, 4 query and 2 key heads of 8, context 1024."""
    from transformers import AutoConfig

    values: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        # At the usual 0.02 so small a model attends to everything alike, and tests would see little.
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": family != "llama",
    }
    if family in ("mistral", "mixtral"):
        values["sliding_window"] = None
    if family == "mixtral":
        values |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    return AutoConfig.for_model(family, **values | changes)


def tiny_hf_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random causal language model in float32, the same for the same arguments."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(tiny_config(family, **changes), dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_model_folder(family="mistral", seed=0, **config_changes)` → a saved model with tokenizer, made once."""
    from grit_app.gritlm import GritConfig

    made: dict[str, Path] = {}

    def make(family: str = "mistral", seed: int = 0, **changes: Any) -> Path:
        key = repr((family, seed, sorted(changes.items())))
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{family}-{seed}")
            tiny_hf_model(family, seed, **changes).save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            GritConfig().save(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def load_tiny(tiny_model_folder: Callable[..., Path]) -> Callable[..., Any]:
    """`load_tiny(family="mistral", **config_changes)` → a loaded GritLM, loaded once: do not change it."""
    from grit_app.gritlm import GritLM

    loaded: dict[str, Any] = {}

    def load(family: str = "mistral", **changes: Any) -> Any:
        key = repr((family, sorted(changes.items())))
        if key not in loaded:
            loaded[key] = GritLM.from_pretrained(tiny_model_folder(family, **changes), dtype="float32")
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def tiny_model(load_tiny: Callable[..., Any]) -> Any:
    """A loaded tiny Mistral. Shared by the whole session: do not change it."""
    return load_tiny("mistral")
