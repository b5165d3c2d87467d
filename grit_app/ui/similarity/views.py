"""From a query, a list and two instructions to what the Similarity tab shows. Without a word of Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from grit_app.errors import InputError
from grit_app.gritlm import GritLM
from grit_app.ui.base.handlers import escape
from grit_app.ui.similarity.figures import bars, heatmap, map_figure, neighbours_data
from grit_app.ui.similarity.neighbours import MAX_CHARACTERS, cosines, flat_map, lines_of, ranking, to_csv


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


class Asked(NamedTuple):
    """What a visitor wants compared."""

    query: str
    lines: str
    first: str
    second: str
    on_both_sides: bool


def views(model: GritLM, asked: Asked, cancel: Any = None) -> tuple[Any, ...]:
    """Rankings under both instructions, what moved, heatmap, map, neighbours, CSV. Raises InputError."""
    query, listed = checked_query(asked.query), lines_of(asked.lines)
    one = compare(model, query, listed, asked.first or "", asked.on_both_sides, cancel)
    two = compare(model, query, listed, asked.second or "", asked.on_both_sides, cancel)
    return (
        ranked_html(one, named("A", asked.first)),
        ranked_html(two, named("B", asked.second), one),
        moved(one, two),
        heatmap(one.labels, one.texts, one.table),
        map_figure(one.labels, one.texts, flat_map(one.vectors), one.table),
        neighbours_data(one.texts, one.labels, one.table),
        to_csv(one.labels, one.texts, one.table),
    )


def moved(one: Comparison, two: Comparison) -> str:
    """One sentence: how many ranks the second instruction changed."""
    if one.labels[0] != "Q":
        return ""
    before, after = ranking(one.table[0, 1:]), ranking(two.table[0, 1:])
    count = sum(a != b for a, b in zip(before, after, strict=True))
    words = f"Instruction B moved <b>{count} of {len(before):,}</b> ranks." if count else "Both give the same ranks."
    first = "" if before[0] == after[0] else f" Its first is line {after[0] + 1}, not line {before[0] + 1}."
    return f'<p class="race-note" role="status">{words}{first}</p>'


def named(letter: str, instruction: str) -> str:
    return f"{letter}: {instruction}" if instruction else f"{letter}: no instruction"
