"""Measured results on the page: what is drawn, listed and saved is what was measured."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from gradio.blocks import Block

from grit_app.benchmark.latency import measure
from grit_app.benchmark.recorded import Recording
from grit_app.errors import InputError
from grit_app.ui.measurement_views import CHARTS, LIVE, as_csv, charts, choices, progress_line, quality_for
from grit_app.ui.measurements import Results, live_plan

CLOCK = "prefill_ttft_ms"


@pytest.fixture(scope="module")
def result(load_tiny: Callable[..., Any]) -> dict[str, Any]:
    """A real measurement of a tiny model: two lengths, full prefill and one cached strategy."""
    return measure(load_tiny("mistral"), live_plan(["docs_cache"], [128, 64], [8], [1]))


def test_the_live_plan_always_has_full_prefill_beside() -> None:
    plan = live_plan(["docs_cache"], [128, 64], [8], [1])
    assert plan.strategies == ("rag_doc_query", "docs_cache") and list(plan.doc_tokens) == [64, 128]
    assert plan.states == ("warm",) and plan.seconds


@pytest.mark.parametrize("missing", range(4))
def test_choosing_nothing_is_a_sentence(missing: int) -> None:
    chosen: list[Any] = [["docs_cache"], [64], [8], [1]]
    chosen[missing] = []
    with pytest.raises(InputError, match="at least one"):
        live_plan(*chosen)


def test_views_carry_every_number_of_the_records(result: dict[str, Any]) -> None:
    views = Results([]).views(LIVE, result, CLOCK)
    assert len(views) == 5 + len(CHARTS)
    table, environment, raw, text = views[-4:]
    assert json.loads(raw)["records"] == result["records"] and environment == result["environment"]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row[CLOCK]) for row in rows] == [record[CLOCK]["median"] for record in result["records"]]
    for record in result["records"]:
        assert f"{record[CLOCK]['median']:,.1f} <small>" in table


def test_charts_exist_where_there_is_something_to_draw(result: dict[str, Any]) -> None:
    drawn = dict(zip(CHARTS, charts(result["records"], [], CLOCK), strict=True))
    assert drawn["Document length"] is not None and drawn["Stages"] is not None and drawn["Cache on disk"] is not None
    assert drawn["Question length"] is None and drawn["Number of documents"] is None
    assert drawn["Quality and time"] is None
    heights = [y for trace in drawn["Document length"].data for y in trace.y]
    assert {record[CLOCK]["median"] for record in result["records"]} <= set(heights)


def test_without_results_nothing_is_made_up() -> None:
    finding, *rest = Results([]).views(None, None, CLOCK)
    assert "No results yet" in finding
    assert all(plot["visible"] is False for plot in rest[: len(CHARTS)]) and rest[-2:] == ["", ""]


def test_recordings_are_listed_by_their_hardware_and_the_live_run_after_them(result: dict[str, Any]) -> None:
    environment = {"hardware": "Some CPU, 2 cores", "model": {"name": "m", "dtype": "float32", "quantization": "none"}}
    latency = Recording("cpu", "latency", environment, result["records"])
    quality = Recording("cpu", "quality", environment, [{"f1": 1.0}])
    listed = choices([latency, quality], result)
    assert [name for _, name in listed] == ["cpu", LIVE]
    assert "Some CPU, 2 cores" in listed[0][0] and "just now" in listed[1][0]
    assert "Measured on Some CPU, 2 cores" in Results([latency]).views("cpu", None, CLOCK)[0]
    other = Recording("gpu", "quality", {"model": {"name": "x"}}, [{"f1": 2.0}])
    assert quality_for([other, quality], "m") == quality.records
    assert quality_for([other, quality], "unknown") == other.records
    assert quality_for([latency], "m") == []


def test_csv_has_a_column_for_every_number_of_any_record(result: dict[str, Any]) -> None:
    names = as_csv(result["records"]).splitlines()[0].split(",")
    assert len(names) == len(set(names))
    assert {"strategy", "cache_bytes", "stage_join_ms", "floor_ms"} <= set(names)


def test_progress_counts_and_escapes() -> None:
    line = progress_line(3, 12, "<b>")
    assert "3 of 12 points" in line and 'aria-valuenow="25"' in line and "<b>" not in line


def test_views_are_values_and_never_components(result: dict[str, Any]) -> None:
    """They are also asked for while the page is built: a component made on the way would stand on it a second time."""
    assert not any(isinstance(view, Block) for view in Results([]).views(LIVE, result, CLOCK))
