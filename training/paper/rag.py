"""The RAG section: answers and time to the first token by caching strategy, through the app's own path."""

from __future__ import annotations

from typing import Final

from grit_app.benchmark.inputs.questions import read_questions
from grit_app.benchmark.measure import quality
from grit_app.gritlm.layout import Positions
from training.paper.recording import PaperSettings, Row

STRATEGIES: Final = (
    "rag_query_doc", "query_cache", "doc_cache", "query_doc_cache", "docs_cache", "docs_query_cache",
)  # fmt: skip
COLLIDING: Final = ("query_doc_cache", "docs_query_cache")
"""Two joined blocks: as published, both stand on the same positions."""

QUESTIONS: Final = 60
NEW_TOKENS: Final = 16
"""As published."""


def measure(settings: PaperSettings) -> list[Row]:
    """Match and F1 with 95 % intervals for every strategy, right passage given (one passage, as published)."""
    path = settings.data / "dev" / "squadshifts_dev.jsonl.xz"
    questions = read_questions(path, settings.limit or QUESTIONS)
    rows: list[Row] = []
    ways: tuple[tuple[Positions, tuple[str, ...]], ...] = (("consecutive", STRATEGIES), ("colliding", COLLIDING))
    for positions, names in ways:
        setup = quality.Setup(passages="gold", mode="free", new_tokens=NEW_TOKENS, positions=positions)
        result = quality.measure(settings.model, questions, names, [1], setup)
        rows += [{"table": "answers"} | record for record in result["records"]]
    return rows
