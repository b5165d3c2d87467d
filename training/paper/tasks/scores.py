"""Scores of the local tasks, called by the harness."""

from __future__ import annotations

import re
from typing import Any

from grit_app.benchmark.measure.metrics import exact_match, token_f1
from training.paper.sandbox.run import passes


def reading(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """The best over the reference answers."""
    return {
        "exact_match": float(exact_match(results[0], doc["answers"])),
        "f1": token_f1(results[0], doc["answers"]),
    }


def humaneval(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """Share of the answers whose program passes the problem's tests."""
    answers = results[0] if results and isinstance(results[0], list) else results
    return {"pass_at_1": sum(passes(program(doc, answer)) for answer in answers) / len(answers)}


def program(doc: dict[str, Any], answer: str) -> str:
    """The problem's own head, the answer's code and the tests.

    The head is a whole function with nothing but its docstring, often behind imports and helpers: an answer that gives
    the function again replaces it, and one that gives the body alone continues it.
    """
    blocks: list[str] = re.findall(r"```(?:python)?\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    code = blocks[0] if blocks else answer
    border = "\n" if f"def {doc['entry_point']}" in code else ""
    solution = doc["prompt"] + border + code
    return f"{solution}\n\n{doc['test']}\n\ncheck({doc['entry_point']})\n"
