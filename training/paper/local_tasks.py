"""Tasks of `tasks/*.yaml` with rows from the development files: what the harness can measure without a hub."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from training.paper.harness import TASKS
from training.paper.sets import rows

NAMES: Final = ("reading", "choice", "prose")
NEIGHBOURS: Final = 40
"""Definitions further apart than this in the dictionary are not offered as wrong choices: they would be too easy."""


def write_tasks(data: Path, folder: Path, limit: int, seed: int = 0) -> Path:
    """Writes rows and task files into `folder` and gives it, for the harness's include_path."""
    made = {"reading": _reading(data), "choice": _choice(data, seed), "prose": _prose(data)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, every in made.items():
        chosen = random.Random(seed).sample(every, min(limit, len(every)))
        _write(folder / f"{name}.jsonl", chosen)
        text = (TASKS / f"{name}.yaml").read_text(encoding="utf-8")
        (folder / f"{name}.yaml").write_text(text.replace("{folder}", str(folder)), encoding="utf-8")
    shutil.copy(TASKS / "scores.py", folder)
    return folder


def _reading(data: Path) -> list[dict[str, Any]]:
    return [
        {
            "context": row["context"],
            "question": row["question"],
            "answers": [a if isinstance(a, str) else a["text"] for a in row["answers"]],
        }
        for row in rows(data, "dev/squadshifts_dev")
        if "wiki" in row["source"] and row["answers"]
    ]


def _choice(data: Path, seed: int) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    entries = sorted(rows(data, "train/dictionary_wordnet"), key=lambda row: (row["topic"], row["words"][0]))
    made = []
    for place in rng.sample(range(NEIGHBOURS, len(entries) - NEIGHBOURS), 2000):
        right = entries[place]
        near = [e for e in entries[place - NEIGHBOURS : place + NEIGHBOURS] if e["topic"] == right["topic"]]
        wrong = [e["definition"] for e in near if not set(e["words"]) & set(right["words"])]
        if len(set(wrong)) >= 3:
            choices = [right["definition"], *rng.sample(sorted(set(wrong)), 3)]
            rng.shuffle(choices)
            label = choices.index(right["definition"])
            made.append({"word": right["words"][0], "choices": choices, "label": label})
    return made


def _prose(data: Path) -> list[dict[str, Any]]:
    return [{"text": text} for text in dict.fromkeys(row["context"] for row in rows(data, "dev/fairytaleqa_val"))]


def _write(path: Path, chosen: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
