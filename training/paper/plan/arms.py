"""The arms of the ablation table: what each changes in a recipe, and the recipe that it is trained with.

Every arm is a whole recipe, written beside its run, so that anybody can train it alone. Arms have equal steps, whatever
their steps cost; what a recipe measures while it trains is left out, and the newest checkpoint counts, so that no arm
is chosen by its score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from grit_app.errors import InputError
from training.config import DataFile, OptimizerConfig
from training.data.formats import open_datasets

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Arm:
    """One row of the table."""

    changes: Settings = field(default_factory=dict)
    """Settings, named with dots, that differ from the recipe."""

    writes: Literal["trained", "base"] = "trained"
    """base: adapters are switched off to write, so that part is the untouched start model's. Keys and values of the
    embedding pass then belong to other weights than those that write: nothing is told of joined caches."""

    rate_factor: float = 1.0
    """What the recipe's learning rate is multiplied by."""

    run: str = ""
    """The arm whose run this one measures in another way; empty: its own."""

    needs_base: bool = False
    """Means nothing over random weights."""


REFERENCE: Final = "as the recipe says"
ADAPTER: Final = {"mode": "embedding", "adapter.method": "lora"}
ADAPTER_RATE: Final = 10.0
"""Adapters start from nothing and are few: at the rate of all weights a short run would not move them."""

ARMS: Final[dict[str, Arm]] = {
    REFERENCE: Arm(),
    # One model or two: unified is the recipe itself.
    "embedding only": Arm({"mode": "embedding"}),
    "generative only": Arm({"mode": "generative"}),
    "retrieval adapter, switched": Arm(ADAPTER, writes="base", rate_factor=ADAPTER_RATE, needs_base=True),
    "retrieval adapter, always on": Arm(
        ADAPTER, rate_factor=ADAPTER_RATE, run="retrieval adapter, switched", needs_base=True
    ),
    "joint adapter": Arm({"adapter.method": "lora"}, rate_factor=ADAPTER_RATE, needs_base=True),
    # Attention × pooling.
    "causal, weighted mean": Arm({"model.attention": "cccc", "model.pooling": "weightedmean"}),
    "causal, last token": Arm({"model.attention": "cccc", "model.pooling": "lasttoken"}),
    "causal, mean": Arm({"model.attention": "cccc", "model.pooling": "mean"}),
    "bidirectional, weighted mean": Arm({"model.attention": "bbcc", "model.pooling": "weightedmean"}),
    "bidirectional, last token": Arm({"model.attention": "bbcc", "model.pooling": "lasttoken"}),
    "embedding only, bidirectional, mean": Arm({"mode": "embedding", "model.attention": "bb", "model.pooling": "mean"}),
    "embedding only, causal, weighted mean": Arm(
        {"mode": "embedding", "model.attention": "cc", "model.pooling": "weightedmean"}
    ),
    "batch 64": Arm({"contrastive.batch_size": 64}),
    "batch 256": Arm({"contrastive.batch_size": 256}),
    "batch 1024": Arm({"contrastive.batch_size": 1024}),
    "batches of one data set": Arm({"data.same_dataset_batches": True}),
    "batches of any data set": Arm({"data.same_dataset_batches": False}),
    "loss by token": Arm({"generative.loss": "token"}),
    "loss by sample": Arm({"generative.loss": "sample"}),
    "loss mixed": Arm({"generative.loss": "mixed"}),
    "generative weight 0.25": Arm({"generative.weight": 0.25}),
    "generative weight 0.5": Arm({"generative.weight": 0.5}),
    "generative weight 2": Arm({"generative.weight": 2.0}),
    "generative weight 4": Arm({"generative.weight": 4.0}),
    "float32": Arm({"run.precision": "fp32"}),
    "bfloat16": Arm({"run.precision": "bf16"}),
    "random start": Arm({"model.random_weights": True}),
}
"""Besides these: `base NAME` for each of --bases, and `without FILE` for each contrastive file of the recipe."""

MISSING: Final = {
    "embedding head": "vectors are pooled states as they are; there is no trained head to compare with",
    "chat format": "the published format is the only one that prompts are written in (grit_app/gritlm/prompts.py)",
    "causal instruction, bidirectional sample": "no such attention: an embedding is wholly bidirectional or causal",
}
"""Rows of the paper's table that no arm stands for, and why."""


def load_recipe(path: Path) -> dict[str, Any]:
    """Raises InputError for a file that is no recipe."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no recipe that can be read ({error}). Name one of training/recipes.") from error
    if not isinstance(recipe, dict) or not {"model", "data", "run"} <= recipe.keys():
        raise InputError(f"{path} is no recipe: it names no model, data and run. Name one of training/recipes.")
    return recipe


def arms_of(recipe: Settings, bases: Sequence[str] = ()) -> dict[str, Arm]:
    """Every arm that this recipe can be trained as, the recipe itself first."""
    has_base = not recipe["model"].get("random_weights", False)
    arms = {name: arm for name, arm in ARMS.items() if has_base or not arm.needs_base}
    arms |= {f"base {Path(base).name}": Arm({"model.path": base, "model.random_weights": False}) for base in bases}
    return arms | _without_each_source(recipe["data"]["train"])


def _without_each_source(files: Sequence[Settings]) -> dict[str, Arm]:
    """An arm without it for each contrastive file, where others are left."""
    contrastive = [
        entry
        for entry in files
        if any(data.kind == "contrastive" for data in open_datasets([DataFile(path=entry["path"])]))
    ]
    if len(contrastive) < 2:
        return {}
    return {
        f"without {Path(entry['path']).name.split('.')[0]}": Arm(
            {"data.train": [other for other in files if other is not entry]}
        )
        for entry in contrastive
    }


def arm_recipe(recipe: Settings, arm: Arm, steps: int, seed: int, output_dir: Path) -> dict[str, Any]:
    """The recipe that the arm is trained with."""
    changed = deepcopy(dict(recipe))
    changed.pop("evaluation", None)
    rate = float(recipe.get("optimizer", {}).get("learning_rate", OptimizerConfig().learning_rate))
    own = {
        "optimizer.learning_rate": rate * arm.rate_factor,
        "run.steps": steps,
        "run.minutes": None,
        "run.seed": seed,
        "output_dir": str(output_dir),
        "resume": "auto",
    }
    for name, value in (dict(arm.changes) | own).items():
        *sections, last = name.split(".")
        place = changed
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return changed


def folder_of(name: str) -> str:
    """An arm's name as that of a folder."""
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in name.replace(",", ""))
