"""Pictures of the Similarity tab: ranked bars as HTML, heatmap and map in Plotly."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from grit_app.benchmark.show.styles import GREY, GRID, layout
from grit_app.ui.base.handlers import escape
from grit_app.ui.base.theme import MODE_COLOURS
from grit_app.ui.similarity.neighbours import FlatMap, closest, nearest, ranking

SCALE = "Cividis"
"""Told apart with every common kind of colour blindness, also in grey."""


TOP = 10
"""So many ranks are shown before "all"."""

MOST_CELLS = 40
"""A heatmap of more texts has cells too small to read."""


def bars(texts: Sequence[str], scores: NDArray[np.float64], other: NDArray[np.float64] | None = None) -> str:
    """Texts from the closest to the farthest, the first `TOP` at once.

    other   scores under another instruction: each row tells how its rank moved against those
    """
    order = ranking(scores)
    before = {text: rank for rank, text in enumerate(ranking(other))} if other is not None else {}
    low, high = min(0.0, float(scores.min())), max(1e-9, float(scores.max()))
    rows = []
    for rank, i in enumerate(order):
        width = 100 * (float(scores[i]) - low) / (high - low)
        move = _move(before[i] - rank) if before else ""
        rows.append(
            f'<li data-text="{i + 1}"><span class="rank-text">{escape(texts[i])} '
            f'<button type="button" class="line-number" data-near="{i + 1}" title="line {i + 1}: show its neighbours">'
            f"{i + 1}</button></span>"
            f'<span class="rank-score">{_signed(scores[i], 3)}{move}</span>'
            f'<span class="rank-bar" aria-hidden="true"><span style="width:{width:.1f}%"></span></span></li>'
        )
    first = f'<ol class="ranking">{"".join(rows[:TOP])}</ol>'
    if len(rows) <= TOP:
        return first
    rest = f'<ol class="ranking" style="counter-reset:rank {TOP}">{"".join(rows[TOP:])}</ol>'
    return f'{first}<details class="all-ranks"><summary>All {len(rows):,}</summary>{rest}</details>'


def neighbours_data(texts: Sequence[str], labels: Sequence[str], table: NDArray[np.float64]) -> str:
    """For each text its neighbours in the full vectors, for a click on a point or a line's number."""
    near = [[[j, round(float(table[i, j]), 4)] for j in closest(table, i)] for i in range(len(texts))]
    data = {"labels": list(labels), "texts": [text[:300] for text in texts], "near": near}
    hint = "Click a point of the map, or the number of a line, to see its nearest neighbours."
    return (
        f'<div class="near-data" hidden>{escape(json.dumps(data))}</div>'
        f'<div class="near-list" aria-live="polite"><p class="quiet">{hint}</p></div>'
    )


def _signed(value: float, digits: int) -> str:
    """With a real minus sign, and none before a rounded zero."""
    return f"{value:z.{digits}f}".replace("-", "−")


def _move(places: int) -> str:
    if places == 0:
        return '<span class="move same" title="same rank under both instructions">=</span>'
    word = "up" if places > 0 else "down"
    arrow = "▲" if places > 0 else "▼"
    return (
        f'<span class="move {word}" title="{abs(places)} {word} against the first instruction">'
        f"{arrow}{abs(places)}</span>"
    )


def _wrapped(text: str) -> str:
    """For hover labels: escaped, in short lines. Plotly reads a few HTML tags in texts."""
    return "<br>".join(escape(line) for line in textwrap.wrap(text, 60)[:6])


