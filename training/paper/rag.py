"""The RAG section: answers by caching strategy, and their times over document and question length, through the app's
own path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from grit_app.benchmark.inputs.questions import read_questions
from grit_app.benchmark.measure import latency, quality
from grit_app.gritlm.layout import Positions
from grit_app.rag.strategies import REFERENCE
from training.paper.recording import PaperSettings, Row

STRATEGIES: Final = (
    "rag_query_doc",
    "query_cache",
    "doc_cache",
    "query_doc_cache",
    "docs_cache",
    "docs_query_cache",
)
COLLIDING: Final = ("query_doc_cache", "docs_query_cache")
"""Two joined blocks: as published, both stand on the same positions."""

QUESTIONS: Final = 60
NEW_TOKENS: Final = 16
"""As published."""


LENGTHS: Final = (250, 1000, 4000)
"""Tokens of the document with a short question, and of the question with a short document."""

SHORT_QUESTION, SHORT_DOCUMENT = 16, 250
REPEATS: Final = 5
LEFT_OUT: Final = ("samples", "stages_ms")
"""Of a latency record: what no table or figure of the paper needs."""


def measure(settings: PaperSettings) -> list[Row]:
    """Match and F1 with 95 % intervals for every strategy, right passage given (one passage, as published); then the
    time to 16 new tokens over lengths, caches in the page cache."""
    return answer_rows(settings) + time_rows(settings, LENGTHS)


def time_rows(settings: PaperSettings, lengths: Sequence[int]) -> list[Row]:
    """Records of `benchmark latency`: documents of all lengths, then questions of all lengths."""
    names = (REFERENCE, *STRATEGIES)
    plan = latency.Plan(strategies=names, states=("warm",), new_tokens=NEW_TOKENS, repeats=REPEATS)
    plans = (
        replace(plan, doc_tokens=lengths, query_tokens=(SHORT_QUESTION,)),
        replace(plan, doc_tokens=(SHORT_DOCUMENT,), query_tokens=lengths),
    )
    records = []
    for varied in plans:
        records += latency.measure(settings.model, varied)["records"]
    return [{"table": "times"} | {k: v for k, v in record.items() if k not in LEFT_OUT} for record in records]


def answer_rows(settings: PaperSettings) -> list[Row]:
    """Answers to the same questions by every strategy; those of two joined blocks on colliding positions as well."""
    path = settings.data / "dev" / "squadshifts_dev.jsonl.xz"
    questions = read_questions(path, settings.limit or QUESTIONS)
    rows: list[Row] = []
    ways: tuple[tuple[Positions, tuple[str, ...]], ...] = (("consecutive", STRATEGIES), ("colliding", COLLIDING))
    for positions, names in ways:
        setup = quality.Setup(passages="gold", mode="free", new_tokens=NEW_TOKENS, positions=positions)
        result = quality.measure(settings.model, questions, names, [1], setup)
        measured = [record for record in result["records"] if positions == "consecutive" or record["strategy"] in names]
        rows += [{"table": "answers"} | record for record in measured]
    return rows
