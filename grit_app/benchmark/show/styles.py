"""One look for each strategy, on every chart: colour, line, marker and words.

The colours follow Okabe & Ito and Tol, picked to be told apart by colour-blind people and to stand out on white and on
near-black alike; dash and marker say the same again for print and for everybody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Final

from grit_app.rag.strategies import ALIASES

GREY: Final = "#808080"
"""Letters of a chart. The page's style sheet gives letters of exactly this grey the page's own colour for small print;
where there is no style sheet it is readable on white and on near-black."""

FONT: Final = "IBM Plex Sans, ui-sans-serif, system-ui, sans-serif"
NOTE_LETTERS: Final = 56
"""Of a line under a chart's title, as wide as a phone."""

GRID: Final = "rgba(128,128,128,0.25)"


@dataclass(frozen=True)
class Style:
    """How a strategy looks, and what it is called."""

    label: str
    colour: str
    dash: str
    marker: str


STYLES: Final[dict[str, Style]] = {
    "none": Style("no retrieval", GREY, "dot", "x"),
    "rag_query_doc": Style("full prefill, question first", "#E69F00", "dash", "triangle-down"),
    "rag_doc_query": Style("full prefill", "#D55E00", "solid", "circle"),
    "prefix_cache": Style("prefix cache (causal, exact)", "#CC79A7", "dashdot", "pentagon"),
    "query_cache": Style("question cached", "#AA4499", "longdash", "star"),
    "doc_cache": Style("document cached", "#56B4E9", "dash", "square"),
    "query_doc_cache": Style("question + document cached", "#999933", "longdashdot", "triangle-left"),
    "docs_cache": Style("documents joined", "#3A86D4", "solid", "diamond"),
    "docs_query_cache": Style("documents + question joined", "#009E73", "solid", "triangle-up"),
    "each_cache": Style("documents one by one", "#44AA99", "dashdot", "triangle-right"),
    "two_models": Style("two models", "#B3704D", "dot", "hexagon"),
}

STAGE_COLOURS: Final[dict[str, str]] = {
    "tokenise": "#999933",
    "embed": "#E69F00",
    "search": "#CC79A7",
    "load": "#56B4E9",
    "join": "#3A86D4",
    "tail": "#D55E00",
    "decode": GREY,
}
"""In the order in which they run."""

STAGE_WORDS: Final[dict[str, str]] = {
    "tokenise": "tokenise",
    "embed": "embed the question",
    "search": "search",
    "load": "load caches",
    "join": "join caches",
    "tail": "prefill what no cache holds",
    "decode": "decode",
}

STAGE_PATTERNS: Final = dict(zip(STAGE_COLOURS, ["/", "x", ".", "\\", "-", "", "+"], strict=True))

STATE_WORDS: Final = {"hot": "in memory", "warm": "in the page cache", "cold": "from the disk", "none": ""}


def style_of(strategy: str) -> Style:
    """The strategy's style; a plain one for a name that is not known here."""
    return STYLES.get(ALIASES.get(strategy, strategy), Style(strategy, GREY, "solid", "circle-open"))


def name_of(strategy: str, state: str) -> str:
    """`documents joined, in the page cache`."""
    words = STATE_WORDS.get(state, state)
    return f"{style_of(strategy).label}, {words}" if words else style_of(strategy).label


def layout(title: str, x_title: str, y_title: str, notes: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    """What all charts share: transparent, so that light and dark pages show through; grey letters and grid.

    notes   lines of small print under the title; Plotly does not wrap, so longer ones than a phone has room for are cut
            into several
    """
    axis = {"gridcolor": GRID, "linecolor": GRID, "zerolinecolor": GRID, "automargin": True}
    notes = [line for note in notes for line in wrap(note, NOTE_LETTERS)]
    small = "".join(f'<br><span style="font-size:12px">{note}</span>' for note in notes)
    shared = {
        "title": {
            "text": f"<b>{title}</b>{small}",
            "font": {"size": 15},
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": 12, "t": 22},
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY, "family": FONT, "size": 12},
        "height": 440,
        "margin": {"l": 12, "r": 16, "t": 62 + 17 * len(notes), "b": 12},
        # At the foot of the picture, whatever its height: below the axis it would lie on the axis title of flat ones.
        "legend": {
            "orientation": "h",
            "x": 0,
            "yref": "container",
            "y": 0.01,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "hoverlabel": {"align": "left"},
    }
    x_axis = axis | {"title": {"text": x_title, "font": {"size": 12}}} | changes.pop("xaxis", {})
    y_axis = axis | {"title": {"text": y_title, "font": {"size": 12}}} | changes.pop("yaxis", {})
    return shared | {"xaxis": x_axis, "yaxis": y_axis} | changes