def heatmap(labels: Sequence[str], texts: Sequence[str], table: NDArray[np.float64]) -> go.Figure:
    """All pairs, of the first `MOST_CELLS` texts. The colours span the values off the diagonal."""
    total = len(table)
    labels, texts, table = labels[:MOST_CELLS], texts[:MOST_CELLS], table[:MOST_CELLS, :MOST_CELLS]
    off = table[~np.eye(len(table), dtype=bool)]
    low, high = (float(off.min()), float(off.max())) if off.size else (0.0, 1.0)
    hover = [[f"{_wrapped(a)}<br>—<br>{_wrapped(b)}" for b in texts] for a in texts]
    high = max(high, low + 1e-6)
    figure = go.Figure(
        go.Heatmap(
            z=table,
            x=list(labels),
            y=list(labels),
            zmin=low,
            zmax=high,
            colorscale=SCALE,
            customdata=hover,
            hovertemplate="%{customdata}<br><b>%{z:.3f}</b><extra></extra>",
            xgap=2,
            ygap=2,
            colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.9, "title": {"text": "cosine"}},
        )
    )
    if len(table) <= 12:
        figure.add_trace(_numbers_on(labels, table, low, high))
    title = "Cosine of every pair" if total == len(table) else f"Cosines of the first {len(table)} of {total:,} texts"
    figure.update_layout(layout(title, "", "", height=400, showlegend=False))
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    figure.update_xaxes(showgrid=False, type="category", side="bottom")
    return figure


def _numbers_on(labels: Sequence[str], table: NDArray[np.float64], low: float, high: float) -> go.Scatter:
    """The numbers in the cells. Plotly's own are of one weak contrast on the middle of the scale."""
    cells = [(x, y, float(table[j, i])) for j, y in enumerate(labels) for i, x in enumerate(labels)]
    return go.Scatter(
        x=[x for x, _, _ in cells],
        y=[y for _, y, _ in cells],
        mode="text",
        text=[_signed(value, 2) for _, _, value in cells],
        textfont={"size": 12, "color": [letters_on((value - low) / (high - low)) for *_, value in cells]},
        hoverinfo="skip",
    )


def letters_on(share: float) -> str:
    """Black or white, whichever stands out more on the colour at this share of the scale."""
    (colour,) = sample_colorscale(SCALE, [min(1.0, max(0.0, share))], colortype="tuple")
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def map_figure(labels: Sequence[str], texts: Sequence[str], flat: FlatMap, table: NDArray[np.float64]) -> go.Figure:
    """The flat map: the query as a star; a line from each text to its nearest neighbour in the full vectors."""
    figure = go.Figure()
    x, y = flat.points[:, 0], flat.points[:, 1]
    is_small = len(texts) <= MOST_CELLS
    xs: list[float | None] = []
    ys: list[float | None] = []
    for row in range(len(texts)) if is_small else ():
        other = nearest(table, row)
        if other is not None:
            xs += [float(x[row]), float(x[other]), None]
            ys += [float(y[row]), float(y[other]), None]
    line = {"color": GRID, "width": 2}
    figure.add_trace(go.Scatter(x=xs, y=ys, mode="lines", line=line, hoverinfo="skip"))
    nearest_ones = [nearest(table, row) for row in range(len(texts))]
    notes = [
        f"<b>{escape(labels[i])}</b> {_wrapped(texts[i])}"
        + (f"<br>nearest: {escape(labels[n])} ({table[i, n]:.3f})" if n is not None else "")
        for i, n in enumerate(nearest_ones)
    ]
    is_query = np.array([label == "Q" for label in labels])
    for chosen, symbol, size, colour, name in (
        (~is_query, "circle", 13, MODE_COLOURS["cached"], "text"),
        (is_query, "star", 20, MODE_COLOURS["full"], "query"),
    ):
        at = np.flatnonzero(chosen)
        figure.add_trace(
            go.Scatter(
                x=x[at],
                y=y[at],
                mode="markers+text" if is_small or symbol == "star" else "markers",
                text=[labels[i] for i in at],
                textposition="top center",
                textfont={"size": 13, "color": GREY},
                marker={"symbol": symbol, "size": size if is_small else size // 2, "color": colour},
                customdata=[[notes[i], int(i)] for i in at],
                hovertemplate="%{customdata[0]}<extra></extra>",
                name=name,
                cliponaxis=False,
            )
        )
    first, second = flat.explained
    title, notes = "Map (PCA)", ["lines join nearest neighbours of the full vectors"] if is_small else []
    axes = f"component 1 ({first:.0%} of variance)", f"component 2 ({second:.0%})"
    figure.update_layout(layout(title, *axes, notes, height=400, showlegend=False))
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        axis.update(zeroline=False, showticklabels=False)
    return figure
