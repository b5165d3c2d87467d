"""A pretraining checkpoint as a folder that the app and plain transformers load.

    python -m training.scratch.release --config training/recipes/mini-release.yaml --export_dir runs/mini/release

Rounds to bfloat16, writes tokenizer, generation settings and grit_config.json, loads the result as the app does and
compares vectors. Runs of `training.train` are exported by `training.export`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from grit_app.errors import GritError
from grit_app.gritlm import GritConfig, GritLM
from training.scratch.corpus import CorpusError

PROBES = ("A short text.", "Which city lies at the mouth of the river?", "Bees make honey from nectar.")


@dataclass(frozen=True, kw_only=True)
class ReleaseConfig:
    checkpoint: Path
    export_dir: Path
    """May exist: weights and settings are replaced, other files (the model card) stay."""

    grit: dict[str, Any] = field(default_factory=dict)
    """Entries of grit_config.json. One that is not named keeps its value in export_dir (a calibrated threshold)."""

    max_shard_size: str = "45MB"


def release(config: ReleaseConfig) -> Path:
    """Writes the folder; gives its path. Raises CorpusError if the rounded model gives other vectors."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(config.checkpoint), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(str(config.checkpoint))
    folder = config.export_dir
    known = GritConfig.load(folder) if (folder / "grit_config.json").is_file() else GritConfig()
    grit = known.overridden(**config.grit)
    before = GritLM(model, tokenizer, grit).encode(list(PROBES))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(str(folder), max_shard_size=config.max_shard_size)
    tokenizer.save_pretrained(str(folder))
    grit.save(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read
    after = GritLM.from_pretrained(folder, dtype="float32").encode(list(PROBES))
    similarity = (before * after).sum(1)
    if float(similarity.min()) < 0.99:
        raise CorpusError(
            f"The model in {folder} gives other vectors than {config.checkpoint} ({similarity.min():.3f})."
        )
    return folder


def main() -> None:
    try:
        print(f"exported to {release(auto_cli(ReleaseConfig, as_positional=False))}")
    except GritError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
