"""Pictures of the Similarity tab: ranked bars as HTML, heatmap and map in Plotly."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from grit_app.ui.handlers import escape
from grit_app.ui.similarity_math import FlatMap, nearest, ranking
from grit_app.ui.theme import MODE_COLOURS

GREY = "#808a99"
"""Readable on white and on near-black: Plotly does not follow the page's mode."""
GRID = "rgba(128,138,153,0.28)"


def bars(texts: Sequence[str], scores: NDArray[np.float64], other: NDArray[np.float64] | None = None) -> str:
    """Texts from the closest to the farthest. With `other`, each row tells how its rank moved against those scores."""
    order = ranking(scores)
    before = {text: rank for rank, text in enumerate(ranking(other))} if other is not None else {}
    low, high = min(0.0, float(scores.min())), max(1e-9, float(scores.max()))
    rows = []
    for rank, i in enumerate(order):
        width = 100 * (float(scores[i]) - low) / (high - low)
        move = _move(before[i] - rank) if before else ""
        rows.append(
            f'<li><span class="rank-text">{escape(texts[i])}</span>'
            f'<span class="rank-score">{scores[i]:.3f}{move}</span>'
            f'<span class="rank-bar" aria-hidden="true"><span style="width:{width:.1f}%"></span></span></li>'
        )
    return f'<ol class="ranking">{"".join(rows)}</ol>'


def _move(places: int) -> str:
    if places == 0:
        return '<span class="move same" title="same rank under both instructions">=</span>'
    word = "up" if places > 0 else "down"
    arrow = "▲" if places > 0 else "▼"
    return (
        f'<span class="move {word}" title="{abs(places)} {word} against the first instruction">'
        f"{arrow}{abs(places)}</span>"
    )


def base_layout(height: int) -> dict[str, object]:
    """What every figure shares: no background of its own, mid-grey words, fixed height, free width."""
    return {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY, "size": 13},
        "margin": {"l": 44, "r": 16, "t": 36, "b": 44},
    }


def _wrapped(text: str) -> str:
    """For hover labels: escaped, in short lines. Plotly reads a few HTML tags in texts."""
    return "<br>".join(escape(line) for line in textwrap.wrap(text, 60)[:6])


def heatmap(labels: Sequence[str], texts: Sequence[str], table: NDArray[np.float64]) -> go.Figure:
    """All pairs. The colour scale spans the values that occur off the diagonal, where the differences are."""
    off = table[~np.eye(len(table), dtype=bool)]
    low, high = (float(off.min()), float(off.max())) if off.size else (0.0, 1.0)
    hover = [[f"{_wrapped(a)}<br>—<br>{_wrapped(b)}" for b in texts] for a in texts]
    figure = go.Figure(
        go.Heatmap(
            z=table,
            x=list(labels),
            y=list(labels),
            zmin=low,
            zmax=max(high, low + 1e-6),
            colorscale="Cividis",
            text=[[f"{value:.2f}" for value in row] for row in table],
            texttemplate="%{text}" if len(table) <= 12 else None,
            customdata=hover,
            hovertemplate="%{customdata}<br><b>%{z:.3f}</b><extra></extra>",
            xgap=2,
            ygap=2,
            colorbar={"thickness": 10, "outlinewidth": 0, "len": 0.9},
        )
    )
    figure.update_layout(**base_layout(380), title={"text": "Cosine of every pair", "font": {"size": 14}, "x": 0.01})
    figure.update_yaxes(autorange="reversed", showgrid=False, type="category")
    figure.update_xaxes(showgrid=False, type="category", side="bottom")
    return figure


def map_figure(labels: Sequence[str], texts: Sequence[str], flat: FlatMap, table: NDArray[np.float64]) -> go.Figure:
    """The flat map: the query as a star; a line from each text to its nearest neighbour in the full vectors."""
    figure = go.Figure()
    x, y = flat.points[:, 0], flat.points[:, 1]
    for row in range(len(texts)):
        other = nearest(table, row)
        if other is not None:
            figure.add_trace(
                go.Scatter(
                    x=[x[row], x[other]],
                    y=[y[row], y[other]],
                    mode="lines",
                    line={"color": GRID, "width": 2},
                    hoverinfo="skip",
                )
            )
    closest = [nearest(table, row) for row in range(len(texts))]
    notes = [
        f"<b>{escape(labels[i])}</b> {_wrapped(texts[i])}"
        + (f"<br>nearest: {escape(labels[n])} ({table[i, n]:.3f})" if n is not None else "")
        for i, n in enumerate(closest)
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
                mode="markers+text",
                text=[labels[i] for i in at],
                textposition="top center",
                textfont={"size": 13, "color": GREY},
                marker={"symbol": symbol, "size": size, "color": colour},
                customdata=[notes[i] for i in at],
                hovertemplate="%{customdata}<extra></extra>",
                name=name,
                cliponaxis=False,
            )
        )
    first, second = flat.explained
    figure.update_layout(
        **base_layout(380),
        showlegend=False,
        title={"text": "Map (PCA; lines join nearest neighbours of the full vectors)", "font": {"size": 14}, "x": 0.01},
    )
    figure.update_xaxes(
        title=f"component 1 ({first:.0%} of variance)", gridcolor=GRID, zeroline=False, showticklabels=False
    )
    figure.update_yaxes(title=f"component 2 ({second:.0%})", gridcolor=GRID, zeroline=False, showticklabels=False)
    return figure
