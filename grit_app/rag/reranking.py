"""Reranking by the same model: the writing half judges what the embedding half found.

    relevance   log P(yes) − log P(no) after the published question whether the passage is relevant to the query
    question    log P(query | passage): how likely the model would ask this query of that passage

Either reads a passage from its text or, `caches` given, from the KV cache that its embedding pass left: then only the
short closing is computed for each passage. The bi-encoder is the search itself and needs nothing here.
Source: GRIT (arXiv 2402.09906), section on reranking, and the prompt of its reference repository; scoring by the
likelihood of the query is UPR's (arXiv 2204.07496).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, Literal

from grit_app.errors import Cancelled, InputError
from grit_app.gritlm import GritLM, KVCache
from grit_app.gritlm.prompts import rag_turn

Judgement = Literal["relevance", "question"]

JUDGE: Final = "Given a query and a passage, judge whether the passage is relevant to the query or not."
VERDICT: Final = "Answer with yes if the passage is relevant to the query, and no otherwise."
ASK: Final = "Write the question that the text answers."
MOST_CHARACTERS: Final = 2400
"""Of a passage in a prompt; the reference cut at 600, chunks here are longer."""


def rerank(
    model: GritLM,
    query: str,
    passages: Sequence[str],
    judgement: Judgement = "relevance",
    caches: Sequence[KVCache] | None = None,
    cancel: threading.Event | None = None,
) -> list[float]:
    """One score a passage, in the order given; higher is more relevant. Scores compare within one query alone.

    caches   each passage's KV cache from `GritLM.encode_iter(..., return_cache=True)`, instead of reading its text

    Raises InputError for an empty query or caches that do not match, Cancelled once `cancel` is set.
    """
    if not query.strip():
        raise InputError("The query is empty. Write what the passages should be ranked for.")
    if caches is not None and len(caches) != len(passages):
        raise InputError(
            f"There are {len(passages)} passages and {len(caches)} caches; give one cache for each passage."
        )
    scores = []
    for index, passage in enumerate(passages):
        if cancel is not None and cancel.is_set():
            raise Cancelled
        cache = caches[index] if caches is not None else None
        scores.append(_score(model, query, passage[:MOST_CHARACTERS], judgement, cache))
    return scores


def _score(model: GritLM, query: str, passage: str, judgement: Judgement, cache: KVCache | None) -> float:
    prompt = _prompt(query, None if cache is not None else passage, judgement)
    answers = [" yes", " no"] if judgement == "relevance" else [query]
    prompt_ids, continuations = _ids(model, prompt, answers, opens=cache is None)
    values = model.score(prompt_ids, continuations, cache)
    return values[0] - values[1] if judgement == "relevance" else values[0]


def _prompt(query: str, passage: str | None, judgement: Judgement) -> str:
    """The user's turn, up to where the answer begins. Without a passage it follows the passage's cache."""
    if judgement == "question":
        return rag_turn([ASK] if passage is None else [passage, ASK], answer_prefix="", continued=passage is None)
    text = "the text before" if passage is None else passage
    parts = [JUDGE, f"Query: {query}\nPassage: {text}", VERDICT]
    return rag_turn(parts, answer_prefix="Answer:", continued=passage is None)


def _ids(model: GritLM, prompt: str, answers: Sequence[str], opens: bool) -> tuple[list[int], list[list[int]]]:
    """Ids of the prompt, and of each answer as it is tokenised behind the prompt."""
    of = model.prompts.opening if opens else model.prompts.continuation
    prompt_ids = of(prompt)
    continuations = []
    for answer in answers:
        joined = of(prompt + answer)
        # A merge across the border leaves no such place; then the answer is tokenised on its own.
        fits = joined[: len(prompt_ids)] == prompt_ids and len(joined) > len(prompt_ids)
        continuations.append(joined[len(prompt_ids) :] if fits else model.prompts.continuation(answer))
    return prompt_ids, continuations
