"""A pretraining checkpoint as a folder that the app and plain transformers load.

    python -m training.scratch.release --config training/recipes/mini-release.yaml --export_dir runs/mini/release

Rounds to bfloat16, writes tokenizer, generation settings and grit_config.json, loads the result as the app does and
compares vectors. Runs of `training.train` are exported by `training.export`.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jsonargparse import auto_cli
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_app.errors import GritError
from grit_app.gritlm import GritConfig, GritLM
from training.run.drift import Reading
from training.run.folder import write_model, written_aside
from training.scratch.corpus import CorpusError

LEAST_COSINE = 0.99


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
    target = config.export_dir
    known = GritConfig.load(target) if (target / "grit_config.json").is_file() else GritConfig()
    grit = known.overridden(**config.grit)
    before = Reading.of(GritLM(model, tokenizer, grit))
    with written_aside(target) as aside:
        write_model(model, tokenizer, grit, aside, dtype="bfloat16", max_shard_size=config.max_shard_size)
        for file in target.iterdir() if target.is_dir() else []:
            if file.is_file() and ".safetensors" not in file.name and not (aside / file.name).exists():
                shutil.copy2(file, aside)
        drift = before.against(GritLM.from_pretrained(aside, dtype="float32"))
        if drift.cosine < LEAST_COSINE:
            raise CorpusError(
                f"The rounded model gives other vectors than {config.checkpoint} ({drift.cosine:.3f}); "
                f"{target} is as it was."
            )
    return target


def main() -> None:
    try:
        print(f"exported to {release(auto_cli(ReleaseConfig, as_positional=False))}")
    except GritError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
