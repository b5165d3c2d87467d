"""One look for each strategy, on every chart: colour, line, marker and words.

The colours follow Okabe & Ito and Tol, picked to be told apart by colour-blind people and to stand out on white and on
near-black alike; dash and marker say the same again for print and for everybody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

GREY: Final = "#808080"  # readable on white and on near-black
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
    "doc_query_cache": Style("document + question cached", "#44AA99", "dashdot", "triangle-right"),
    "docs_cache": Style("documents joined", "#3A86D4", "solid", "diamond"),
    "docs_query_cache": Style("documents + question joined", "#009E73", "solid", "triangle-up"),
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

STAGE_PATTERNS: Final = dict(zip(STAGE_COLOURS, ["/", "x", ".", "\\", "-", "", "+"], strict=True))

STATE_WORDS: Final = {"hot": "in memory", "warm": "in the page cache", "cold": "from the disk", "none": ""}


def style_of(strategy: str) -> Style:
    """The strategy's style; a plain one for a name that is not known here."""
    return STYLES.get(strategy, Style(strategy, GREY, "solid", "circle-open"))


def name_of(strategy: str, state: str) -> str:
    """`documents joined, in the page cache`."""
    words = STATE_WORDS.get(state, state)
    return f"{style_of(strategy).label}, {words}" if words else style_of(strategy).label


def layout(title: str, x_title: str, y_title: str, **changes: Any) -> dict[str, Any]:
    """What all charts share: transparent, so that light and dark pages show through; grey letters and grid."""
    axis = {"gridcolor": GRID, "linecolor": GRID, "zerolinecolor": GRID, "automargin": True}
    shared = {
        "title": {"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": GREY},
        "height": 440,
        "margin": {"l": 10, "r": 10, "t": 60, "b": 10},
        "legend": {"orientation": "h", "y": -0.2},
        "hoverlabel": {"align": "left"},
    }
    x_axis = axis | {"title": {"text": x_title}} | changes.pop("xaxis", {})
    y_axis = axis | {"title": {"text": y_title}} | changes.pop("yaxis", {})
    return shared | {"xaxis": x_axis, "yaxis": y_axis} | changes
