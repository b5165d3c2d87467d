"""Fits the two numbers that search needs to a checkpoint: the vectors' weight, and the answerable threshold.

    score(passage) = w · max(0, cosine) + (1 − w) · keyword score            as in the app's library
    answerable     = best score ≥ threshold

Fitted on every second question, reported on the others. w: the best mean of recall@1 and recall@5. Threshold: where the
rates of refused unanswerable and of kept answerable questions lie furthest above what is asked of them. A question
counts as unanswerable over all passages but those of its article, and over one passage of another article.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.keep.keywords import KeywordIndex, tokens
from grit_app.gritlm import GritLM
from grit_app.gritlm.grit_config import GritConfig
from training.evaluation.ranking import items_by_group
from training.evaluation.suite import Item, Suite

Array = NDArray[np.float32]

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
ASKED_REFUSED, ASKED_KEPT = 0.6, 0.7


@dataclass(frozen=True)
class Scores:
    """What search knows of each question [n] and passage [m]."""

    cosines: Array
    keywords: Array
    gold: NDArray[np.int64]
    """[n] the right passage's column."""

    own: NDArray[np.bool_]
    """[n, m] passages of the question's article."""

    other: NDArray[np.int64]
    """[n] a column of another article."""

    def fused(self, weight: float) -> Array:
        return np.asarray(weight * self.cosines.clip(0) + (1 - weight) * self.keywords)

    def part(self, rows: slice) -> Scores:
        return Scores(self.cosines[rows], self.keywords[rows], self.gold[rows], self.own[rows], self.other[rows])


def calibrate(model: GritLM, suite: Suite, seed: int = 0) -> tuple[GritConfig, dict[str, float]]:
    """The configuration with both numbers fitted, and the report on the other half."""
    scores = collect(model, suite, suite.draw(("wiki", "users", "nq"), None, seed), seed)
    fitted, reported = scores.part(slice(0, None, 2)), scores.part(slice(1, None, 2))
    weight = max(WEIGHTS, key=lambda w: (sum(recalls(fitted, w)), -w))
    threshold = best_threshold(*best_scores(fitted, weight))
    refused, kept = rates(*best_scores(reported, weight), threshold)
    report = {
        "vector_weight": weight,
        "answerable_threshold": threshold,
        "recall@1": recalls(reported, weight)[0],
        "recall@5": recalls(reported, weight)[1],
        "recall@1_keywords": recalls(reported, 0.0)[0],
        "recall@5_keywords": recalls(reported, 0.0)[1],
        "unanswerable_refused": refused,
        "answerable_kept": kept,
        "questions": float(len(reported.gold)),
    }
    return replace(model.config, vector_weight=weight, answerable_threshold=threshold), report


def collect(model: GritLM, suite: Suite, items: Sequence[Item], seed: int) -> Scores:
    contexts = suite.contexts()
    place = {text: column for column, text in enumerate(contexts)}
    vectors = model.encode(contexts)
    asked = model.encode([item.question for item in items], model.config.retrieval_instruction)
    index = KeywordIndex([tokens(text) for text in contexts])
    groups = items_by_group(suite.items)
    own = np.zeros((len(items), len(contexts)), dtype=bool)
    for row, item in enumerate(items):
        own[row, [place[text] for text in groups[item.group]]] = True
    generator = random.Random(seed)
    other = [generator.choice(np.flatnonzero(~row).tolist()) for row in own]
    return Scores(
        asked @ vectors.T,
        np.stack([index.scores(item.question) for item in items]),
        np.array([place[item.context] for item in items]),
        own,
        np.array(other),
    )


def recalls(scores: Scores, weight: float) -> tuple[float, float]:
    """recall@1 and recall@5."""
    fused = scores.fused(weight)
    rows = np.arange(len(fused))
    above = (fused > fused[rows, scores.gold][:, None]).sum(axis=1)
    return float((above < 1).mean()), float((above < 5).mean())


def best_scores(scores: Scores, weight: float) -> tuple[Array, Array]:
    """Best retrieval scores of answerable and of unanswerable questions, each in its two settings."""
    fused = scores.fused(weight)
    rows = np.arange(len(fused))
    answerable = np.concatenate([fused.max(axis=1), fused[rows, scores.gold]])
    unanswerable = np.concatenate([np.where(scores.own, -1.0, fused).max(axis=1), fused[rows, scores.other]])
    return answerable, unanswerable


def rates(answerable: Array, unanswerable: Array, threshold: float) -> tuple[float, float]:
    """(unanswerable refused, answerable kept)."""
    return float((unanswerable < threshold).mean()), float((answerable >= threshold).mean())


def best_threshold(answerable: Array, unanswerable: Array) -> float:
    """Rounded to 0.005."""

    def margin(threshold: float) -> float:
        refused, kept = rates(answerable, unanswerable, threshold)
        return min(refused - ASKED_REFUSED, kept - ASKED_KEPT)

    return float(max((round(0.005 * step, 3) for step in range(201)), key=margin))
