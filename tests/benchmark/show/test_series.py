"""Choosing records and comparing them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from grit_app.benchmark.show.series import break_even, common, lines, rows, select, speed_up

Records = list[dict[str, Any]]


def test_speed_up_compares_the_same_work_only(latency_records: Records) -> None:
    cached = select(latency_records, strategy="docs_cache", state="warm", doc_tokens=4000)[0]
    assert speed_up(cached, latency_records, "prefill_ttft_ms") == pytest.approx(4000 / 340)
    assert speed_up(cached, latency_records, "question_ttft_ms") == pytest.approx(4010 / 350)
    elsewhere = cached | {"query_tokens": 17}
    assert speed_up(elsewhere, latency_records, "prefill_ttft_ms") is None


def test_break_even_lies_where_the_lines_cross(latency_records: Records) -> None:
    """Between 100 tokens (ratio 100 / 301) and 1000 (1000 / 310), by a straight line in log-log."""
    low, high = math.log(100 / 301), math.log(1000 / 310)
    expected = math.exp(math.log(100) + (math.log(1000) - math.log(100)) * -low / (high - low))
    found = break_even(latency_records, "docs_cache", "warm", "prefill_ttft_ms")
    assert found == pytest.approx(expected)
    assert 250 < expected < 350  # the true crossing is at 303


def test_no_break_even_without_a_lasting_gain(make_record: Callable[..., Any], latency_records: Records) -> None:
    slow = [make_record("doc_cache", "warm", tokens, 2.0 * tokens) for tokens in (100, 1000, 4000)]
    assert break_even([*latency_records, *slow], "doc_cache", "warm", "prefill_ttft_ms") is None
    fast = [make_record("prefix_cache", "hot", tokens, 1.0) for tokens in (100, 1000, 4000)]
    assert break_even([*latency_records, *fast], "prefix_cache", "hot", "prefill_ttft_ms") == pytest.approx(100)
    assert break_even(latency_records, "unknown", "warm", "prefill_ttft_ms") is None


def test_lines_are_ordered_and_apart_by_state(latency_records: Records) -> None:
    found = lines(reversed(latency_records), "doc_tokens")
    assert set(found) == {("rag_doc_query", "none"), ("docs_cache", "warm"), ("docs_cache", "cold")}
    assert [record["doc_tokens"] for record in found["docs_cache", "cold"]] == [100, 1000, 4000]


def test_common_is_the_most_frequent_value() -> None:
    assert common([{"k": 1}, {"k": 5}, {"k": 5}], "k") == 5
    assert common([], "k") is None


def test_table_rows_hold_every_number(latency_records: Records) -> None:
    row = rows(latency_records)[1]
    record = latency_records[1]
    assert row["prefill_ttft_ms"] == record["prefill_ttft_ms"]["median"]
    assert row["prefill_ttft_ms_p90"] == record["prefill_ttft_ms"]["p90"]
    assert row["stage_embed_ms"] == record["stages_ms"]["embed"]["median"]
    assert row["cache_bytes"] == record["cache_bytes"]
    assert not any(isinstance(value, (dict, list)) for value in row.values())
