"""Similarity and retrieval: STS, questions against passages, CISI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grit_app.benchmark.inputs.passages import PassagePool
from grit_app.documents.keep.keywords import KeywordIndex, tokens
from grit_app.gritlm import GritLM
from training.evaluation.baselines import Encoder, PlainBM25, TfIdf
from training.evaluation.correlation import spearman
from training.evaluation.suite import Item, Suite

DEPTH = 50
"""Ranks that are looked at; a passage further down counts as not found."""


def similarity(model: GritLM, suite: Suite, limit: int | None, encoder: Encoder | None) -> dict[str, float]:
    """Spearman correlation of cosines with human scores, by system."""
    rows = suite.sts[: limit or None]
    first, second = [row[0] for row in rows], [row[1] for row in rows]
    gold = np.array([row[2] for row in rows])

    def of(encode: Encoder) -> float:
        vectors = encode([*first, *second])
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        return spearman((vectors[: len(rows)] * vectors[len(rows) :]).sum(axis=1), gold)

    found = {"model": of(lambda texts: model.encode(list(texts)))}
    found["tfidf"] = spearman(TfIdf([*first, *second]).pairs(first, second), gold)
    if encoder:
        found["minilm"] = of(encoder)
    return found


def retrieval(
    model: GritLM, suite: Suite, pool: PassagePool, limit: int | None, encoder: Encoder | None, seed: int
) -> dict[str, dict[str, float]]:
    """recall@1, recall@5 and MRR by system: the encyclopedia's part of SquadShifts and NQ, over their passages.

    vectors, keywords and fused go through the app's library; the others rank the same passages.
    """
    items = suite.draw(("wiki", "nq"), limit, seed)
    contexts = suite.contexts(("wiki", "nq"))
    documents = [pool.document_id(text) for text in contexts]
    queries = model.encode([item.question for item in items], model.config.retrieval_instruction)
    found: dict[str, dict[str, float]] = {}
    for name, mode in (("vectors", "vectors"), ("keywords", "keywords"), ("fused", "hybrid")):
        ranks = []
        for item, vector in zip(items, queries, strict=True):
            hits = pool.library.search(vector, item.question, DEPTH, documents, mode)  # type: ignore[arg-type]
            ranked = list(dict.fromkeys(pool.text_of(hit) for hit in hits))
            ranks.append(ranked.index(item.context) if item.context in ranked else None)
        found[name] = _summary(ranks)
    place = {text: row for row, text in enumerate(contexts)}
    gold = [place[item.context] for item in items]
    asked = [item.question for item in items]
    found["bm25"] = _by_scores(PlainBM25(contexts).scores, asked, gold)
    found["tfidf"] = _by_scores(TfIdf(contexts).scores, asked, gold)
    if encoder:
        matrix = encoder(contexts)
        found["minilm"] = _by_scores(lambda text: matrix @ encoder([text])[0], asked, gold)
    return found


def _by_scores(
    scores: Callable[[str], NDArray[Any]], questions: Sequence[str], gold: Sequence[int]
) -> dict[str, float]:
    ranks: list[int | None] = []
    for question, row in zip(questions, gold, strict=True):
        values = scores(question)
        # Ties count against the system: equal scores above the right passage come first.
        rank = int((values > values[row]).sum() + (values[:row] == values[row]).sum())
        ranks.append(rank if rank < DEPTH and values[row] > 0 else None)
    return _summary(ranks)


def _summary(ranks: Sequence[int | None]) -> dict[str, float]:
    n = max(1, len(ranks))
    return {
        "recall@1": sum(rank == 0 for rank in ranks) / n,
        "recall@5": sum(rank is not None and rank < 5 for rank in ranks) / n,
        "mrr": sum(1 / (rank + 1) for rank in ranks if rank is not None) / n,
    }


def cisi(model: GritLM, suite: Suite, encoder: Encoder | None, limit: int | None) -> dict[str, float]:
    """nDCG@10 by system; "fused" weighs vectors and keywords as the app does."""
    ids = list(suite.cisi_documents)
    texts = [suite.cisi_documents[i] for i in ids]
    queries = suite.cisi_queries[: limit or None]
    vectors = model.encode(texts, max_length=512)
    asked = model.encode([text for text, _ in queries], model.config.retrieval_instruction, max_length=512)
    keywords = KeywordIndex([tokens(text) for text in texts])
    weight = model.config.vector_weight
    plain = PlainBM25(texts)
    cosines = asked @ vectors.T
    by_words = np.stack([keywords.scores(text) for text, _ in queries])
    systems = {
        "vectors": cosines,
        "keywords": by_words,
        "fused": weight * cosines.clip(0) + (1 - weight) * by_words,
        "bm25": np.stack([plain.scores(text) for text, _ in queries]),
    }
    if encoder:
        systems["minilm"] = encoder([text for text, _ in queries]) @ encoder(texts).T
    relevant = [[document in wanted for document in ids] for _, wanted in queries]
    return {
        name: float(np.mean([ndcg(row, wanted) for row, wanted in zip(scores, relevant, strict=True)]))
        for name, scores in systems.items()
    }


def ndcg(scores: NDArray[Any], relevant: Sequence[bool], depth: int = 10) -> float:
    """Discounted gain of the best `depth` against the best possible order; relevance is yes or no."""
    order = np.argsort(-scores, kind="stable")[:depth]
    gain = sum(1 / np.log2(rank + 2) for rank, row in enumerate(order) if relevant[row])
    best = sum(1 / np.log2(rank + 2) for rank in range(min(depth, sum(relevant))))
    return float(gain / best) if best else 0.0


def items_by_group(items: Sequence[Item]) -> dict[str, set[str]]:
    """Passages of each article."""
    groups: dict[str, set[str]] = {}
    for item in items:
        groups.setdefault(item.group, set()).add(item.context)
    return groups
