"""Rank correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr


def spearman(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Rank correlation, ties averaged; 0 where one side is all alike, as the cosines of a collapsed model are."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)
