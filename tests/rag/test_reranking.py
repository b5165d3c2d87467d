"""Reranking scores equal plain forwards of the stock model, from text and from caches."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from grit_app.errors import Cancelled, InputError
from grit_app.rag import reranking
from grit_app.rag.reranking import rerank

QUERY = "How long is the Elbe?"
PASSAGES = ["The Elbe reaches the North Sea after 1,094 kilometres.", "Bees make honey from nectar."]


def plain_log_likelihood(model: Any, ids: list[int], first: int, bidirectional: int = 0) -> float:
    """Σ log P(ids[i] | ids[:i]) for i ≥ first, by one forward of the stock model.

    The first `bidirectional` ids see each other in both directions; the rest is causal.
    """
    n = len(ids)
    allowed = torch.ones(n, n, dtype=torch.bool).tril()
    allowed[:bidirectional, :bidirectional] = True
    mask = torch.zeros(1, 1, n, n).masked_fill(~allowed, torch.finfo(torch.float32).min)
    with torch.no_grad():
        logits = model.hf_model(input_ids=torch.tensor([ids]), attention_mask=mask).logits[0].double()
    log_p = logits.log_softmax(-1)
    return float(sum(log_p[i - 1, ids[i]] for i in range(first, n)))


def expected(model: Any, passage: str, judgement: str, cached: bool) -> float:
    head = model.prompts.embed(passage).ids if cached else []
    prompt = reranking._prompt(QUERY, None if cached else passage, judgement)  # type: ignore[arg-type]
    answers = [" yes", " no"] if judgement == "relevance" else [QUERY]
    prompt_ids, continuations = reranking._ids(model, prompt, answers, opens=not cached)
    start = len(head) + len(prompt_ids)
    values = [plain_log_likelihood(model, [*head, *prompt_ids, *ids], start, len(head)) for ids in continuations]
    return values[0] - values[1] if judgement == "relevance" else values[0]


@pytest.mark.parametrize("judgement", ["relevance", "question"])
@pytest.mark.parametrize("cached", [False, True], ids=["from text", "from caches"])
def test_scores_are_those_of_plain_forwards(tiny_model: Any, judgement: Any, cached: bool) -> None:
    caches = [e.cache for e in tiny_model.encode_iter(PASSAGES, return_cache=True)] if cached else None
    scores = rerank(tiny_model, QUERY, PASSAGES, judgement, caches)
    for passage, score in zip(PASSAGES, scores, strict=True):
        assert score == pytest.approx(expected(tiny_model, passage, judgement, cached), abs=1e-3)
    assert abs(scores[0] - scores[1]) > 1e-4, "flat scores would hide errors"


def test_the_prompt_is_the_published_one(tiny_model: Any) -> None:
    assert reranking._prompt("q", "p", "relevance") == (
        "<|user|>\nGiven a query and a passage, judge whether the passage is relevant to the query or not.\n\n"
        "Query: q\nPassage: p\n\nAnswer with yes if the passage is relevant to the query, and no otherwise.\n"
        "<|assistant|>\nAnswer:"
    )


def test_no_passages_have_no_scores(tiny_model: Any) -> None:
    assert rerank(tiny_model, QUERY, []) == []


def test_bad_input_is_a_sentence_and_cancel_is_obeyed(tiny_model: Any) -> None:
    with pytest.raises(InputError, match="query is empty"):
        rerank(tiny_model, " ", PASSAGES)
    with pytest.raises(InputError, match="one cache for each"):
        rerank(tiny_model, QUERY, PASSAGES, caches=[])
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        rerank(tiny_model, QUERY, PASSAGES, cancel=cancel)
