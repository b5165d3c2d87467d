"""Prompts that fit the model's context: as many of the passages as it holds, best first."""

from __future__ import annotations

from collections.abc import Sequence

from grit_app.documents.library import Hit
from grit_app.errors import InputError
from grit_app.gritlm.layout import Layout
from grit_app.rag.retrieval import Found
from grit_app.rag.run import Run
from grit_app.rag.strategies import build_layouts, find_strategy


def check_length(run: Run) -> None:
    """Raises InputError if the question alone does not fit: before anything is computed for it, which takes long."""
    tokens = run.model.prompts.count(run.question)
    if tokens + run.sampling.max_new_tokens > run.model.context:
        raise InputError(_too_long(run, tokens))


def _too_long(run: Run, tokens: int) -> str:
    return (
        f"The question has {tokens:,} tokens; with an answer of up to {run.sampling.max_new_tokens:,} it does not fit "
        f"into the model's context of {run.model.context:,}. Shorten it."
    )


def fit(run: Run, found: Found) -> tuple[list[Layout], list[Hit]]:
    """The prompts of a question, and the passages that stand in them; what had to be left out becomes a note.

    Raises InputError if the question alone does not fit, or a document that is to be read whole.
    """
    hits = found.hits[: run.strategy.most_documents]
    room = run.model.context - run.sampling.max_new_tokens
    if run.strategy.one_by_one:
        layouts, kept = _each_that_fits(run, hits, room)
    else:
        layouts, kept = _most_that_fit(run, hits, room)
    if found.is_whole and len(kept) < len(hits):
        raise InputError(
            f"The document does not fit into the model's context of {run.model.context} tokens as a whole. Ask about "
            "passages found in it instead."
        )
    if len(kept) < len(hits):
        run.notes.append(
            f"Only the best {len(kept)} of {len(hits)} passages were read: more do not fit into the model's context "
            f"of {run.model.context} tokens."
        )
    return layouts, kept


def _most_that_fit(run: Run, hits: Sequence[Hit], room: int) -> tuple[list[Layout], list[Hit]]:
    kept = list(hits)
    while True:
        layouts = _lay_out(run, kept)
        if _length(layouts[0]) <= room:
            return layouts, kept
        if not kept:
            raise InputError(_too_long(run, run.model.prompts.count(run.question)))
        kept.pop()


def _each_that_fits(run: Run, hits: Sequence[Hit], room: int) -> tuple[list[Layout], list[Hit]]:
    """Each passage has a prompt of its own; where none fits, the question stands alone."""
    pairs = [(layout, hit) for hit in hits for layout in _lay_out(run, [hit]) if _length(layout) <= room]
    if not pairs:
        return _most_that_fit(run, (), room)
    return [layout for layout, _ in pairs], [hit for _, hit in pairs]


def _lay_out(run: Run, hits: Sequence[Hit]) -> list[Layout]:
    strategy = run.strategy if hits else find_strategy("none")
    passages = [hit.chunk.text for hit in hits]
    model = run.model
    return build_layouts(strategy, model.prompts, model.config, run.question, passages, run.positions)


def _length(layout: Layout) -> int:
    return layout.cached_length + len(layout.tail)
