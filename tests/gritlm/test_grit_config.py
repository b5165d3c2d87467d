"""grit_config.json: what is written is read again, and what cannot be used is named."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.grit_config import GritConfig


def test_saved_settings_come_back(tmp_path: Path) -> None:
    config = GritConfig(
        attention="cccc",
        pooling="weightedmean",
        retrieval_instruction="Represent the question: ",
        trained_context=512,
        answerable_threshold=0.41,
        answer_mode="quote",
        answer_prefix="",
        default_k=5,
        vector_weight=0.6,
    )
    path = config.save(tmp_path)
    assert path.name == "grit_config.json"
    assert GritConfig.load(tmp_path) == config
    assert [file.name for file in tmp_path.iterdir()] == ["grit_config.json"]


def test_a_partial_file_gets_defaults(tmp_path: Path) -> None:
    (tmp_path / "grit_config.json").write_text('{"vector_weight": 1, "default_k": 3}')
    assert GritConfig.load(tmp_path) == GritConfig(vector_weight=1.0, default_k=3)


@pytest.mark.parametrize(
    "name",
    [
        "GritLM/GritLM-7B",
        "GritLM/GritLM-8x7B",
        "/cache/models--GritLM--GritLM-7B/snapshots/13f00a0e",
        "models/gritlm-7b",
    ],
)
def test_published_models_are_known_without_a_file(name: str) -> None:
    """Their retrieval-augmented runs used no instruction on either side, and opened the answer with these words."""
    config = GritConfig.load(name)
    assert (config.attention, config.pooling, config.normalized) == ("bbcc", "mean", True)
    assert (config.retrieval_instruction, config.answer_prefix) == ("", "The answer is")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "one JSON object"),
        ('{"atention": "bbcc"}', "unknown key 'atention'"),
        ('{"attention": "bc"}', "attention must be one of bbcc, cccc, bb, cc"),
        ('{"attention": 4}', "must be of kind str"),
        ('{"default_k": true}', "must be of kind int"),
        ('{"default_k": 0}', "default_k at least 1"),
        ('{"pooling": "weighted_mean"}', "pooling must be one of"),
        ('{"prompt_version": "gritlm-9"}', "prompt version 'gritlm-9'"),
        ('{"vector_weight": 1.5}', "vector_weight must lie between 0 and 1"),
    ],
)
def test_unusable_files_are_explained(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "grit_config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        GritConfig.load(tmp_path)


def test_an_unknown_model_without_settings_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Bidirectional attention in a model that was never trained for it gives poor vectors, so it must not be silent."""
    assert GritConfig.load(tmp_path) == GritConfig()
    assert "has no grit_config.json" in caplog.text
    caplog.clear()
    GritConfig.load("GritLM/GritLM-7B")
    assert not caplog.text
    GritConfig.load(tmp_path / "not-gritlm-7b-at-all" / "other")
    assert "has no grit_config.json" in caplog.text, "a part of a name is not the name"


def test_overrides_that_are_none_change_nothing() -> None:
    config = GritConfig(pooling="cls")
    assert config.overridden(attention=None, pooling=None) == config
    assert config.overridden(attention="cccc") == GritConfig(pooling="cls", attention="cccc")


def test_the_file_holds_every_setting(tmp_path: Path) -> None:
    """A checkpoint must not depend on this program's defaults of a later day."""
    assert json.loads(GritConfig().save(tmp_path).read_text()) == asdict(GritConfig())
