"""The paper's ablation table: each row is the same recipe with one setting changed, trained and measured by the
commands.

    python -m training.paper ablations --recipe FILE --data DIR [--arms "batch 64,float32"] --steps 100 --seeds 2

Each arm (`training.paper.plan.arms`) is `training.train` with its recipe and seeds 0, 1 … at equal steps, then
`training.export` and `training.evaluate` on the parts below. An arm whose score is recorded already is not run again,
and one that was stopped goes on from its newest checkpoint.

Intervals hold 95 % over seeds. The spread is pooled over all arms (two or three seeds of one arm alone tell nothing of
it), as in an analysis of variance; an arm whose difference to the recipe may be 0 is said to be within the noise.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from grit_app.benchmark import environment
from grit_app.benchmark.show.paper import FOLDER, METRICS
from grit_app.errors import InputError
from grit_app.rag.strategies import REFERENCE as REFERENCE_STRATEGY
from training.evaluate import flatten
from training.paper.plan.arms import MISSING, REFERENCE, Arm, arm_recipe, arms_of, folder_of, load_recipe

EMBEDDING_PARTS: Final = ("sts", "retrieval")
WRITING_PARTS: Final = ("caches", "bits_per_byte")
RECIPE: Final = Path("training/recipes/gritlm-135m.yaml")
WORK: Final = Path("runs/ablations")
STEPS: Final = 100
SEEDS: Final = 2
Scores = dict[str, list[dict[str, float]]]


def run(
    data: Path,
    recipe: Path = RECIPE,
    work: Path = WORK,
    steps: int = STEPS,
    seeds: int = SEEDS,
    arms: str = "",
    bases: str = "",
    limit: int = 60,
    device: str = "cpu",
    output: Path = FOLDER,
) -> Path:
    """Trains and measures arms, and records all scores. `arms` names some, separated by `;` or, where no name holds
    one, by commas; empty: all. `bases` are other start models, separated by commas."""
    settings = load_recipe(recipe)
    every = arms_of(settings, _names(bases))
    chosen = chosen_arms(arms, every)
    if seeds < 1:
        raise InputError(f"--seeds is how many seeds each arm is trained with: at least 1, not {seeds}.")
    scores: Scores = {}
    options = f" --steps {steps} --seeds {seeds}" + (f" --arms '{arms}'" if arms else "") + _told(bases)
    command = f"python -m training.paper ablations --recipe {recipe}{options} --data DATA"
    notes = notes_of(settings, steps, seeds, limit)
    for seed in range(seeds):
        for name in chosen:
            found = _one(settings, every[name], name, data, work, steps, seed, limit, device)
            scores.setdefault(name, []).append(found)
            _record(scores, command, recipe.stem, notes, output)
    return output / "ablations.json"


def chosen_arms(arms: str, every: Mapping[str, Arm]) -> list[str]:
    """The named arms behind the recipe itself, to which all are compared. Raises InputError for an unknown one."""
    left, names = arms.strip(), []
    while left:
        # Longest first: some names hold a comma themselves.
        name = next((one for one in sorted(every, key=len, reverse=True) if left.startswith(one)), None)
        rest = left[len(name) :].lstrip() if name else ""
        if name is None or (rest and rest[0] not in ",;"):
            raise InputError(f"There is no arm {left.split(';')[0]!r}. Use {'; '.join(every)}.")
        names.append(name)
        left = rest[1:].strip()
    return [REFERENCE, *(name for name in dict.fromkeys(names) if name != REFERENCE)] if names else list(every)


def notes_of(recipe: Mapping[str, Any], steps: int, seeds: int, limit: int) -> list[str]:
    """The notes beside the numbers, without which a reader would misjudge them."""
    files = ", ".join(Path(entry["path"]).name for entry in recipe["data"]["train"])
    return [
        f"Every arm: {steps} steps of the recipe from {recipe['model']['path']}, {seeds} seed(s), trained on {files}; "
        f"{limit} questions of each development set.",
        "Intervals: 95 % over seeds, with the spread of the seeds pooled over all arms.",
        *(f"Not measured: {name}; {reason}." for name, reason in MISSING.items()),
    ]


def _one(
    recipe: Mapping[str, Any],
    arm: Arm,
    name: str,
    data: Path,
    work: Path,
    steps: int,
    seed: int,
    limit: int,
    device: str,
) -> dict[str, float]:
    """The flat scores of one run; kept in its folder."""
    folder = work / f"{folder_of(arm.run or name)}-{seed}"
    result = work / f"{folder_of(name)}-{seed}.json"
    settings = {"arm": name, "steps": steps, "seed": seed, "limit": limit}
    if result.is_file():
        known = json.loads(result.read_text(encoding="utf-8"))
        if known["settings"] == settings:
            return flatten(known["scores"])
    export = _trained(arm_recipe(recipe, arm, steps, seed, folder / "run"), folder)
    models: dict[Any, tuple[str, ...]] = {
        export: EMBEDDING_PARTS,
        (recipe["model"]["path"] if arm.writes == "base" else export): WRITING_PARTS,
    }
    if len(models) == 1:
        models = {export: (*EMBEDDING_PARTS, *WRITING_PARTS)}
    scores: dict[str, Any] = {}
    for model, parts in models.items():
        measured = folder / "scores.json"
        _call(
            "training.evaluate",
            "--model",
            model,
            "--suite",
            data / "dev",
            "--parts",
            ",".join(parts),
            "--limit",
            limit,
            "--device",
            device,
            "--json",
            measured,
        )
        found = json.loads(measured.read_text(encoding="utf-8"))
        scores |= {part: found[part] for part in parts}
    if arm.writes == "base":
        scores["caches"] = {name: scores["caches"][name] for name in ("none", REFERENCE_STRATEGY)}
    result.write_text(json.dumps({"settings": settings, "scores": scores}, indent=1) + "\n", encoding="utf-8")
    return flatten(scores)


def _trained(recipe: Mapping[str, Any], folder: Path) -> Path:
    """The folder of the arm's model, trained unless it is there with this recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    path, export = folder / "recipe.yaml", folder / "export"
    text = yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True)
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{folder} holds a run of another recipe. Name another --work, or remove that folder.")
    path.write_text(text, encoding="utf-8")
    if not export.is_dir():
        _call("training.train", "--config", path)
        _call("training.export", "--output_dir", folder / "run", "--export_dir", export, "--checkpoint", "newest")
    return export


