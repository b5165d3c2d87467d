"""How an answer is judged: normalised as in SQuAD, then match, exact match and token F1; bootstrap intervals.

Normalised: lower case, no punctuation, no a/an/the, single spaces. The best of several right answers counts.
Source: Rajpurkar et al. 2016 (the evaluation script); "match" as in GRIT, section 4.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """The text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Whether any right answer stands in the text ("match", "contains"). An empty answer stands nowhere."""
    normalised = normalise(text)
    return any(answer and answer in normalised for answer in map(normalise, answers))


def exact_match(text: str, answers: Sequence[str]) -> bool:
    return normalise(text) in map(normalise, answers)


def token_f1(text: str, answers: Sequence[str]) -> float:
    """The best F1 of shared words with a right answer, 0 … 1. Two empty texts agree."""
    return max((_f1(normalise(text).split(), normalise(answer).split()) for answer in answers), default=0.0)


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    shared = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * shared / (len(predicted) + len(gold))


def bootstrap_interval(differences: Sequence[float], seed: int = 0, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by resampling questions."""
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        return (0.0, 0.0)
    picks = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
