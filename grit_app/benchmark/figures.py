"""Records → Plotly figures. Pure functions: every number drawn is a number of a record, or a ratio of two.

Each figure works on light and dark pages, shows a strategy in the same colour, line and marker everywhere (styles.py),
labels lines directly, and tells all of a point's numbers on hover.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from grit_app.benchmark.series import BASELINE, Record, break_even, common, lines, rows, select, speed_up
from grit_app.benchmark.styles import (
    GREY,
    STAGE_COLOURS,
    STAGE_PATTERNS,
    layout,
    name_of,
    style_of,
)

CLOCKS = {
    "prefill_ttft_ms": "retrieval done → first token",
    "question_ttft_ms": "question → first token",
    "total_ms": "question → end of the answer",
}


def ttft_by_document_length(
    records: Sequence[Record],
    clock: str = "prefill_ttft_ms",
    docs: int | None = None,
    query_tokens: int | None = None,
    states: Collection[str] | None = None,
    floors: bool = True,
) -> go.Figure:
    """Time against document tokens, log-log, with floors, break-even points and speed-ups at the longest length.

    docs, query_tokens   what is held fixed; None: what most records have. So in the other figures
    states               of caches; None: one that was measured, preferably "warm". So in the other figures
    """
    fixed = {"docs": docs, "query_tokens": query_tokens}
    return _by_length(records, "doc_tokens", "document tokens", clock, states, floors, **fixed)


def ttft_by_query_length(
    records: Sequence[Record],
    clock: str = "prefill_ttft_ms",
    docs: int | None = None,
    doc_tokens: int | None = None,
    states: Collection[str] | None = None,
    floors: bool = True,
) -> go.Figure:
    """Time against question tokens, log-log."""
    fixed = {"docs": docs, "doc_tokens": doc_tokens}
    return _by_length(records, "query_tokens", "question tokens", clock, states, floors, **fixed)


def ttft_by_documents(
    records: Sequence[Record],
    clock: str = "prefill_ttft_ms",
    doc_tokens: int | None = None,
    query_tokens: int | None = None,
    states: Collection[str] | None = None,
) -> go.Figure:
    """Time against the number of documents that share the same total of tokens."""
    fixed = {"doc_tokens": doc_tokens, "query_tokens": query_tokens}
    return _by_length(records, "docs", "documents", clock, states, False, **fixed)


def _by_length(
    records: Sequence[Record],
    x: str,
    x_title: str,
    clock: str,
    states: Collection[str] | None,
    floors: bool,
    **fixed: int | None,
) -> go.Figure:
    fixed = {key: common(records, key) if value is None else value for key, value in fixed.items()}
    shown = {*(states if states is not None else _preferred_state(records)), "none"}
    chosen = [record for record in select(records, **fixed) if record["state"] in shown]
    figure = go.Figure()
    for (strategy, state), line in lines(chosen, x).items():
        figure.add_trace(_line(strategy, state, line, chosen, x, clock))
        if floors:
            figure.add_trace(_floor(strategy, state, line, x))
        crossing = break_even(chosen, strategy, state, clock) if x == "doc_tokens" and strategy != BASELINE else None
        if crossing is not None and crossing > line[0][x]:
            _mark_break_even(figure, crossing, style_of(strategy).colour)
    held = _in_words(fixed)
    axis = {"type": "log", "tickvals": sorted({record[x] for record in chosen}), "tickformat": ",d"}
    subtitle = f"{held}; dotted: what operations and bytes allow" if floors else held
    figure.update_layout(
        layout(f"Time from {CLOCKS[clock]}<br><sup>{subtitle}</sup>", x_title, "milliseconds", xaxis=axis, height=520)
    )
    figure.update_yaxes(type="log", dtick="D2")  # labels at 1, 2 and 5
    return figure


def _in_words(fixed: Mapping[str, int | None]) -> str:
    """`1 document, 4,096 document tokens`."""
    names = {"docs": "document", "doc_tokens": "document token", "query_tokens": "question token"}
    return ", ".join(f"{value:,} {names[key]}{'s' * (value != 1)}" for key, value in fixed.items() if value is not None)


def _preferred_state(records: Sequence[Record]) -> list[str]:
    """The state that lines show unless told otherwise: several at once would be a thicket."""
    measured = {record["state"] for record in records}
    return [state for state in ("warm", "hot", "cold") if state in measured][:1]


def _mark_break_even(figure: go.Figure, crossing: float, colour: str) -> None:
    figure.add_vline(
        crossing,
        line={"color": colour, "dash": "dot", "width": 1},
        opacity=0.5,
        annotation={"text": f"break-even {crossing:,.0f}", "textangle": -90, "font": {"size": 10}},
    )


def _line(
    strategy: str, state: str, line: Sequence[Record], records: Sequence[Record], x: str, clock: str
) -> go.Scatter:
    style = style_of(strategy)
    medians = [record[clock]["median"] for record in line]
    factor = speed_up(line[-1], records, clock)
    last = f"{factor:.0f}×" if factor is not None and factor >= 10 else f"{factor:.1f}×" if factor is not None else ""
    return go.Scatter(
        x=[record[x] for record in line],
        y=medians,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [record[clock]["p90"] - median for record, median in zip(line, medians, strict=True)],
            "arrayminus": [median - record[clock]["p10"] for record, median in zip(line, medians, strict=True)],
            "thickness": 1,
        },
        mode="lines+markers+text",
        name=name_of(strategy, state),
        line={"color": style.colour, "dash": style.dash},
        marker={"symbol": style.marker, "size": 9, "opacity": {"warm": 0.85, "cold": 0.6}.get(state, 1.0)},
        text=[""] * (len(line) - 1) + ["" if strategy == BASELINE else last],
        textposition="middle right",
        textfont={"color": style.colour},
        hovertext=[hover(record, records) for record in line],
        hoverinfo="text",
        cliponaxis=False,
    )


def _floor(strategy: str, state: str, line: Sequence[Record], x: str) -> go.Scatter:
    return go.Scatter(
        x=[record[x] for record in line],
        y=[record["floor_ms"]["min"] for record in line],
        mode="lines",
        name=f"{name_of(strategy, state)}: floor",
        line={"color": style_of(strategy).colour, "dash": "dot", "width": 1},
        opacity=0.6,
        showlegend=False,
        hovertext=[f"{name_of(strategy, state)}: floor {record['floor_ms']['min']:,.1f} ms" for record in line],
        hoverinfo="text",
    )


def hover(record: Record, records: Sequence[Record]) -> str:
    """All numbers of a latency record, in lines of text."""
    told = [f"<b>{name_of(record['strategy'], record['state'])}</b>"]
    told.append(
        f"{record['doc_tokens']:,} document tokens in {record['docs']}, {record['query_tokens']:,} question tokens"
    )
    for clock, words in CLOCKS.items():
        summary = record[clock]
        factor = speed_up(record, records, clock)
        ratio = "" if factor is None or record["strategy"] == BASELINE else f", {factor:.1f}× faster"
        told.append(
            f"{words}: {summary['median']:,.1f} ms ({summary['p10']:,.1f}–{summary['p90']:,.1f}, "
            f"n={summary['n']:.0f}){ratio}"
        )
    told.append(f"floor {record['floor_ms']['min']:,.1f} ms; bound by operations {record['flop_bound']:.1f}×")
    told.append(f"{record['cached_tokens']:,} tokens cached, {record['computed_tokens']:,} computed")
    told.append(f"{record['cache_bytes'] / 1e6:,.1f} MB of cache read")
    if record.get("beyond_trained_context"):
        told.append("longer than the model was trained for: speed only")
    return "<br>".join(told)


def stage_waterfall(
    records: Sequence[Record],
    docs: int | None = None,
    doc_tokens: int | None = None,
    query_tokens: int | None = None,
    with_decode: bool = False,
) -> go.Figure:
    """Where the time goes: one bar for each strategy and state, one part for each stage, in the order of running."""
    longest = max((record["doc_tokens"] for record in records), default=None)
    wanted = {
        "docs": common(records, "docs") if docs is None else docs,
        "doc_tokens": longest if doc_tokens is None else doc_tokens,
        "query_tokens": common(records, "query_tokens") if query_tokens is None else query_tokens,
    }
    chosen = sorted(select(records, **wanted), key=lambda record: -record["question_ttft_ms"]["median"])
    names = [name_of(record["strategy"], record["state"]) for record in chosen]
    figure = go.Figure()
    for stage, colour in STAGE_COLOURS.items():
        if stage == "decode" and not with_decode:
            continue
        times = [record["stages_ms"].get(stage, {"median": 0.0})["median"] for record in chosen]
        if any(times):
            figure.add_trace(
                go.Bar(
                    y=names,
                    x=times,
                    name=stage,
                    orientation="h",
                    marker={"color": colour, "pattern": {"shape": STAGE_PATTERNS[stage], "size": 5}},
                    hovertemplate=f"%{{y}}<br>{stage}: %{{x:,.1f}} ms<extra></extra>",
                )
            )
    height = 170 + 34 * len(chosen)
    figure.update_layout(
        layout(f"Stage by stage<br><sup>{_in_words(wanted)}</sup>", "milliseconds", "", barmode="stack", height=height)
    )
    figure.update_xaxes(rangemode="tozero")
    _cut_long_bars(figure, chosen, names, "total_ms" if with_decode else "question_ttft_ms")
    return figure


def _cut_long_bars(figure: go.Figure, chosen: Sequence[Record], names: Sequence[str], clock: str) -> None:
    """Ends the axis a little behind the slowest cached strategy: full prefill would press the others to the edge."""
    cached = [record[clock]["median"] for record in chosen if record["cache_bytes"]]
    longer = [
        (name, record[clock]["median"])
        for name, record in zip(names, chosen, strict=True)
        if cached and record[clock]["median"] > 2 * max(cached)
    ]
    if not longer:
        return
    end = 1.25 * max(cached)
    figure.update_xaxes(range=[0, end])
    for name, time_ms in longer:
        told = {"text": f"<b>to {time_ms:,.0f} ms →</b>", "font": {"color": "white"}, "bgcolor": "rgba(0,0,0,0.6)"}
        figure.add_annotation(x=end, y=name, xanchor="right", showarrow=False, **told)


def cache_bytes_by_length(records: Sequence[Record], docs: int | None = None) -> go.Figure:
    """Bytes of stored cache against document tokens; one line for each strategy that stores one."""
    wanted = common(records, "docs") if docs is None else docs
    stored = [record for record in select(records, docs=wanted) if record["cache_bytes"]]
    unique = {(record["strategy"], record["doc_tokens"]): {**record, "state": "none"} for record in stored}
    figure = go.Figure()
    for (strategy, _), line in lines(unique.values(), "doc_tokens").items():
        style = style_of(strategy)
        figure.add_trace(
            go.Scatter(
                x=[record["doc_tokens"] for record in line],
                y=[record["cache_bytes"] / 1e6 for record in line],
                mode="lines+markers",
                name=style.label,
                line={"color": style.colour, "dash": style.dash},
                marker={"symbol": style.marker, "size": 9},
                hovertemplate="%{x:,} tokens: %{y:,.2f} MB<extra>" + style.label + "</extra>",
            )
        )
    figure.update_layout(layout("Cache on disk", "document tokens", "MB"))
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(rangemode="tozero")
    return figure


def quality_against_ttft(
    quality: Sequence[Record], latency: Sequence[Record], metric: str = "f1", state: str = "warm", k: int | None = None
) -> go.Figure:
    """Answer quality against time to the first token: up and to the left is better."""
    longest = max((record["doc_tokens"] for record in latency), default=None)
    times: dict[str, float] = {}
    for record in select(latency, doc_tokens=longest, query_tokens=common(latency, "query_tokens")):
        if record["state"] in (state, "none"):
            times.setdefault(record["strategy"], record["question_ttft_ms"]["median"])
    chosen = select(quality, k=common(quality, "k") if k is None else k)
    points = [(record, times[record["strategy"]]) for record in chosen if record["strategy"] in times]
    title = "Quality against time to the first token<br><sup>bars: 95 % interval, difference to full prefill</sup>"
    return _quality_points(points, metric, title, "question → first token, milliseconds", logarithmic=True)


def quality_against_bytes(quality: Sequence[Record], metric: str = "f1", k: int | None = None) -> go.Figure:
    """Answer quality against stored bytes for each token of the documents."""
    chosen = select(quality, k=common(quality, "k") if k is None else k)
    points = [(record, record["bytes_per_token"]) for record in chosen if record["bytes_per_token"] is not None]
    return _quality_points(
        points, metric, "Quality against stored bytes per token", "bytes per token", logarithmic=False
    )


def _quality_points(
    points: Sequence[tuple[Record, float]], metric: str, title: str, x_title: str, *, logarithmic: bool
) -> go.Figure:
    figure = go.Figure()
    for record, x in points:
        style = style_of(record["strategy"])
        extra = f", {record['scheme']}" if record.get("scheme") not in (None, "native") else ""
        told = "<br>".join(f"{key}: {value}" for key, value in rows([record])[0].items())
        figure.add_trace(
            go.Scatter(
                x=[x],
                y=[record[metric]],
                error_y=_interval(record, metric),
                mode="markers+text",
                name=style.label + extra,
                text=[style.label + extra],
                textposition="top center",
                textfont={"color": style.colour},
                marker={"symbol": style.marker, "color": style.colour, "size": 13},
                hovertext=[told],
                hoverinfo="text",
                showlegend=False,
                cliponaxis=False,
            )
        )
    names = {"f1": "F1, percent", "match": "gold answer contained, percent"}
    figure.update_layout(layout(title, x_title, names.get(metric, metric)))
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(**({"type": "log"} if logarithmic else {"rangemode": "tozero"}))
    return figure


def _interval(record: Record, metric: str) -> dict[str, Any] | None:
    """The bootstrap interval of the difference to full prefill, drawn around the score; only F1 has one."""
    interval, difference = record.get("ci95"), record.get("f1_minus_rag")
    if metric != "f1" or not interval or difference is None:
        return None
    low, high = interval
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, high - difference)],
        "arrayminus": [max(0.0, difference - low)],
        "color": GREY,
        "thickness": 1,
    }
