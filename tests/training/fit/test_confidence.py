"""What a checkpoint believes of its answers: found again from made ones, and fitted through the app's own path."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grit_app.gritlm import GritConfig
from grit_app.gritlm.errors import ModelError
from grit_app.rag.judge.confidence import BIAS, confidence_of
from tests.training.test_evaluate import checkpoint, folder  # noqa: F401  (fixtures)
from training.evaluation.documents import best_way
from training.fit.confidence import Collected, Judged, fit, fit_weights, main, precise_from


def made(count: int, seed: int, answerable: bool) -> list[Judged]:
    """Three answers a question; the likelier and better ranked they are, the more often they are right."""
    generator = random.Random(seed)
    rows = []
    for question in range(count):
        for rank in range(3):
            features = {"score": generator.random(), "rank": float(rank), "likelihood": -2 * generator.random()}
            logit = 2.0 + 2.0 * features["likelihood"] - 1.0 * rank
            right = answerable and generator.random() < 1 / (1 + np.exp(-logit))
            rows.append(Judged(question, features, bool(right), bool(right)))
    return rows


def test_weights_are_found_again_and_the_bias_alone_where_nothing_differs() -> None:
    rows = made(800, 0, True)
    weights = fit_weights([row.features for row in rows], [row.is_right for row in rows])
    assert weights["likelihood"] == pytest.approx(2.0, abs=0.4)
    assert weights["rank"] == pytest.approx(-1.0, abs=0.2)
    assert weights["score"] == pytest.approx(0.0, abs=0.4)
    assert weights[BIAS] == pytest.approx(2.0, abs=0.4)
    alone = fit_weights([{"score": 0.5}] * 3, [False] * 3)
    assert set(alone) == {BIAS} and alone[BIAS] < -1


def test_a_threshold_is_the_lowest_above_which_enough_is_right() -> None:
    rows = [(0.9, True), (0.8, True), (0.7, False), (0.6, True), (0.5, False), (0.1, False)]
    assert precise_from(rows, 0.75) == pytest.approx(0.6, abs=1e-3)
    assert precise_from(rows, 0.99) == pytest.approx(0.8, abs=1e-3)
    assert precise_from([(0.9, False)], 0.5) > 1, "never"


def test_thresholds_rise_and_unanswerable_questions_are_refused_more_often(tmp_path: Path) -> None:
    found = Collected()
    found.answerable["each"], found.unanswerable["each"] = made(300, 1, True), made(300, 2, False)
    found.f1["each_cache"] = [0.5]
    config, report = fit(found, GritConfig())
    judge = confidence_of(config, "each")
    assert judge is not None and 0 < judge.refuse <= judge.doubt <= judge.sure
    assert confidence_of(config, "quote") is None, "nothing was asked in that way"
    assert report["each"]["unanswerable_refused"] + report["each"]["answerable_kept"] > 0.9
    assert report["f1"] == {"each_cache": 50.0}
    config.save(tmp_path)
    assert GritConfig.load(tmp_path) == config


@pytest.mark.parametrize("fitted", [{}, {"weights": {"bias": "x"}, "refuse": 0, "doubt": 0, "sure": 1}, 5])
def test_a_damaged_confidence_is_a_sentence(fitted: Any) -> None:
    with pytest.raises(ModelError, match=r"confidence.each in grit_config.json"):
        GritConfig(confidence={"each": fitted})


def test_the_best_way_has_most_right_answers_on_right_pages() -> None:
    rates = {"right_answer": 0.5, "right_page": 0.5, "both": 0.4, "n": 20.0}
    found = {
        ("docs_cache", "quote"): rates,
        ("each_cache", "free"): rates | {"both": 0.5},
        ("docs_cache", "free"): rates | {"right_page": 0.9},
    }
    assert best_way(found) == ("each_cache", "free")  # type: ignore[arg-type]
    del found["each_cache", "free"]
    assert best_way(found) == ("docs_cache", "free")  # type: ignore[arg-type]


def test_the_command_asks_fits_and_writes(checkpoint: Path, folder: Path, tmp_path: Path, capsys: Any) -> None:  # noqa: F811
    out = tmp_path / "out.json"
    arguments = ["--model", str(checkpoint), "--suite", str(folder), "--limit", "4", "--json", str(out)]
    assert main([*arguments, "--dry_run"]) == 0
    assert GritConfig.load(checkpoint).confidence == {}
    assert main(arguments) == 0
    saved, data = GritConfig.load(checkpoint), json.loads(out.read_text(encoding="utf-8"))
    assert set(saved.confidence) == {"each", "free", "quote"} and saved.confidence == data["confidence"]
    assert set(data["f1"]) == {"each_cache", "docs_cache", "rag_doc_query", "quote"}
    assert len(data["answerable"]["each"]) == 4 * 5 and len(data["answerable"]["quote"]) == 4
    assert all(set(row["features"]) == {"score", "rank", "likelihood", "refusal", "words"}
               for row in data["answerable"]["each"])  # fmt: skip
    assert not any(row["is_right"] for rows in data["unanswerable"].values() for row in rows)
    assert "answerable_kept" in capsys.readouterr().out
