"""The page holds what the recordings hold, and says what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from grit_app.benchmark.measure import latency
from grit_app.benchmark.show.figures import ttft_by_document_length, ttft_by_query_length
from grit_app.benchmark.show.paper import FOLDER, load_sections, times
from grit_app.errors import InputError
from training.paper import embedder, fewshot, kto, page, rag, rerank, sets, table1
from training.paper.recording import PaperSettings, correlation_interval, mean_interval

ROW = {
    "table": "few-shot",
    "task": "CISI",
    "metric": "ndcg_at_10",
    "system": "0-shot",
    "value": 0.3217,
    "low": 0.3,
    "high": 0.35,
    "n": 7,
}


def record(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    body = {
        "command": f"python -m training.paper {name}",
        "model": "m",
        "limit": None,
        "environment": {"cpu": "two cores"},
        "rows": rows,
    }
    (folder / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")


def test_recorded_numbers_stand_on_the_page_and_the_missing_are_named(tmp_path: Path) -> None:
    record(tmp_path, "fewshot", [ROW])
    text = page.build(tmp_path)
    assert "0.322 (0.300 … 0.350)" in text and "two cores" in text
    assert "0.322" in page.section("fewshot", tmp_path) and "Table 3" not in page.section("fewshot", tmp_path)
    assert "Not recorded yet: `python -m training.paper rerank`" in text
    assert "88.5" in text, "the published rows stand beside"


def test_a_page_that_is_not_from_the_recordings_fails(tmp_path: Path) -> None:
    record(tmp_path, "fewshot", [ROW])
    path = tmp_path / "paper.md"
    page.write(recordings=tmp_path, path=path)
    page.write(check=True, recordings=tmp_path, path=path)
    path.write_text(path.read_text(encoding="utf-8").replace("0.322", "0.422"), encoding="utf-8")
    with pytest.raises(InputError, match="not made from the recordings"):
        page.write(check=True, recordings=tmp_path, path=path)


def test_the_committed_page_is_what_the_recordings_give() -> None:
    page.write(check=True, recordings=FOLDER)


def test_a_recording_is_not_made_twice(tmp_path: Path, tiny_model: Any) -> None:
    settings = PaperSettings("m", tmp_path, 3, tmp_path, _loaded=[tiny_model])
    settings.record("x", lambda _: [ROW])
    made = (tmp_path / "x.json").read_text(encoding="utf-8")
    settings.record("x", lambda _: [], again=False)
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == made
    settings.record("x", lambda _: [])
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))["rows"] == []


def test_intervals_hold_their_value_and_narrow_with_n() -> None:
    few, many = (mean_interval(list(np.random.default_rng(0).normal(size=n))) for n in (20, 2000))
    assert few["low"] < few["value"] < few["high"] and many["high"] - many["low"] < few["high"] - few["low"]
    rho = correlation_interval(0.8, 1379)
    assert 0.77 < rho["low"] < 0.8 < rho["high"] < 0.83


def test_times_of_answers_are_recorded_over_both_lengths(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of the latency command, so that its figures draw them."""
    monkeypatch.setattr(rag, "STRATEGIES", ("docs_cache",))
    monkeypatch.setattr(rag, "REPEATS", 1)
    monkeypatch.setattr(latency, "LIBRARY_PASSAGES", 10)
    settings = PaperSettings("m", tmp_path, 2, tmp_path, _loaded=[tiny_model])
    path = settings.record("rag", lambda settings: rag.time_rows(settings, (30, 60)))
    section = next(one for one in load_sections(tmp_path) if one.name == "rag")
    records = times(section)
    assert {(row["doc_tokens"], row["query_tokens"]) for row in records} == {
        *((length, rag.SHORT_QUESTION) for length in (30, 60)),
        *((rag.SHORT_DOCUMENT, length) for length in (30, 60)),
    }
    assert len(section.tables[-1].rows) == len(records) and "samples" not in records[0]
    for figure in (ttft_by_document_length(records, "total_ms"), ttft_by_query_length(records, "total_ms")):
        drawn = [y for trace in figure.data for y in trace.y]
        assert any(row["total_ms"]["median"] in drawn for row in records)
    assert path.stat().st_size < 60_000