def _call(module: str, *arguments: object) -> None:
    """Raises InputError with the end of the command's output if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"{module} ended with {done.returncode}: {(done.stderr or done.stdout)[-600:]}")


def rows_of(scores: Scores) -> list[dict[str, Any]]:
    """A row for each arm and metric, with its interval and, but for the recipe's own, its difference to that."""
    rows = []
    for metric in METRICS:
        values = {name: [run[metric] for run in runs if metric in run] for name, runs in scores.items()}
        values = {name: own for name, own in values.items() if own}
        error, freedom = pooled_deviation(list(values.values()))
        reach = _quantile(freedom) * error
        reference = values.get(REFERENCE, [])
        for name, own in values.items():
            row: dict[str, Any] = {"table": "ablations", "task": name, "metric": metric, "system": "model"}
            row |= _around(_mean(own), reach / math.sqrt(len(own)), len(own))
            if name != REFERENCE and reference:
                width = reach * math.sqrt(1 / len(own) + 1 / len(reference))
                row["difference"] = _around(_mean(own) - _mean(reference), width, len(own))
            rows.append(row)
    return rows


def pooled_deviation(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The standard deviation within groups, and its degrees of freedom; (0, 0) where no group has two values."""
    freedom = sum(len(own) - 1 for own in groups)
    squares = sum((value - _mean(own)) ** 2 for own in groups for value in own)
    return (math.sqrt(squares / freedom), freedom) if freedom else (0.0, 0)


def _quantile(freedom: int) -> float:
    """Student's t at 97.5 %."""
    from scipy.stats import t

    return float(t.ppf(0.975, freedom)) if freedom else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _around(value: float, reach: float, n: int) -> dict[str, Any]:
    return {"value": value, "low": value - reach, "high": value + reach, "n": n}


def _record(scores: Scores, command: str, model: str, notes: Sequence[str], output: Path) -> None:
    recording = {
        "command": command,
        "model": model,
        "limit": None,
        "environment": environment.describe(),
        "notes": list(notes),
        "rows": rows_of(scores),
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / "ablations.json").write_text(json.dumps(recording, indent=1) + "\n", encoding="utf-8")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _told(bases: str) -> str:
    return f" --bases {bases}" if bases else ""
