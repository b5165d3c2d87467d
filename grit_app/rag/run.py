"""One question on its way: what was asked of whom, and what has been noted so far."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Literal

from grit_app.documents.library import Library
from grit_app.gritlm.layout import Positions
from grit_app.gritlm.model import GritLM
from grit_app.gritlm.write.decoding import Sampling
from grit_app.rag.reranking import Judgement
from grit_app.rag.stages import StageTimes
from grit_app.rag.strategies import Strategy

AnswerMode = Literal["quote", "short", "free", "sources"]
"""A sentence of the passages, its few words that answer, the model's own writing, or the passages alone."""


@dataclass
class Run:
    """The state that every step of an answer shares."""

    asked: str
    """As it was typed."""

    question: str
    library: Library
    model: GritLM
    strategy: Strategy
    name: str
    """The strategy's, as it was asked for."""

    mode: AnswerMode
    sampling: Sampling
    cancel: threading.Event | None
    positions: Positions
    stages: StageTimes
    retriever: GritLM
    k: int
    """Passages to be read."""

    reranked_by: Judgement | None
    notes: list[str] = field(default_factory=list)
    first_token_ms: float = 0.0
    started_s: float = field(default_factory=time.perf_counter)

    def elapsed_ms(self) -> float:
        """Since the question came."""
        return (time.perf_counter() - self.started_s) * 1e3
