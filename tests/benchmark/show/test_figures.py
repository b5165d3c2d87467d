"""What is drawn equals the records."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
import pytest

from grit_app.benchmark.show import figures, quality_figures
from grit_app.benchmark.show.series import select
from grit_app.benchmark.show.styles import STYLES, name_of, style_of
from grit_app.rag.strategies import STRATEGIES

Records = list[dict[str, Any]]

LABEL = style_of("docs_cache").label

QUALITY = [
    {"strategy": "rag_doc_query", "passages": "gold", "k": 1, "n": 50, "match": 60.0, "f1": 40.0, "f1_minus_rag": 0.0,
     "ci95": [0.0, 0.0], "gap_recovered": 100.0, "bytes_per_token": 0},
    {"strategy": "docs_cache", "passages": "gold", "k": 1, "n": 50, "match": 55.0, "f1": 38.0, "f1_minus_rag": -2.0,
     "ci95": [-5.0, 1.0], "gap_recovered": 90.0, "bytes_per_token": 12288},
    {"strategy": "docs_cache", "passages": "gold", "k": 4, "n": 50, "match": 50.0, "f1": 30.0, "f1_minus_rag": -8.0,
     "ci95": [-9.0, -1.0], "gap_recovered": 60.0, "bytes_per_token": 12288},
]  # fmt: skip


def trace(figure: go.Figure, name: str) -> Any:
    found = [each for each in figure.data if each.name == name]
    assert len(found) == 1, [each.name for each in figure.data]
    return found[0]


@pytest.mark.parametrize("clock", figures.CLOCKS)
def test_a_line_holds_the_medians_and_the_band(latency_records: Records, clock: str) -> None:
    line = trace(figures.ttft_by_document_length(latency_records, clock), LABEL)
    expected = select(latency_records, strategy="docs_cache", state="warm")
    assert list(line.x) == [100, 1000, 4000]
    assert list(line.y) == [record[clock]["median"] for record in expected]
    assert list(line.error_y.array) == pytest.approx([r[clock]["p90"] - r[clock]["median"] for r in expected])
    assert list(line.error_y.arrayminus) == pytest.approx([r[clock]["median"] - r[clock]["p10"] for r in expected])


def ends(figure: go.Figure) -> dict[str, str]:
    """Strategy → what stands at the end of its line."""
    labels = [each for each in figure.layout.annotations if (each.name or "").startswith("end of ")]
    return {each.name.removeprefix("end of "): each.text for each in labels}


def test_the_longest_point_carries_the_speed_up(latency_records: Records) -> None:
    """4000 / 340 = 11.8; full prefill is what the others are compared with."""
    dot = f'<span style="color:{style_of("docs_cache").colour}">●</span>'
    assert ends(figures.ttft_by_document_length(latency_records)) == {"docs_cache": f"{dot} <b>12×</b>"}
    cold = figures.ttft_by_document_length(latency_records, states=("cold",))
    assert ends(cold) == {"docs_cache": f"{dot} <b>8.3×</b>"}  # 4000 / 480


def test_speed_ups_of_lines_that_end_together_do_not_lie_on_each_other(
    make_record: Callable[..., Any], latency_records: Records
) -> None:
    """At nearly the same time two labels would be one smear; the label of the slower one stays above."""
    others = [make_record("docs_query_cache", "warm", 4000, 338.0), make_record("prefix_cache", "warm", 4000, 342.0)]
    figure = figures.ttft_by_document_length([*latency_records, *others])
    low, high = figure.layout.yaxis.range
    labels = [each for each in figure.layout.annotations if (each.name or "").startswith("end")]
    heights = [(each.y - low) / (high - low) * figures.PLOT_PX + each.yshift for each in labels]
    assert [each.name for each in labels] == ["end of docs_query_cache", "end of docs_cache", "end of prefix_cache"]
    gaps = [above - below for below, above in pairwise(heights)]
    assert min(gaps) > figures.LABEL_GAP_PX - 0.01


@pytest.mark.parametrize(
    ("places", "moved"),
    [
        ([], []),
        ([3.0], [3.0]),
        ([0.0, 20.0], [0.0, 20.0]),
        ([10.0, 10.0], [5.0, 15.0]),
        ([0.0, 0.0, 11.0], [-6.333, 3.667, 13.667]),
    ],
)
def test_places_are_spread_as_little_as_needed(places: list[float], moved: list[float]) -> None:
    assert figures.spread(places, 10.0) == pytest.approx(moved, abs=1e-3)


def test_floors_and_break_even_are_drawn_from_the_records(latency_records: Records) -> None:
    figure = figures.ttft_by_document_length(latency_records)
    floor = trace(figure, LABEL + ": floor")
    records = select(latency_records, strategy="docs_cache", state="warm")
    assert list(floor.y) == [record["floor_ms"]["min"] for record in records]
    told = [annotation.text for annotation in figure.layout.annotations]
    assert any(text.startswith("break-even 3") for text in told), told
    assert not [
        each for each in figures.ttft_by_document_length(latency_records, floors=False).data if "floor" in each.name
    ]


def test_both_axes_are_logarithmic(latency_records: Records) -> None:
    figure = figures.ttft_by_document_length(latency_records)
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")


@pytest.mark.parametrize("clock", figures.CLOCKS)
def test_the_time_axis_holds_every_band_and_floor_and_writes_its_numbers_out(
    latency_records: Records, clock: str
) -> None:
    """Plotly's own labels say `5` for 5, 50 and 500 alike; a fixed range may cut what was measured."""
    axis = figures.ttft_by_document_length(latency_records, clock).layout.yaxis
    low, high = (10**end for end in axis.range)
    for record in latency_records:
        if record["state"] != "cold":
            assert low < record["floor_ms"]["min"] and low < record[clock]["p10"] and record[clock]["p90"] < high
    assert [float(words.replace(",", "")) for words in axis.ticktext] == list(axis.tickvals)
    assert {100, 200, 500, 1000, 2000} <= set(axis.tickvals)


