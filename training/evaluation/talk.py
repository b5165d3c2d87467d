"""Fifty fixed requests, answered as the chat answers them, and judged by rules that a script can check."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from grit_app.benchmark.inputs.questions import read_rows
from grit_app.gritlm import GritLM
from grit_app.places import ASSETS
from grit_app.rag.turns.small_talk import with_example
from training.voice import is_good

REQUESTS = ASSETS / "evaluation" / "requests.jsonl"
"""Rows: request, about (an answer on the subject holds one of these, in any case)."""

NEW_TOKENS: Final = 160
"""Room for an answer to end in."""


def replies(model: GritLM, requests: Path = REQUESTS) -> list[dict[str, Any]]:
    """Each request with its greedy answer, under the checkpoint's repetition guards, and what the rules say of it.

    Rows: request, answer, ended (by itself, within NEW_TOKENS), loops (it repeats its own runs of words), on_subject.
    """
    rows = []
    for row in read_rows(requests):
        messages, _ = with_example(model, [{"role": "user", "content": row["request"]}])
        stream = model.stream(messages, max_new_tokens=NEW_TOKENS)
        answer = stream.read_all()
        rows.append(
            {
                "request": row["request"],
                "answer": answer,
                "ended": stream.stats.new_tokens < NEW_TOKENS,
                "loops": bool(answer.strip()) and not is_good(answer),
                "on_subject": any(word.lower() in answer.lower() for word in row["about"]),
            }
        )
    return rows


def talk(model: GritLM, requests: Path = REQUESTS) -> dict[str, float]:
    """Of all requests, the shares whose answer ended, did not loop, kept to the subject, and did all three."""
    rows = replies(model, requests)
    good = [row["ended"] and not row["loops"] and row["on_subject"] for row in rows]
    return {
        "ended": sum(row["ended"] for row in rows) / len(rows),
        "no_loop": sum(not row["loops"] for row in rows) / len(rows),
        "on_subject": sum(row["on_subject"] for row in rows) / len(rows),
        "good": sum(good) / len(rows),
    }
