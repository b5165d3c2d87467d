"""Recorded results and the sentence about them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grit_app.benchmark.show import recorded
from grit_app.errors import GritError

ENVIRONMENT = {
    "hardware": "Some CPU, 2 cores",
    "measured_at": "2026-01-02T03:04:05+00:00",
    "model": {"name": "mini-36m", "dtype": "float32", "quantization": "none"},
}


def test_recordings_are_found_by_command_with_their_hardware(tmp_path: Path, latency_records: list[Any]) -> None:
    for name in ("b-machine.latency", "a-machine.latency", "a-machine.quality"):
        content = {"environment": ENVIRONMENT, "records": latency_records}
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    found = recorded.load_all("latency", tmp_path)
    assert [each.name for each in found] == ["a-machine", "b-machine"]
    assert found[0].records == latency_records
    assert found[0].caption == "Some CPU, 2 cores · mini-36m, float32 · 100–4,000 document tokens · 2026-01-02"
    assert len(recorded.load_all(folder=tmp_path)) == 3
    assert recorded.load_all("latency", tmp_path / "nowhere") == []


def test_the_caption_owns_up_to_a_busy_machine() -> None:
    """Ratios hold up under load; milliseconds do not, and fewer threads than cores are not the machine's best."""
    busy = ENVIRONMENT | {"cores": 2, "threads": 1, "load_average": [9.5, 9.0, 8.0]}
    assert "1 thread · other programs running" in recorded.Recording("a", "latency", busy, []).caption
    calm = ENVIRONMENT | {"cores": 2, "threads": 2, "load_average": [0.4, 0.9, 8.0]}
    caption = recorded.Recording("a", "latency", calm, []).caption
    assert "thread" not in caption and "running" not in caption


@pytest.mark.parametrize("content", ["", "{", "[]", '{"environment": {}}', '{"records": 3}'])
def test_a_damaged_recording_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.latency.json").write_text(content, encoding="utf-8")
    with pytest.raises(GritError, match=r"x\.latency\.json is not a result"):
        recorded.load_all(folder=tmp_path)


def test_the_finding_is_computed_from_the_records(latency_records: list[Any]) -> None:
    sentence = recorded.finding(latency_records)
    assert sentence.startswith("With one document of 4,000 tokens and the caches in the page cache, ")
    for number in ("12 times sooner", "340 ms (n = ", "instead of 4,000 ms (n = ", "at most 50 times"):
        assert number in sentence, sentence
    for record in latency_records:
        record["prefill_ttft_ms"]["median"] *= 2 if record["strategy"] == "docs_cache" else 1
    assert "6 times sooner" in recorded.finding(latency_records)


def test_the_finding_speaks_of_the_page_cache_where_that_was_measured(
    make_record: Callable[..., Any], latency_records: list[Any]
) -> None:
    """A faster run from memory does not take its place; alone it does."""
    hot = make_record("docs_cache", "hot", 4000, 100.0)
    assert "12 times sooner" in recorded.finding([*latency_records, hot])
    full = [record for record in latency_records if record["state"] == "none"]
    assert "in memory" in recorded.finding([*full, hot]) and "40 times" in recorded.finding([*full, hot])


def test_the_finding_is_of_the_longest_document_and_never_above_what_operations_allow(
    make_record: Callable[..., Any], latency_records: list[Any]
) -> None:
    """A prettier ratio on a shorter document proves nothing, and one above the bound proves a disturbed measurement."""
    short = [make_record("rag_doc_query", "none", 100, 9000.0), make_record("docs_cache", "warm", 100, 1.0)]
    assert "12 times sooner" in recorded.finding([*latency_records, *short])
    for record in latency_records:
        record["flop_bound"] = 5.0
    disturbed = recorded.finding(latency_records)
    assert "about 5 times sooner" in disturbed and "rough" in disturbed and "12 times" not in disturbed


def test_no_gain_is_said_so_and_nothing_to_compare_says_nothing(make_record: Callable[..., Any]) -> None:
    slower = [make_record("rag_doc_query", "none", 100, 10.0), make_record("docs_cache", "hot", 100, 20.0)]
    assert "no sooner" in recorded.finding(slower)
    assert recorded.finding(slower[1:]) == ""
    assert recorded.finding([]) == ""


def test_shipped_recordings_say_where_they_come_from() -> None:
    """Each names its hardware and holds records; there is at least one of the latency command."""
    found = recorded.load_all()
    assert [each for each in found if each.command == "latency"]
    for each in found:
        assert each.hardware != "unknown hardware" and each.records, each.name
    for each in recorded.load_all("latency"):
        assert recorded.finding(each.records)
