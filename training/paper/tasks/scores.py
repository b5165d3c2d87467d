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
    """The answer's code, its head before it where it gives the body alone, and the tests."""
    blocks: list[str] = re.findall(r"```(?:python)?\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    code = blocks[0] if blocks else answer
    imports = "\n".join(re.findall(r"^(?:from|import) .*$", doc["prompt"], re.MULTILINE))
    solution = f"{imports}\n{code}" if f"def {doc['entry_point']}" in code else doc["prompt"] + code
    return f"{solution}\n\n{doc['test']}\n\ncheck({doc['entry_point']})\n"
