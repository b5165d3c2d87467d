"""Hits and their scores: what vectors say and what words say, as one number.

    hybrid     w · max(0, cosine) + (1 − w) · keyword score        w = the checkpoint's `vector_weight`
    vectors    max(0, cosine)
    keywords   the keyword score (see keywords.py)

Both parts lie in 0 … 1 and mean the same for every question, so that one threshold can tell what is answerable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.chunking import Chunk

Mode = Literal["hybrid", "vectors", "keywords"]
FoundBy = Literal["vectors", "keywords", "both"]


@dataclass(frozen=True)
class Hit:
    """A retrieved passage."""

    chunk: Chunk
    score: float
    """The retrieval score, 0 … 1."""
    vector_score: float
    """Cosine with the question."""
    keyword_score: float
    found_by: FoundBy
    """Which search alone would have had it among its first k; both, if only together they had."""


class Scores(NamedTuple):
    """The fields of a hit after its chunk."""

    score: float
    vector_score: float
    keyword_score: float
    found_by: FoundBy


def fuse(
    cosines: Mapping[int, float], words: Mapping[int, float], k: int, mode: Mode, vector_weight: float
) -> list[tuple[int, Scores]]:
    """The k best candidates with their scores, best first; equal ones by their number.

    cosines, words   candidate → cosine with the question, keyword score; both of the same candidates
    """
    weight = {"vectors": 1.0, "keywords": 0.0, "hybrid": vector_weight}[mode]
    fused = {row: weight * max(0.0, cosines[row]) + (1 - weight) * words[row] for row in cosines}
    by_vector = set() if mode == "keywords" else set(_best(cosines, k))
    by_words = {row for row in _best(words, k) if words[row] > 0}
    return [
        (row, Scores(min(1.0, fused[row]), cosines[row], words[row], _found_by(row, by_vector, by_words)))
        for row in _best(fused, k)
    ]


def _best(scores: Mapping[int, float], k: int) -> list[int]:
    return sorted(scores, key=lambda row: (-scores[row], row))[:k]


def _found_by(row: int, by_vector: set[int], by_words: set[int]) -> FoundBy:
    if (row in by_vector) == (row in by_words):
        return "both"
    return "vectors" if row in by_vector else "keywords"


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.dot(a, b)) / norms if norms else 0.0
