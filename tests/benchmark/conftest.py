"""Latency records made by hand, so that what is drawn and said about them can be checked against known numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def summary(value: float, n: int = 5) -> dict[str, float]:
    return {"median": value, "p10": 0.9 * value, "p90": 1.2 * value, "min": 0.8 * value, "n": n}


def latency_record(strategy: str, state: str, doc_tokens: int, prefill_ms: float, **changes: Any) -> dict[str, Any]:
    record = {
        "strategy": strategy,
        "docs": 1,
        "doc_tokens": doc_tokens,
        "query_tokens": 16,
        "state": state,
        "prefill_ttft_ms": summary(prefill_ms),
        "question_ttft_ms": summary(prefill_ms + 10),
        "total_ms": summary(prefill_ms + 110),
        "stages_ms": {"tokenise": summary(2), "embed": summary(8), "tail": summary(prefill_ms), "decode": summary(100)},
        "floor_ms": summary(prefill_ms / 2),
        "flop_bound": 50.0,
        "cached_tokens": 0 if state == "none" else doc_tokens,
        "computed_tokens": doc_tokens + 40 if state == "none" else 40,
        "cache_bytes": 0 if state == "none" else doc_tokens * 100,
        "new_tokens": 16,
        "scheme": None if state == "none" else "native",
        "beyond_trained_context": doc_tokens > 2048,
        "samples": {"prefill_ttft": [prefill_ms] * 5},
    }
    return record | changes


@pytest.fixture
def make_record() -> Callable[..., dict[str, Any]]:
    """`make_record(strategy, state, doc_tokens, prefill_ms, **fields)`."""
    return latency_record


@pytest.fixture
def latency_records() -> list[dict[str, Any]]:
    """Full prefill takes 1 ms a token; the cache 300 ms plus 0.01 ms a token: they cross at about 303 tokens."""
    records = []
    for tokens in (100, 1000, 4000):
        records.append(latency_record("rag_doc_query", "none", tokens, 1.0 * tokens))
        records.append(latency_record("docs_cache", "warm", tokens, 300 + 0.01 * tokens))
        records.append(latency_record("docs_cache", "cold", tokens, 400 + 0.02 * tokens))
    return records
