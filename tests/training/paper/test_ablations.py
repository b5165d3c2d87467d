"""The arms of the ablation table: each one trains, is run once, and is told from the noise or not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from grit_app.benchmark.show.paper import METRICS, has_one_seed, interval, within_noise
from grit_app.errors import InputError
from tests.training.helpers import chat_rows, contrastive_rows, rag_rows, write_rows
from training import train
from training.paper.plan import ablations
from training.paper.plan.arms import ARMS, MISSING, REFERENCE, arm_recipe, arms_of, folder_of


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> dict[str, Any]:
    """A unified recipe with two contrastive sources, as the real ones are, small."""
    files = {
        "near": contrastive_rows(24),
        "far": contrastive_rows(24, seed=5),
        "chats": chat_rows(16),
        "answers": rag_rows(16),
    }
    paths = [write_rows(tmp_path / f"{name}.jsonl", rows) for name, rows in files.items()]
    return {
        "model": {"path": str(tiny_model_folder())},
        "data": {"train": [{"path": str(path)} for path in paths], "query_max_length": 32, "passage_max_length": 48},
        "contrastive": {"batch_size": 8, "negatives": 1, "chunk_tokens": 512},
        "generative": {"batch_size": 8, "chunk_tokens": 512},
        "rag": {"batch_size": 4, "chunk_tokens": 1024},
        "run": {"minutes": 9, "save_every": 10},
        "evaluation": {"suite": "nowhere", "best_metric": "sts/model"},
    }


def test_every_arm_s_recipe_trains(recipe: dict[str, Any], tmp_path: Path, tiny_model_folder: Any) -> None:
    """One step of each, by the command, from the file that the run writes; on the clock of no recipe."""
    arms = arms_of(recipe, [str(tiny_model_folder("llama"))])
    assert {"without near", "without far", f"base {tiny_model_folder('llama').name}", *ARMS} == set(arms)
    for name, arm in arms.items():
        made = arm_recipe(recipe, arm, 1, 0, tmp_path / folder_of(name))
        assert made["run"]["minutes"] is None and "evaluation" not in made and made["run"]["steps"] == 1
        batch = made["contrastive"]["batch_size"]
        made["contrastive"]["batch_size"] = min(batch, 16)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(made), encoding="utf-8")
        train.main(["--config", str(path)])
        assert list((tmp_path / folder_of(name)).glob("checkpoint-*")), name
    assert recipe["contrastive"]["batch_size"] == 8, "an arm leaves the recipe as it is"


def test_adapters_need_weights_to_stand_on_and_missing_rows_are_named(recipe: dict[str, Any]) -> None:
    recipe["model"]["random_weights"] = True
    assert not any(arm.needs_base for arm in arms_of(recipe).values())
    notes = " ".join(ablations.notes_of(recipe, 7, 2, 60))
    assert "7 steps" in notes and "2 seed(s)" in notes and "near.jsonl" in notes
    assert all(f"Not measured: {name}" in notes for name in MISSING)


def test_an_adapter_learns_at_a_rate_of_its_own(recipe: dict[str, Any], tmp_path: Path) -> None:
    rates = {
        name: arm_recipe(recipe, ARMS[name], 1, 0, tmp_path)["optimizer"]["learning_rate"]
        for name in (REFERENCE, "joint adapter")
    }
    assert rates["joint adapter"] == pytest.approx(10 * rates[REFERENCE])


def test_arms_are_chosen_by_names_that_may_hold_commas() -> None:
    chosen = ablations.chosen_arms("causal, weighted mean, batch 64; float32", ARMS)
    assert chosen == [REFERENCE, "causal, weighted mean", "batch 64", "float32"]
    assert ablations.chosen_arms("", ARMS) == list(ARMS)
    with pytest.raises(InputError, match="There is no arm 'batch 65'"):
        ablations.chosen_arms("batch 64, batch 65", ARMS)


def test_a_run_is_made_once_and_a_switched_adapter_writes_with_its_base(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def call(module: str, *arguments: object) -> None:
        given = dict(zip(map(str, arguments[::2]), map(str, arguments[1::2]), strict=True))
        calls.append((module, given.get("--model", ""), given.get("--parts", "")))
        if module == "training.export":
            Path(given["--export_dir"]).mkdir()
        if module == "training.evaluate":
            every = {
                "sts": {"model": 0.5},
                "retrieval": {"vectors": {"recall@1": 0.4}},
                "bits_per_byte": {"stories": 2.0},
                "caches": {name: {"f1": 30.0} for name in ("none", "rag_doc_query", "docs_cache", "docs_query_cache")},
            }
            scores = {part: every.get(part, {}) for part in given["--parts"].split(",")}
            Path(given["--json"]).write_text(json.dumps(scores), encoding="utf-8")

    monkeypatch.setattr(ablations, "_call", call)
    config = tmp_path / "recipe.yaml"
    config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    options: dict[str, Any] = {
        "recipe": config, "work": tmp_path / "work", "steps": 3, "seeds": 2, "output": tmp_path,
        "arms": "retrieval adapter, switched; retrieval adapter, always on",
    }  # fmt: skip
    path = ablations.run(tmp_path, **options)
    assert sum(call[0] == "training.train" for call in calls) == 4, "two arms share one run"
    base = [parts for module, model, parts in calls if model == recipe["model"]["path"]]
    assert base == ["caches,bits_per_byte"] * 2
    recording = json.loads(path.read_text(encoding="utf-8"))
    metrics = {name: {row["metric"] for row in recording["rows"] if row["task"] == name} for name in ARMS}
    assert metrics["retrieval adapter, always on"] == set(METRICS)
    cached = {"caches/docs_cache/f1", "caches/docs_query_cache/f1"}
    assert metrics["retrieval adapter, switched"] == set(METRICS) - cached, "they belong to weights that do not write"
    assert "--steps 3 --seeds 2 --arms" in recording["command"]
    calls.clear()
    ablations.run(tmp_path, **options)
    assert calls == []
    with pytest.raises(InputError, match="another recipe"):
        ablations.run(tmp_path, **options | {"steps": 4})


def test_an_effect_smaller_than_the_noise_is_named() -> None:
    rng, metric = random.Random(0), next(iter(METRICS))

    def seeds(mean: float) -> list[dict[str, float]]:
        return [{metric: mean + rng.gauss(0, 0.01)} for _ in range(3)]

    rows = ablations.rows_of({REFERENCE: seeds(0.5), "same": seeds(0.5), "better": seeds(0.6)})
    assert within_noise(rows, metric) == ["same"]
    better = next(row for row in rows if row["task"] == "better")
    assert better["low"] < better["value"] < better["high"] and better["difference"]["value"] == pytest.approx(
        0.1, abs=0.03
    )
    one = ablations.rows_of({REFERENCE: seeds(0.5)[:1], "better": seeds(0.6)[:1]})
    assert has_one_seed(one) and interval(one[0]).endswith("(no interval known)")


def test_the_spread_is_pooled_over_arms() -> None:
    assert ablations.pooled_deviation([[1.0, 3.0], [10.0, 10.0]]) == (1.0, 2)
    assert ablations.pooled_deviation([[1.0], [2.0]]) == (0.0, 0)
