"""Averages the weights of a run's last checkpoints: flatter minima at no cost of training.

    python -m training.average --output_dir runs/toy --last 3
    python -m training.export  --output_dir runs/toy --export_dir runs/toy/export --checkpoint average

Writes `average` beside the checkpoints; `run.keep` must have kept enough of them. Worth most where the rate was still
high, as in the flat part of `optimizer.schedule: wsd`. Source: Izmailov et al. 2018 (arXiv 1803.05407).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jsonargparse import auto_cli
from safetensors import safe_open
from safetensors.torch import save_file

from grit_app.doors import one_sentence
from training.config import TrainError, require
from training.run.checkpoint import checkpoints

NAME = "average"


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Which checkpoints of which run."""

    output_dir: Path
    last: int = 3

    def __post_init__(self) -> None:
        require(self.last >= 2, "last must be at least 2: one checkpoint is its own average.")


def average(config: AverageConfig) -> Path:
    """The folder with the mean of the weights. Raises TrainError with a sentence."""
    folders = checkpoints(config.output_dir)[-config.last :]
    if len(folders) < config.last:
        raise TrainError(
            f"{config.output_dir} holds {len(folders)} checkpoints, not {config.last}. Train with run.keep "
            f"{config.last} and a smaller run.save_every, or lower --last."
        )
    newest = folders[-1]
    recipe = json.loads((newest / "recipe.json").read_text(encoding="utf-8"))
    if recipe["config"]["adapter"]["method"] != "full":
        raise TrainError(
            "The mean of two adapters' factors is not the mean of the adapters. Export each with training.export, or "
            "train with adapter.method full."
        )
    temporary = config.output_dir / f"tmp-{NAME}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for path in sorted(newest.iterdir()):
        if path.suffix == ".safetensors":
            save_file(_mean([folder / path.name for folder in folders]), temporary / path.name, {"format": "pt"})
        elif path.name != "training_state.pt":
            shutil.copy2(path, temporary)
    shutil.rmtree(config.output_dir / NAME, ignore_errors=True)
    return temporary.rename(config.output_dir / NAME)


def _mean(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Tensor by tensor, summed in float64."""
    with safe_open(files[0], "pt") as first:
        sums = {name: first.get_tensor(name) for name in first.keys()}  # noqa: SIM118, it is no mapping
    kinds = {name: tensor.dtype for name, tensor in sums.items()}
    for name in sums:
        total = sums[name].double()
        for file in files[1:]:
            with safe_open(file, "pt") as other:
                total += other.get_tensor(name)
        sums[name] = (total / len(files)).to(kinds[name])
    return sums


def main(arguments: list[str] | None = None) -> None:
    with one_sentence():
        folder = average(auto_cli(AverageConfig, args=arguments, as_positional=False))
        print(f"averaged into {folder}")


if __name__ == "__main__":
    main()