def test_hover_tells_all_numbers(latency_records: Records) -> None:
    line = trace(figures.ttft_by_document_length(latency_records), LABEL)
    for number in ("340.0 ms", "306.0–408.0", "n=5", "11.8× faster", "floor 136.0 ms", "50.0×", "4,000 tokens cached",
                   "40 computed", "0.4 MB", "longer than the model was trained for"):  # fmt: skip
        assert number in line.hovertext[-1], number
    assert "longer than" not in line.hovertext[0]


def test_one_state_of_the_caches_is_shown_unless_told(latency_records: Records) -> None:
    """Full prefill reads no cache and is always there."""
    names = [each.name for each in figures.ttft_by_document_length(latency_records, floors=False).data]
    assert names == [style_of("rag_doc_query").label, LABEL]
    assert "caches in the page cache" in figures.ttft_by_document_length(latency_records).layout.title.text
    cold = [record for record in latency_records if record["state"] != "warm"]
    assert "caches from the disk" in figures.ttft_by_document_length(cold).layout.title.text


def test_several_states_are_told_apart_by_name(latency_records: Records) -> None:
    figure = figures.ttft_by_document_length(latency_records, states=("warm", "cold"), floors=False)
    names = [style_of("rag_doc_query").label, name_of("docs_cache", "warm"), name_of("docs_cache", "cold")]
    assert [each.name for each in figure.data] == names


def test_other_lengths_are_held_fixed(make_record: Callable[..., Any], latency_records: Records) -> None:
    """Records of another question length or number of documents must not end up on the same line."""
    others = [
        make_record("docs_cache", "warm", 1000, 7.0, query_tokens=512),
        make_record("docs_cache", "warm", 1000, 9.0, docs=4),
    ]
    records = [*latency_records, *others]
    line = trace(figures.ttft_by_document_length(records), LABEL)
    assert list(line.x) == [100, 1000, 4000]
    assert list(trace(figures.ttft_by_query_length(records, doc_tokens=1000), LABEL).x) == [16, 512]
    by_docs = trace(figures.ttft_by_documents(records, doc_tokens=1000), LABEL)
    assert (list(by_docs.x), by_docs.y[1]) == ([1, 4], 9.0)


