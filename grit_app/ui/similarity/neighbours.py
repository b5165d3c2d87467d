"""The arithmetic of the Similarity tab: ranking, neighbours, the flat map, CSV. Pure functions of arrays."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from grit_app.errors import InputError

Vectors = NDArray[np.float32]

MAX_TEXTS = 64
"""In one call of the API."""

MAX_LINES = 1000
"""On the page."""

NEIGHBOURS = 8
MAX_CHARACTERS = 4000


class FlatMap(NamedTuple):
    """Points [n, 2] of a principal-component analysis and the share of the variance that each axis shows."""

    points: NDArray[np.float64]
    explained: tuple[float, float]


def lines_of(text: str) -> list[str]:
    """The texts to compare: one a line, empty lines dropped. Raises InputError for none, too many, or too long ones."""
    texts = [line.strip() for line in text.splitlines() if line.strip()]
    if not texts:
        raise InputError("There is nothing to compare. Write one text a line.")
    if len(texts) > MAX_LINES:
        raise InputError(
            f"{len(texts):,} texts are more than this page compares at once. Keep at most {MAX_LINES:,} lines."
        )
    long = [i for i, line in enumerate(texts, 1) if len(line) > MAX_CHARACTERS]
    if long:
        raise InputError(
            f"Text {long[0]} has more than {MAX_CHARACTERS:,} characters. Shorten it; longer texts belong "
            "in Document Q&A."
        )
    return texts


def cosines(vectors: Vectors) -> NDArray[np.float64]:
    """All pairs [n, n] in float64; exact ones on the diagonal."""
    wide = vectors.astype(np.float64)
    wide /= np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)
    table = np.clip(wide @ wide.T, -1.0, 1.0)
    np.fill_diagonal(table, 1.0)
    return table


def ranking(scores: NDArray[np.float64]) -> list[int]:
    """Positions from the highest score to the lowest; equal scores keep their order."""
    return [int(i) for i in np.argsort(-scores, kind="stable")]


def nearest(table: NDArray[np.float64], row: int) -> int | None:
    """The other text that is closest to `row` in the full vectors; None when there is no other."""
    if len(table) < 2:
        return None
    others = table[row].copy()
    others[row] = -np.inf
    return int(np.argmax(others))


def closest(table: NDArray[np.float64], row: int, count: int = NEIGHBOURS) -> list[int]:
    """The other texts that are closest to `row` in the full vectors, the closest first."""
    others = table[row].copy()
    others[row] = -np.inf
    return [int(i) for i in np.argsort(-others, kind="stable")[: min(count, len(table) - 1)]]


def flat_map(vectors: Vectors) -> FlatMap:
    """The vectors on their first two principal components. Signs are fixed: the same texts give the same picture."""
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    points = np.zeros((len(vectors), 2))
    axes = min(2, len(sizes))
    signs = np.sign(right[np.arange(axes), np.abs(right[:axes]).argmax(axis=1)])
    points[:, :axes] = left[:, :axes] * sizes[:axes] * np.where(signs == 0, 1, signs)
    total = float((sizes**2).sum())
    shares = [float(sizes[i] ** 2 / total) if i < axes and total > 1e-12 else 0.0 for i in range(2)]
    return FlatMap(points, (shares[0], shares[1]))


def to_csv(labels: Sequence[str], texts: Sequence[str], table: NDArray[np.float64]) -> str:
    """All pairs as CSV: number, text, a column for each text. A cell that would run as a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["number", "text", *labels])
    for label, text, row in zip(labels, texts, table, strict=True):
        safe = "'" + text if text[:1] in "=+-@\t\r" else text
        writer.writerow([label, safe, *(f"{value:.6f}" for value in row)])
    return buffer.getvalue()
