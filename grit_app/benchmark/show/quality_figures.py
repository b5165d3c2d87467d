"""Records of answer quality → Plotly figures, beside the time and the bytes that each strategy costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from grit_app.benchmark.show.figures import in_words, preferred_state
from grit_app.benchmark.show.series import Record, common, rows, select
from grit_app.benchmark.show.styles import GREY, layout, style_of


def quality_against_ttft(
    quality: Sequence[Record],
    latency: Sequence[Record],
    metric: str = "f1",
    k: int | None = None,
    models: tuple[str, str] = ("", ""),
) -> go.Figure:
    """Answer quality against time to the first token: up and to the left is better.

    models   names of the model of the answers and of that of the times; told when they are not the same
    """
    longest = max((record["doc_tokens"] for record in latency), default=None)
    fixed = {"doc_tokens": longest, "query_tokens": common(latency, "query_tokens"), "docs": common(latency, "docs")}
    states = [*preferred_state(latency), "none"]
    times = {
        record["strategy"]: record["question_ttft_ms"]["median"]
        for record in select(latency, **fixed)
        if record["state"] in states
    }
    chosen = [record for record in _same_questions(quality, k) if record.get("scheme", "native") == "native"]
    points = [(record, times[record["strategy"]]) for record in chosen if record["strategy"] in times]
    notes = [*_questions_in_words(chosen), *([f"times: {in_words(fixed)}"] if latency else [])]
    if models[0] != models[1]:
        notes.append(f"answers of {models[0] or 'another model'}, times of {models[1] or 'another model'}")
    x_title = "question → first token, milliseconds"
    return _quality_points(points, metric, "Quality against time to the first token", x_title, notes, is_log=True)


def quality_against_bytes(quality: Sequence[Record], metric: str = "f1", k: int | None = None) -> go.Figure:
    """Answer quality against stored bytes for each token of the documents."""
    chosen = _same_questions(quality, k)
    points = [(record, record["bytes_per_token"]) for record in chosen if record["bytes_per_token"] is not None]
    schemes = list(dict.fromkeys(record.get("scheme", "native") for record in chosen))
    notes = [*_questions_in_words(chosen), "strategies that store the same stand side by side"]
    if len(schemes) > 1:
        notes.append(f"a line joins one strategy's caches, from right to left: {', '.join(schemes)}")
    title = "Quality against stored bytes per token"
    return _quality_points(side_by_side(points), metric, title, "bytes per token", notes, is_log=False)


def _same_questions(quality: Sequence[Record], k: int | None) -> list[Record]:
    """The records that may be compared: one number of passages, right ones or retrieved ones, and those without any."""
    chosen = select(quality, k=common(quality, "k") if k is None else k)
    passages = common([record for record in chosen if record["passages"] != "none"], "passages")
    return [record for record in chosen if record["passages"] in (passages, "none")]


def _questions_in_words(records: Sequence[Record]) -> list[str]:
    """`80 questions, 4 retrieved passages; bars: 95 % of the difference`, in lines."""
    used = [record for record in records if record["passages"] != "none"]
    if not used:
        return []
    passages, k = used[0]["passages"], used[0]["k"]
    if passages == "gold":
        what = "the right passage" if k == 1 else f"the right passage among {k}"
    else:
        what = f"{k} {passages} passage{'s' * (k != 1)}"
    return [f"{used[0]['n']:,} questions, {what}", "bars: 95 % interval of the difference to full prefill"]


def side_by_side(points: Sequence[tuple[Record, float]]) -> list[tuple[Record, float]]:
    """Points of the same x moved apart by 2 % of the axis, so that none hides another."""
    step = 0.02 * max((x for _, x in points), default=0.0)
    seen: dict[float, int] = {}
    moved = []
    for record, x in points:
        moved.append((record, x + step * seen.get(x, 0)))
        seen[x] = seen.get(x, 0) + 1
    return moved


def _quality_points(
    points: Sequence[tuple[Record, float]],
    metric: str,
    title: str,
    x_title: str,
    notes: Sequence[str],
    *,
    is_log: bool,
) -> go.Figure:
    figure = go.Figure()
    for strategy in dict.fromkeys(record["strategy"] for record, _ in points):
        own = [(record, x) for record, x in points if record["strategy"] == strategy]
        style = style_of(strategy)
        figure.add_trace(
            go.Scatter(
                x=[x for _, x in own],
                y=[record[metric] for record, _ in own],
                error_y=_intervals([record for record, _ in own], metric),
                mode="lines+markers",
                name=style.label,
                line={"color": style.colour, "width": 1},
                marker={"symbol": style.marker, "color": style.colour, "size": 13},
                hovertext=["<br>".join(f"{k}: {v}" for k, v in rows([record])[0].items()) for record, _ in own],
                hoverinfo="text",
                showlegend=True,
                cliponaxis=False,
            )
        )
    names = {"f1": "F1, percent", "match": "gold answer contained, percent"}
    figure.update_layout(layout(title, x_title, names.get(metric, metric), notes, height=480))
    figure.update_yaxes(range=[0, 100])
    figure.update_xaxes(**({"type": "log", "dtick": 1, "tickformat": ",d"} if is_log else {"tickformat": ",d"}))
    return figure


def _intervals(records: Sequence[Record], metric: str) -> dict[str, Any] | None:
    """The bootstrap intervals of the difference to full prefill, drawn around the scores; only F1 has them."""
    if metric != "f1" or not all(record.get("ci95") and record.get("f1_minus_rag") is not None for record in records):
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, record["ci95"][1] - record["f1_minus_rag"]) for record in records],
        "arrayminus": [max(0.0, record["f1_minus_rag"] - record["ci95"][0]) for record in records],
        "color": GREY,
        "thickness": 1,
    }
