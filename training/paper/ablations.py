"""The paper's ablation table: each row is the same recipe with one setting changed, trained and measured by the
commands.

    python -m training.paper ablations --config RECIPE --steps 100 --seeds 0,1 --data DIR --work runs/ablations

Each arm is `training.train` with the recipe, the arm's overrides, its seed and equal steps, then `training.evaluate` on
the parts below. An arm whose score is recorded already is not run again, so a stopped command goes on where it was.
Where the seeds of one arm differ more than two arms do, the page says so: the effect is within the noise.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from grit_app.benchmark import environment
from grit_app.benchmark.show.paper import FOLDER, METRICS
from grit_app.errors import InputError
from training.paper.recording import mean_interval

ARMS: Final[dict[str, dict[str, Any]]] = {
    "as the recipe says": {},
    "causal, weighted mean": {"model.attention": "cccc", "model.pooling": "weightedmean"},
    "causal, last token": {"model.attention": "cccc", "model.pooling": "lasttoken"},
    "batch 64": {"contrastive.batch_size": 64},
    "batch 256": {"contrastive.batch_size": 256},
    "batch 1024": {"contrastive.batch_size": 1024},
    "batches of any data set": {"data.same_dataset_batches": False},
    "loss by sample": {"generative.loss": "sample"},
    "loss mixed": {"generative.loss": "mixed"},
    "generative weight 0.5": {"generative.weight": 0.5},
    "generative weight 2": {"generative.weight": 2.0},
    "float32": {"run.precision": "fp32"},
    "random start": {"model.random_weights": True},
}
"""Arm → settings that differ from the recipe."""

PARTS: Final = "sts,retrieval,answers,bits_per_byte"


def run(
    config: Path,
    data: Path,
    work: Path,
    steps: int = 100,
    seeds: str = "0,1",
    arms: str = "",
    limit: int = 60,
    output: Path = FOLDER,
) -> None:
    """Trains and measures every arm, and records all scores. `arms` names some, separated by commas; empty: all."""
    chosen = [name.strip() for name in arms.split(",") if name.strip()] or list(ARMS)
    unknown = [name for name in chosen if name not in ARMS]
    if unknown:
        raise InputError(f"There is no arm {unknown[0]!r}. Use {', '.join(ARMS)}.")
    numbers = [int(seed) for seed in seeds.split(",")]
    scores: dict[str, list[dict[str, float]]] = {}
    for name in chosen:
        for seed in numbers:
            folder = work / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
            scores.setdefault(name, []).append(_one(config, data, folder, steps, seed, ARMS[name], limit))
            _record(scores, config, steps, output)


def _one(
    config: Path, data: Path, folder: Path, steps: int, seed: int, changes: dict[str, Any], limit: int
) -> dict[str, float]:
    """The flat scores of one run; kept in its folder."""
    result = folder / "scores.json"
    if not result.is_file():
        settings = {"run.steps": steps, "run.seed": seed, "output_dir": folder / "run", "resume": "auto"} | changes
        train = [
            f"--{name}={json.dumps(value) if isinstance(value, bool) else value}" for name, value in settings.items()
        ]
        _call("training.train", "--config", config, *train)
        export = folder / "export"
        if not export.is_dir():
            _call("training.export", "--output_dir", folder / "run", "--export_dir", export)
        _call(
            "training.evaluate", "--model", export, "--suite", data / "dev", "--parts", PARTS, "--limit", limit,
            "--json", result,
        )  # fmt: skip
    from training.evaluate import flatten

    return flatten(json.loads(result.read_text(encoding="utf-8")))


def _call(module: str, *arguments: object) -> None:
    """Raises InputError with the end of the command's output if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{module} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")


def _record(scores: dict[str, list[dict[str, float]]], config: Path, steps: int, output: Path) -> None:
    rows = []
    for name, runs in scores.items():
        for metric in METRICS:
            values = [run[metric] for run in runs if metric in run]
            if values:
                rows.append(
                    {"table": "ablations", "task": name, "metric": metric, "system": "model"} | mean_interval(values)
                )
    recording = {
        "command": f"python -m training.paper ablations --config {config} --steps {steps}"
        " --data DATA --work runs/ablations",
        "model": config.stem,
        "limit": None,
        "environment": environment.describe(),
        "rows": rows,
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "ablations.json").write_text(json.dumps(recording, indent=1) + "\n", encoding="utf-8")
