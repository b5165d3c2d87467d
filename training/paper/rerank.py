"""Table 3: the model's own ten best passages, reordered by the model that found them."""

from __future__ import annotations

import time
from typing import Final

import numpy as np

from grit_app.gritlm import GritLM, KVCache
from grit_app.rag.reranking import Judgement, rerank
from training.evaluation.ranking import ndcg
from training.paper import sets
from training.paper.recording import PaperSettings, Row, mean_interval

DEPTH: Final = 10
QUERIES: Final = 60
"""Queries of a set where no limit is given: each takes ten prompts."""

WAYS: Final[tuple[tuple[str, Judgement, bool], ...]] = (
    ("relevance", "relevance", False),
    ("question", "question", False),
    ("relevance over caches", "relevance", True),
    ("question over caches", "question", True),
)


def measure(settings: PaperSettings) -> list[Row]:
    """nDCG@10 before and after, with the price of one query in ms: a row for each set and way."""
    rows = []
    for name in settings.chosen(sets.RETRIEVAL_SETS):
        data = sets.retrieval_set(name, settings.data, settings.limit or QUERIES)
        rows += _of_set(settings.model, name, data)
    return rows


def _of_set(model: GritLM, name: str, data: sets.RetrievalSet) -> list[Row]:
    ids = list(data.corpus)
    vectors = model.encode([data.corpus[i] for i in ids], max_length=512)
    gains: dict[str, list[float]] = {"bi-encoder": [], **{way: [] for way, _, _ in WAYS}}
    times: dict[str, list[float]] = {way: [] for way, _, _ in WAYS}
    for query, text in data.queries.items():
        cosines = vectors @ model.encode([text], model.config.retrieval_instruction, max_length=512)[0]
        top = np.argsort(-cosines, kind="stable")[:DEPTH]
        relevant = [document in data.relevant[query] for document in ids]
        gains["bi-encoder"].append(ndcg(cosines, relevant))
        passages = [data.corpus[ids[place]] for place in top]
        encodings = model.encode_iter(passages, return_cache=True, max_length=512)
        caches = [each.cache for each in encodings if each.cache is not None]
        for way, judgement, cached in WAYS:
            scores, spent_ms = _timed(model, text, passages, judgement, caches if cached else None)
            times[way].append(spent_ms)
            gains[way].append(ndcg(_above_the_rest(cosines, top, scores), relevant))
    return [_row(name, way, gains, times) for way in gains]


def _timed(
    model: GritLM, query: str, passages: list[str], judgement: Judgement, caches: list[KVCache] | None
) -> tuple[list[float], float]:
    started_s = time.perf_counter()
    scores = rerank(model, query, passages, judgement, caches)
    return scores, (time.perf_counter() - started_s) * 1e3


def _above_the_rest(cosines: np.ndarray, top: np.ndarray, scores: list[float]) -> np.ndarray:
    """The ten in the order of their new scores, before all other passages in their old order."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    ranked = cosines.astype(np.float64).copy()
    ranked[top[order]] = 10.0 - np.arange(len(top)) / 100
    return ranked


def _row(name: str, way: str, gains: dict[str, list[float]], times: dict[str, list[float]]) -> Row:
    row: Row = {"table": "reranking", "task": name, "metric": "ndcg_at_10", "system": way} | mean_interval(gains[way])
    if way in times:
        difference = mean_interval(np.subtract(gains[way], gains["bi-encoder"]).tolist())
        row |= {"difference": difference, "ms": float(np.median(times[way]))}
    return row
