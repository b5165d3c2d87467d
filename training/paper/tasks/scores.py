"""Scores of the local tasks, called by the harness."""

from __future__ import annotations

from typing import Any

from grit_app.benchmark.measure.metrics import exact_match, token_f1


def reading(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The best over the reference answers."""
    return {
        "exact_match": float(exact_match(results[0], doc["answers"])),
        "f1": token_f1(results[0], doc["answers"]),
    }