def test_stages_add_up_to_the_clock(latency_records: Records) -> None:
    """At the longest length by default; without decoding the bars end at the first token."""
    figure = figures.stage_waterfall(latency_records)
    assert "decode" not in [bar.name for bar in figure.data]
    for index, name in enumerate(figure.data[0].y):
        record = next(r for r in select(latency_records, doc_tokens=4000) if name_of(r["strategy"], r["state"]) == name)
        total = sum(bar.x[index] for bar in figure.data)
        assert total == pytest.approx(record["question_ttft_ms"]["median"])
    decode = trace(figures.stage_waterfall(latency_records, with_decode=True), "decode")
    assert set(decode.x) == {100}


def test_full_prefill_does_not_press_the_others_against_the_edge(latency_records: Records) -> None:
    """Its bar is cut, and says where it would end: cached bars end at 490, the axis at 1.25 times that."""
    figure = figures.stage_waterfall(latency_records)
    assert list(figure.layout.xaxis.range) == [0, pytest.approx(1.25 * 490)]
    (note,) = [each for each in figure.layout.annotations if each.name == "cut"]
    assert note.y == name_of("rag_doc_query", "none") and "4,010 ms" in note.text
    short = figures.stage_waterfall(latency_records, doc_tokens=100)
    assert short.layout.xaxis.range is None and "cut" not in [each.name for each in short.layout.annotations]


def test_every_bar_says_its_name_and_time(latency_records: Records) -> None:
    """Beside the bars the names would take a phone's whole width, so they stand above, the slowest first."""
    figure = figures.stage_waterfall(latency_records)
    told = {each.y: each.text for each in figure.layout.annotations if each.name == "bar"}
    assert list(told) == list(figure.data[0].y) and figure.layout.yaxis.autorange == "reversed"
    assert told[name_of("docs_cache", "cold")] == f"{name_of('docs_cache', 'cold')}: <b>490 ms</b>"
    assert next(iter(told)) == name_of("rag_doc_query", "none")


def test_cache_bytes_by_length(latency_records: Records) -> None:
    line = trace(figures.cache_bytes_by_length(latency_records), style_of("docs_cache").label)
    assert list(zip(line.x, line.y, strict=True)) == [(100, 0.01), (1000, 0.1), (4000, 0.4)]
    assert len(figures.cache_bytes_by_length(latency_records).data) == 1  # warm and cold are the same file


def test_strategies_that_store_the_same_bytes_share_a_line(
    make_record: Callable[..., Any], latency_records: Records
) -> None:
    """Drawn one over the other, only the last would be seen, and the others would look forgotten."""
    twin = [make_record("prefix_cache", "warm", tokens, 300.0) for tokens in (100, 1000, 4000)]
    other = [make_record("doc_cache", "warm", tokens, 300.0, cache_bytes=50 * tokens) for tokens in (100, 1000)]
    figure = figures.cache_bytes_by_length([*latency_records, *twin, *other])
    names = [each.name for each in figure.data]
    both = f"{style_of('docs_cache').label}<br>= {style_of('prefix_cache').label}"
    assert names == [both, style_of("doc_cache").label]
    assert "50 to 100 bytes per document token" in figure.layout.title.text


def test_quality_points(latency_records: Records) -> None:
    """The longest measured length gives the time; k is held fixed; the interval stands around the score."""
    figure = quality_figures.quality_against_ttft(QUALITY, latency_records)
    points = {each.name: each for each in figure.data}
    cached = points[style_of("docs_cache").label]
    assert (cached.x[0], cached.y[0]) == (350, 38.0)
    assert cached.error_y.array[0] == pytest.approx(3.0) and cached.error_y.arrayminus[0] == pytest.approx(3.0)
    assert points[style_of("rag_doc_query").label].x[0] == 4010
    by_bytes = quality_figures.quality_against_bytes(QUALITY, metric="match", k=4)
    assert [(each.x[0], each.y[0]) for each in by_bytes.data] == [(12288, 50.0)]


def test_quality_of_other_passages_does_not_slip_in(latency_records: Records) -> None:
    """Right and retrieved passages are two experiments; a record without passages belongs to both."""
    retrieved = [{**record, "passages": "retrieved", "f1": 5.0} for record in QUALITY[:1]]
    without = {**QUALITY[0], "strategy": "none", "passages": "none", "f1": 3.0}
    figure = quality_figures.quality_against_bytes([*QUALITY, *retrieved, without], k=1)
    assert sorted(each.y[0] for each in figure.data) == [3.0, 38.0, 40.0]
    assert "50 questions, the right passage" in figure.layout.title.text


