"""How likely an answer is right: a logistic regression over what is known of it, fitted for each checkpoint.

    probability = sigmoid(Σ weight · feature)

`python -m training.fit.confidence` fits weights and thresholds on development questions and writes them into the
checkpoint's grit_config.json. A checkpoint without them has no confidence: nothing is refused or set in bold by it.

    kind    answers                                         features
    each    over one passage, `each_cache`                  score, rank, likelihood, refusal, words
    free    over all passages together                      score, likelihood, words
    quote   sentences of the passages                       score, likelihood, refusal, margin, span
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from grit_app.gritlm.grit_config import GritConfig

Kind = Literal["each", "free", "quote"]
Features = Mapping[str, float]
"""
score        retrieval score of the passage, or the best one's
rank         of the passage among the retrieved, from 0
likelihood   mean log-probability of the answer's tokens
refusal      mean log-probability of the refusal sentence as the answer, less `likelihood`
words        logarithm of 1 + the answer's words
margin       score of the chosen sentence above the next one's
span         score of its few words that answer
"""

BIAS = "bias"


@dataclass(frozen=True)
class Confidence:
    """A fitted judge of one kind of answer."""

    weights: Mapping[str, float]
    refuse: float
    """Below it the answer is the checkpoint's refusal."""

    doubt: float
    """Below it the answer is shown as the closest text, which may not answer."""

    sure: float
    """From it on, the few words that answer may stand in bold or alone."""

    def probability(self, features: Features) -> float:
        """Between 0 and 1."""
        logit = self.weights.get(BIAS, 0.0) + sum(self.weights.get(name, 0.0) * x for name, x in features.items())
        return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, logit))))


def confidence_of(config: GritConfig, kind: Kind) -> Confidence | None:
    """The checkpoint's judge of this kind of answer; None if none was fitted."""
    fitted = config.confidence.get(kind)
    if fitted is None:
        return None
    return Confidence(fitted["weights"], fitted["refuse"], fitted["doubt"], fitted["sure"])


def words_feature(text: str) -> float:
    return math.log1p(len(text.split()))