def test_reranking_is_measured_before_and_after(tiny_model: Any) -> None:
    corpus = {f"d{i}": f"Passage {i} is about thing {i}." for i in range(12)}
    data = sets.RetrievalSet({"q": "thing 3"}, corpus, {"q": {"d3": 1}})
    rows = rerank._of_set(tiny_model, "Some", data)
    assert [row["system"] for row in rows] == ["bi-encoder", *(way for way, _, _ in rerank.WAYS)]
    assert all("ms" in row and row["difference"]["n"] == 1 for row in rows[1:])


def test_preferences_are_compared_question_by_question() -> None:
    """The same questions: the difference has a narrower interval than either side."""
    rng = np.random.default_rng(0)
    before = rng.uniform(size=200)
    key = ("right passage", "f1")
    models = {name: kto.Measured((0.8, 50), {key: list(before + more)}) for name, more in (("before", 0), ("KTO", 0.1))}
    first, second = (row for row in kto.rows(models) if row["metric"] == "f1")
    assert "difference" not in first and second["difference"]["value"] == pytest.approx(0.1)
    assert second["difference"]["high"] - second["difference"]["low"] < 1e-6 < second["high"] - second["low"]
    assert [row["system"] for row in kto.rows(models) if row["metric"] == "spearman"] == ["before", "KTO"]


def test_no_score_is_computed_before_the_known_model_has_its_own(
    tmp_path: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missed(_: Path) -> None:
        raise InputError("MiniLM misses its score.")

    monkeypatch.setattr(embedder, "parity", missed)
    monkeypatch.setattr(embedder, "evaluate", lambda *_: pytest.fail("a number of ours"))
    settings = PaperSettings("m", tmp_path, 3, tmp_path, _loaded=[tiny_model])
    for measure in (table1.measure, fewshot.measure):
        with pytest.raises(InputError, match="MiniLM misses"):
            measure(settings)
    with pytest.raises(InputError, match="MiniLM misses"):
        kto.run("m", tmp_path, output=tmp_path, work=tmp_path / "work")
    assert not list(tmp_path.iterdir())


def test_a_command_is_recorded_as_it_was_given(tmp_path: Path, tiny_model: Any) -> None:
    settings = PaperSettings("m", tmp_path, 3, tmp_path, sets="CISI", _loaded=[tiny_model])
    notes = ["a note"]
    path = settings.record("x", lambda _: [ROW], options={"pairs": 7}, notes=notes)
    recording = json.loads(path.read_text(encoding="utf-8"))
    assert recording["command"].endswith("--model m --data DATA --limit 3 --sets CISI --pairs 7")
    assert recording["notes"] == notes
    assert settings.chosen(("A", "CISI")) == ["CISI"] and PaperSettings("m", tmp_path).chosen(("A",)) == ["A"]


def test_a_model_that_was_trained_on_is_measured_again(
    tmp_path: Path, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = PaperSettings("m", tmp_path, 3, tmp_path, _loaded=[tiny_model])
    settings.record("x", lambda _: [ROW])
    assert settings.is_recorded("x", {})
    monkeypatch.setattr(tiny_model, "identity", "other weights under the same name")
    assert not settings.is_recorded("x", {})


def test_the_ten_best_stay_before_the_rest() -> None:
    cosines = np.linspace(0.9, 0.1, 12)
    top = np.argsort(-cosines)[: rerank.DEPTH]
    ranked = rerank._above_the_rest(cosines, top, list(range(rerank.DEPTH)))
    assert list(np.argsort(-ranked)) == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 10, 11]


def test_commands_are_listed() -> None:
    from training.paper.__main__ import COMMANDS

    assert set(COMMANDS) == {"table1", "rerank", "fewshot", "kto", "rag", "ablations", "all", "page"}
    assert SimpleNamespace(**COMMANDS).page is page.write
