"""Measured results on the page: what is drawn, listed and saved is what was measured."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from gradio.blocks import Block

from grit_app.benchmark.measure import latency, quality
from grit_app.benchmark.measure.latency import measure
from grit_app.benchmark.show.recorded import Recording
from grit_app.errors import InputError
from grit_app.ui.base import texts
from grit_app.ui.caching.measurement_views import (
    CHARTS,
    LIVE,
    NOT_MEASURED,
    as_csv,
    charts,
    choices,
    environment_table,
    progress_line,
    quality_for,
)
from grit_app.ui.caching.measurements import Results, live_plan
from grit_app.ui.caching.recorded_tables import gpu_tables, throughput_table

CLOCK = "prefill_ttft_ms"
QUALITY = [
    {"strategy": name, "passages": "gold", "k": 1, "n": 9, "f1": 40.0, "f1_minus_rag": 0.0, "ci95": [0.0, 0.0],
     "bytes_per_token": size}
    for name, size in (("rag_doc_query", 0), ("docs_cache", 2048))
]  # fmt: skip


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
    assert len(views) == 6 + len(CHARTS)
    table, environment, raw, text = views[-4:]
    assert json.loads(raw)["records"] == result["records"] and environment == environment_table(result["environment"])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [float(row[CLOCK]) for row in rows] == [record[CLOCK]["median"] for record in result["records"]]
    for record in result["records"]:
        assert f"{record[CLOCK]['median']:,.1f} <small>" in table


def test_charts_exist_where_there_is_something_to_draw(result: dict[str, Any]) -> None:
    drawn = dict(zip(CHARTS, charts(result["records"], None, CLOCK), strict=True))
    assert drawn["Document length"] is not None and drawn["Stages"] is not None and drawn["Cache on disk"] is not None
    assert drawn["Question length"] is None and drawn["Number of documents"] is None
    assert drawn["Quality and time"] is None
    heights = [y for trace in drawn["Document length"].data for y in trace.y]
    assert {record[CLOCK]["median"] for record in result["records"]} <= set(heights)


def test_without_results_nothing_is_made_up() -> None:
    finding, *rest = Results([]).views(None, None, CLOCK)
    assert "No results yet" in finding
    assert all(plot["visible"] is False for plot in rest[: len(CHARTS)]) and rest[-2:] == ["", ""]
    assert rest[len(CHARTS)] == ""  # one sentence is enough where there is nothing at all


def test_a_chart_without_data_is_a_card_that_names_its_command(result: dict[str, Any]) -> None:
    """A chart that is silently left out looks as if it had never been meant to be there."""
    card = Results([]).views(LIVE, result, CLOCK)[1 + len(CHARTS)]
    for name in ("Question length", "Number of documents", "Quality and time", "Quality and bytes"):
        assert f"<h4>{name}</h4>" in card
    words = re.sub("<[^>]+>", "", card)
    assert "Document length" not in card and "benchmark latency --docs 1,2,4,8,16" in words
    scores = Recording("cpu", "quality", {"model": {"name": "other"}}, QUALITY)
    views = Results([scores]).views(LIVE, result, CLOCK)
    drawn = dict(zip(CHARTS, views[1 : 1 + len(CHARTS)], strict=True))
    assert "Quality" not in views[1 + len(CHARTS)] and drawn["Quality and bytes"]["visible"]
    assert "answers of other" in drawn["Quality and time"]["value"].layout.title.text


def test_commands_of_the_cards_are_real(capsys: pytest.CaptureFixture[str]) -> None:
    """A card must not send people to an option that does not exist."""
    mains = {"latency": latency.main, "quality": quality.main}
    for _, command in NOT_MEASURED.values():
        name, *options = command.removeprefix("python -m grit_app.benchmark ").split()
        with pytest.raises(SystemExit):
            mains[name](["--help"])
        offered = capsys.readouterr().out
        assert all(option in offered for option in options if option.startswith("--"))


def test_throughput_is_told_with_its_hardware() -> None:
    encode = {"task": "encode", "peer": "other <b>", "ours_tokens_per_s": 353.1, "peer_tokens_per_s": 201.3,
              "ratio": 1.754, "texts": 150, "context": None}  # fmt: skip
    decode = encode | {"task": "decode", "ours_tokens_per_s": 22.72, "ratio": 1.2, "texts": None, "context": 4096}
    html = throughput_table([Recording("cpu", "throughput", {"hardware": "Some CPU"}, [encode, decode])])
    assert "embed 150 texts" in html and "write after 4,096 tokens" in html and "Some CPU" in html
    assert (
        "1.75×" in html and ">353<" in html and ">22.7<" in html and "<b>other" not in html and "other <b>" not in html
    )
    assert "No throughput is recorded yet" in throughput_table([])


def test_a_gpu_recording_is_told_with_its_hardware(result: dict[str, Any]) -> None:
    """Latency on a card is a choice beside the CPU's; the card's own parts stand under its name."""
    on_card = {"hardware": "Some <GPU>", "model": {"name": "m", "dtype": "bfloat16"}}
    speed = Recording("card", "latency", on_card, result["records"])
    assert any("Some <GPU>" in name for name, _ in Results([speed]).choices(None))
    times = {"median": 3.25, "p10": 3.0, "p90": 4.0, "min": 3.0, "n": 5}
    parts = [
        {"part": "join", "context": 4096, "joined_hot_ms": times, "speed_up_from_ram": 14.5},
        {"part": "launches", "what": "token", "operations": 12, "counts": {"cudaGraphLaunch": 1}},
        {"part": "encode", "error": "out of memory"},
    ]
    html = gpu_tables([Recording("card", "gpu", on_card, parts), speed])
    for words in ("Some &lt;GPU&gt;", "4,096 tokens", "joined hot 3.25 ms (n = 5)", "speed up from ram: 14.5",
                  "counts: cudaGraphLaunch 1", "error: out of memory"):  # fmt: skip
        assert words in html
    assert gpu_tables([speed]) == ""


def test_a_recording_of_two_models_is_offered_with_its_memory(result: dict[str, Any]) -> None:
    environment = {
        "hardware": "Some CPU",
        "two_models": {
            "unified": {"copies": 1, "memory_bytes": 100_000_000, "weight_bytes": 1, "load_s": 1.24},
            "two_models": {"copies": 2, "memory_bytes": 201_000_000, "weight_bytes": 2, "load_s": 2.5},
        },
    }
    one, both = (Recording("cpu", name, environment, result["records"]) for name in ("latency", "two_models"))
    results = Results([one, both])
    (_, first), (words, second) = results.choices(None)
    assert first != second and "beside two models" in words
    told = results.views(second, None, CLOCK)[0]
    assert "One model: 100 MB of memory, loaded in 1.2 s. Two models: 201 MB" in told


def test_recordings_are_listed_by_their_hardware_and_the_live_run_after_them(result: dict[str, Any]) -> None:
    environment = {"hardware": "Some CPU, 2 cores", "model": {"name": "m", "dtype": "float32", "quantization": "none"}}
    speed = Recording("cpu", "latency", environment, result["records"])
    scores = Recording("cpu", "quality", environment, [{"f1": 1.0}])
    listed = choices([speed, scores], result)
    assert [name for _, name in listed] == ["cpu", LIVE]
    assert "Some CPU, 2 cores" in listed[0][0] and "just now" in listed[1][0]
    assert "Measured on Some CPU, 2 cores" in Results([speed]).views("cpu", None, CLOCK)[0]
    other = Recording("gpu", "quality", {"model": {"name": "x"}}, [{"f1": 2.0}])
    assert quality_for([other, scores], "m") is scores
    assert quality_for([other, scores], "unknown") is other
    assert quality_for([speed], "m") is None


def test_recordings_of_one_models_quality_are_shown_as_one() -> None:
    def point(scheme: str, f1: float) -> dict[str, Any]:
        return {"strategy": "docs_cache", "passages": "retrieved", "k": 1, "scheme": scheme, "f1": f1}

    def recording(name: str, model: str, *records: dict[str, Any]) -> Recording:
        return Recording(name, "quality", {"model": {"name": model}}, list(records))

    all_ways = recording("all", "m", point("native", 1.0))
    packed = recording("packed", "m", point("native", 2.0), point("int4", 3.0))
    joined = quality_for([all_ways, packed, recording("other", "x", point("int8", 4.0))], "m")
    assert joined is not None and joined.name == "all"
    assert joined.records == [point("native", 1.0), point("int4", 3.0)]


def test_a_recording_says_that_the_race_is_of_another_model_and_a_point_says_its_runs(result: dict[str, Any]) -> None:
    """ "9.5 times" in the race, "130 times" three lines below: two numbers that seemed to contradict each other."""
    results = Results([Recording("latency", "latency", result["environment"], result["records"])])
    recorded_name = results.choices(None)[0][1]
    assert texts.OTHER_THAN_THE_RACE in results.views(recorded_name, None, CLOCK)[0]
    assert texts.OTHER_THAN_THE_RACE not in results.views(LIVE, result, CLOCK)[0]
    chart = results.views(recorded_name, None, CLOCK)[1]["value"]
    assert "runs, band" in chart.layout.title.text or "one run a point" in chart.layout.title.text


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
