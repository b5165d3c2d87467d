"""Files of questions with a passage and right answers: JSON Lines, plain or xz."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grit_app.errors import InputError


@dataclass(frozen=True)
class Question:
    """One row."""

    question: str
    context: str
    answers: tuple[str, ...]
    source: str = ""


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file. Raises InputError that names the file and the line."""
    opener: Any = lzma.open if path.suffix == ".xz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _row(path, number, line)
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}. Give a .jsonl or .jsonl.xz file.") from error


def read_questions(path: Path, limit: int | None = None, seed: int = 0) -> list[Question]:
    """`limit` questions drawn by `seed` (all: None), in the file's order.

    Rows hold `question`, `context` and `answers` (strings, or objects with `text`). Raises InputError for other rows.
    """
    rows = list(enumerate(read_rows(path), 1))
    if limit is not None and limit < len(rows):
        rows = [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), limit))]
    return [_question(path, number, row) for number, row in rows]


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {number}: not valid JSON ({error.msg}).") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: not a JSON object.")
    return row


def _question(path: Path, number: int, row: dict[str, Any]) -> Question:
    given = row.get("answers")
    answers = tuple(str(answer["text"] if isinstance(answer, dict) else answer) for answer in given or [] if answer)
    question, context = row.get("question"), row.get("context")
    if not isinstance(question, str) or not isinstance(context, str) or not answers:
        raise InputError(f"{path}, record {number}: a row needs question, context and at least one entry in answers.")
    return Question(question, context, answers, str(row.get("source", "")))