def test_points_of_the_same_bytes_stand_side_by_side() -> None:
    twin = {**QUALITY[1], "strategy": "docs_query_cache"}
    figure = quality_figures.quality_against_bytes([*QUALITY, twin], k=1)
    assert [each.x[0] for each in figure.data] == pytest.approx([0, 12288, 12288 * 1.02])


def test_schemes_of_a_strategy_are_one_line_and_only_native_ones_have_times(latency_records: Records) -> None:
    half = {**QUALITY[1], "scheme": "int8", "bytes_per_token": 6200, "f1": 37.0}
    by_bytes = quality_figures.quality_against_bytes([*QUALITY, half], k=1)
    line = trace(by_bytes, style_of("docs_cache").label)
    assert (list(line.x), list(line.y)) == ([12288, 6200], [38.0, 37.0]) and len(line.error_y.array) == 2
    assert "from right to left: native, int8" in " ".join(small_print(by_bytes))
    by_time = quality_figures.quality_against_ttft([*QUALITY, half], latency_records)
    assert list(trace(by_time, style_of("docs_cache").label).y) == [38.0]


def test_answers_and_times_of_two_models_are_named(latency_records: Records) -> None:
    """Speed may be measured on a shape with random weights: nobody must take its times for those of the answers."""
    mixed = quality_figures.quality_against_ttft(QUALITY, latency_records, models=("small", "big"))
    assert "answers of small, times of big" in mixed.layout.title.text
    same = quality_figures.quality_against_ttft(QUALITY, latency_records, models=("big", "big"))
    assert "answers of" not in same.layout.title.text


def small_print(figure: go.Figure) -> list[str]:
    return re.findall(r">([^<>]+)</span>", figure.layout.title.text)


def test_small_print_is_as_wide_as_a_phone(latency_records: Records) -> None:
    """Plotly does not wrap: "a line joins one strategy's caches, from right to left: native," ended at the edge."""
    half = {**QUALITY[1], "scheme": "int8", "bytes_per_token": 6200, "f1": 37.0}
    drawn = [
        quality_figures.quality_against_bytes([*QUALITY, half], k=1),
        quality_figures.quality_against_ttft(QUALITY, latency_records, k=1, models=("one", "another")),
        figures.ttft_by_document_length(latency_records),
    ]
    lines = [line for figure in drawn for line in small_print(figure)]
    assert len(lines) > 6 and all(len(line) <= 56 for line in lines)


def test_a_strategy_has_one_look_everywhere(latency_records: Records) -> None:
    style = style_of("docs_cache")
    line = trace(figures.ttft_by_document_length(latency_records), LABEL)
    stored = trace(figures.cache_bytes_by_length(latency_records), style.label)
    point = trace(quality_figures.quality_against_ttft(QUALITY, latency_records), style.label)
    assert line.line.color == stored.line.color == point.marker.color == style.colour
    assert line.marker.symbol == stored.marker.symbol == point.marker.symbol == style.marker


def test_strategies_can_be_told_apart_without_colour() -> None:
    assert set(STRATEGIES) <= set(STYLES)
    looks = [(style.dash, style.marker) for style in STYLES.values()]
    assert len(set(looks)) == len(looks)
    assert len({style.colour for style in STYLES.values()}) == len(STYLES)


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("strategy", STYLES)
def test_colours_stand_out_on_light_and_on_dark(strategy: str) -> None:
    """At least 2 : 1 on white and 3 : 1 on Gradio's dark page; lines are thick and have markers."""
    shade = luminance(STYLES[strategy].colour)
    assert 1.05 / (shade + 0.05) >= 2
    assert (shade + 0.05) / (luminance("#0b0f19") + 0.05) >= 3


@pytest.mark.parametrize(
    "draw",
    [
        figures.ttft_by_document_length,
        figures.ttft_by_query_length,
        figures.ttft_by_documents,
        figures.stage_waterfall,
        figures.cache_bytes_by_length,
        lambda records: quality_figures.quality_against_ttft(QUALITY, records),
        lambda records: quality_figures.quality_against_bytes(QUALITY),
    ],
)
def test_every_figure_is_see_through_and_survives_no_records(draw: Any, latency_records: Records) -> None:
    for figure in (draw(latency_records), draw([])):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        json.loads(figure.to_json())
