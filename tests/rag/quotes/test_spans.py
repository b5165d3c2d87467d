"""The few words of a sentence that answer: what is looked at, and what the fitted weights prefer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grit_app.errors import GritError
from grit_app.rag.quotes import spans
from grit_app.rag.quotes.spans import FEATURES, MOST_WORDS, features, short_answer, weights
from training.fit.spans import file_of


@pytest.mark.parametrize(
    ("question", "sentence", "wanted"),
    [
        ("How many schools took part?", "In all, 370 schools took part in the study.", "370"),
        ("When was the mill built?", "The mill was built by Anna Berg in 1875.", "1875"),
        ("Who built the mill?", "The mill was built by Anna Berg in 1875.", "Anna Berg"),
        ("Which city is the owner from?", "The owner came from Oslo with two sons.", "Oslo"),
    ],
)
def test_the_kind_of_thing_asked_for_is_found(question: str, sentence: str, wanted: str) -> None:
    span = short_answer(question, sentence)
    assert span is not None and wanted in span.text and len(span.text.split()) <= 4
    assert sentence[span.start : span.stop] == span.text


def test_weights_that_were_not_fitted_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tmp_path / "span_weights.json"
    changed.write_text(spans.FILE.read_text(encoding="utf-8").replace("1.93", "1.94"), encoding="utf-8")
    monkeypatch.setattr(spans, "FILE", changed)
    weights.cache_clear()
    try:
        with pytest.raises(GritError, match="not the file that was fitted"):
            weights()
    finally:
        monkeypatch.undo()
        weights.cache_clear()
    assert file_of(weights().tolist()) == spans.FILE.read_text(encoding="utf-8"), "as the fitting command writes it"


def test_features_are_named_and_bounded() -> None:
    places, rows = features("Who built the mill?", "The mill (built by Anna) burned, twice.")
    assert rows.shape == (len(places), len(FEATURES)) and len(weights()) == len(FEATURES) == len(set(FEATURES))
    assert np.isfinite(rows).all() and rows.max() <= 12
    row = dict(zip(FEATURES, rows[places.index((10, 23))], strict=True))  # "built by Anna"
    assert row["first:other"] == row["last:name"] == row["before:other"] == row["behind:stop"] == 1
    assert row["person:named"] == 1 and row["length person:3"] == 1


def test_spans_are_runs_of_words_without_edges() -> None:
    """Every candidate stands in the text, has no punctuation at its ends, and is not longer than allowed."""
    text = "“Well,” said he, “the price (in euros) is 3,500 — or so.”"
    places, _ = features("What is the price?", text)
    found = [text[start:stop] for start, stop in places]
    assert "3,500" in found and "the price (in euros)" in found and "Well" in found
    assert all(
        1 <= len(span.split()) <= MOST_WORDS and span[0] not in "“, " and span[-1] not in "”, ." for span in found
    )


@pytest.mark.parametrize("text", ["", "   ", "— “ ” …", "."])
def test_a_text_without_words_has_none(text: str) -> None:
    assert short_answer("Who?", text) is None
