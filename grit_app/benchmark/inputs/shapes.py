"""Models of a named shape with random weights, so that speed can be measured before, and without, training.

Speed depends on shapes, not on what the weights know. A shape is written to a folder as an ordinary checkpoint and
loaded like any other, so quantisation, load times and identities are the real ones.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoModelForCausalLM, MistralConfig

from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.load.loading import quiet_transformers
from grit_app.places import BUNDLED_MODEL

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")

COMMON: Final[dict[str, Any]] = {"hidden_act": "silu", "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2}

SHAPES: Final[dict[str, dict[str, Any]]] = {
    # 36 M parameters in the layers: small enough for long documents on two cores.
    "mini-36m": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 16384,
        "max_position_embeddings": 65536,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    },
    # GritLM-7B's configuration: Mistral-7B-v0.1, whose rotary base is 10,000.
    "mistral-7b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 32000,
        "max_position_embeddings": 65536,  # the checkpoint says 32,768; more is allowed so that prompts of 32k fit
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
}


def write_checkpoint(shape: str, folder: Path, *, tokenizer: Path = BUNDLED_MODEL, seed: int = 0) -> Path:
    """A checkpoint of random weights in `folder`, in bfloat16; gives the folder.

    tokenizer   the bundled model's by default: prompts then have the lengths that the app's prompts have

    Raises ModelError for an unknown shape, or a tokenizer folder without tokenizer.json.
    """
    if shape not in SHAPES:
        raise ModelError(f"There is no shape {shape!r}. Known: {', '.join(SHAPES)}.")
    if not (tokenizer / "tokenizer.json").is_file():
        raise ModelError(f"{tokenizer} has no tokenizer.json. Name a folder with one by --tokenizer.")
    words = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    highest = max(chain(words["model"]["vocab"].values(), (added["id"] for added in words["added_tokens"])))
    sizes = SHAPES[shape] | {
        "vocab_size": max(SHAPES[shape]["vocab_size"], highest + 1)
    }  # a row for each of its tokens
    config = MistralConfig(**COMMON, **sizes)
    # Seven billion random numbers take a minute on a CPU and a moment on a GPU.
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with quiet_transformers(), torch.random.fork_rng(), device:
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder / name)
    GritConfig(trained_context=config.max_position_embeddings).save(folder)
    return folder


@contextmanager
def checkpoint(model: str | Path | None, shape: str | None, *, tokenizer: Path | None = None) -> Iterator[str]:
    """What to give to `GritLM.from_pretrained`: the named model, a folder made of the shape, or the served model.

    Raises ModelError if both are named.
    """
    if model and shape:
        raise ModelError("Name either --model or --shape, not both.")
    if shape is None:
        yield str(model or BUNDLED_MODEL)
        return
    with tempfile.TemporaryDirectory(prefix="grit-shape-") as folder:
        yield str(write_checkpoint(shape, Path(folder) / shape, tokenizer=tokenizer or BUNDLED_MODEL))
