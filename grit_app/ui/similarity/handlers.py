"""The Similarity tab: what an instruction makes of "similar"."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr
import numpy as np

from grit_app.errors import InputError
from grit_app.gritlm import GritLM
from grit_app.ui.base import texts
from grit_app.ui.base.downloads import download_button
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import escape, guarded
from grit_app.ui.base.sessions import Visitors, session_of
from grit_app.ui.similarity.figures import bars, heatmap, map_figure
from grit_app.ui.similarity.neighbours import MAX_CHARACTERS, cosines, flat_map, lines_of, to_csv


class Comparison(NamedTuple):
    """One query and a list under one instruction: vectors and all cosines (the query first, if there is one)."""

    labels: list[str]
    texts: list[str]
    vectors: np.ndarray
    table: np.ndarray


def compare(
    model: GritLM, query: str, lines: Sequence[str], instruction: str, on_both_sides: bool, cancel: Any = None
) -> Comparison:
    """Embed and compare. The instruction goes before the query, and before the texts too when the task is symmetric."""
    batches = []
    if query:
        batches.append(model.encode([query], instruction=instruction, cancel=cancel))
    both = instruction if on_both_sides or not query else ""
    batches.append(model.encode(list(lines), instruction=both, cancel=cancel))
    vectors = np.concatenate(batches)
    labels = (["Q"] if query else []) + [str(i) for i in range(1, len(lines) + 1)]
    return Comparison(labels, ([query] if query else []) + list(lines), vectors, cosines(vectors))


def checked_query(query: str) -> str:
    """The query without white space around it. Raises InputError when it is too long."""
    query = " ".join(query.split())
    if len(query) > MAX_CHARACTERS:
        raise InputError(f"The query has more than {MAX_CHARACTERS:,} characters. Shorten it.")
    return query


def ranked_html(comparison: Comparison, title: str, against: Comparison | None = None) -> str:
    """The list ranked by its cosine with the query, under a heading that names the instruction."""
    heading = f'<h4 class="rank-title">{escape(title)}</h4>'
    if comparison.labels[0] != "Q":
        return heading + '<p class="quiet">Write a query to rank the texts; without one, see every pair below.</p>'
    other = against.table[0, 1:] if against is not None else None
    return heading + bars(comparison.texts[1:], comparison.table[0, 1:], other)


@dataclass(frozen=True)
class SimilarityTab:
    """What the page needs of the built tab: call `show_example` on these, without inputs, once the model is there."""

    outputs: list[Any]
    show_example: Any


def build(engine: Engine, visitors: Visitors) -> SimilarityTab:
    """Layout above, wiring below. Must be called inside the tab."""
    gr.Markdown(texts.SIMILARITY_INTRO, elem_classes="intro")
    presets = dict(texts.INSTRUCTIONS)
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            query = gr.Textbox(
                label="Query",
                value=texts.SIMILARITY_QUERY,
                lines=1,
                max_lines=4,
                elem_id="similarity-query",
                elem_classes="main-box",
            )
            lines = gr.Textbox(
                label="Texts, one a line",
                value="\n".join(texts.SIMILARITY_TEXTS),
                lines=7,
                max_lines=14,
                elem_id="similarity-texts",
            )
        with gr.Column(scale=4, min_width=320):
            first = gr.Dropdown(
                choices=list(presets.items()),
                value=presets["Find passages that answer"],
                label="Instruction A",
                info="Choose one or write your own.",
                allow_custom_value=True,
                elem_id="instruction-a",
            )
            second = gr.Dropdown(
                choices=list(presets.items()),
                value=presets["Same topic"],
                label="Instruction B, to compare",
                allow_custom_value=True,
                elem_id="instruction-b",
            )
            symmetric = gr.Checkbox(
                value=False,
                label="Instruct the texts as well",
                info="Off for search (question against passages); on when both sides are of one kind.",
            )
            with gr.Row(elem_classes="ask-row"):
                go = gr.Button("Compare", variant="primary", elem_id="compare", min_width=120)
    with gr.Row(elem_classes="columns"):
        left = gr.HTML(label="Ranking under instruction A", elem_id="ranking-a", min_height=60, min_width=300, scale=1)
        right = gr.HTML(label="Ranking under instruction B", elem_id="ranking-b", min_height=60, min_width=300, scale=1)
    with gr.Row(elem_classes="columns"):
        pairs = gr.Plot(label="Cosine of every pair", show_label=False, elem_id="pairs", min_width=300)
        picture = gr.Plot(label="Map of the texts", show_label=False, elem_id="map", min_width=300)
    gr.Markdown(texts.SIMILARITY_NUMBERS, elem_classes="quiet")
    table = download_button("Download all pairs as CSV", "similarity.csv", "text/csv", elem_id="similarity-csv")

    outputs = [left, right, pairs, picture, table.value]

    def render(model: GritLM, query: str, text: str, a: str, b: str, both: bool, cancel: Any = None) -> tuple[Any, ...]:
        query, listed = checked_query(query), lines_of(text)
        one = compare(model, query, listed, a or "", both, cancel)
        two = compare(model, query, listed, b or "", both, cancel)
        return (
            ranked_html(one, _named("A", a)),
            ranked_html(two, _named("B", b), one),
            heatmap(one.labels, one.texts, one.table),
            map_figure(one.labels, one.texts, flat_map(one.vectors), one.table),
            to_csv(one.labels, one.texts, one.table),
        )

    @guarded
    def run(query: str, text: str, a: str, b: str, both: bool, request: gr.Request) -> tuple[Any, ...]:
        cancel = visitors.begin_run(session_of(request), "similarity")
        with engine.using(cancel) as model:
            return render(model, query, text, a, b, both, cancel)

    @functools.cache
    def example() -> tuple[Any, ...]:
        """The same for everybody, so it is computed once for the life of the process."""
        with engine.using() as model:
            values = presets["Find passages that answer"], presets["Same topic"]
            return render(model, texts.SIMILARITY_QUERY, "\n".join(texts.SIMILARITY_TEXTS), *values, False)

    @guarded
    def check(query: str, text: str) -> None:
        """Apart from the run, so that a slip of the pen does not wipe the results that are shown."""
        checked_query(query)
        lines_of(text)

    # Through the queue: outside it an error is an answer of status 500, and no sentence.
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"api_visibility": "private"}
    for trigger in (go.click, query.submit):
        checked = trigger(check, [query, lines], None, **quiet)
        checked.success(run, [query, lines, first, second, symmetric], outputs, **lane)
    return SimilarityTab(outputs, guarded(example))


def _named(letter: str, instruction: str) -> str:
    return f"{letter}: {instruction}" if instruction else f"{letter}: no instruction"
