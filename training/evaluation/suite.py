"""The files of a suite folder, as the measurements need them.

    sts_b_dev.jsonl.xz        sentence1, sentence2, score (0 … 5)
    squadshifts_dev.jsonl.xz  question, context, answers, title, source
    nq_qed_dev.jsonl.xz       question, context, answers
    fairytaleqa_val.jsonl.xz  context: prose
    cisi.jsonl.xz             type doc (id, title, text) and type query (id, text, relevant)

Questions are drawn by a seed, so the same suite and limit always ask the same ones.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grit_app.benchmark.inputs.questions import read_rows
from grit_app.errors import InputError

FILES = ("sts_b_dev", "squadshifts_dev", "nq_qed_dev", "fairytaleqa_val", "cisi")


@dataclass(frozen=True)
class Item:
    """A question of the suite."""

    question: str
    context: str
    answers: tuple[str, ...]
    group: str
    """The article: passages of the same group may hold the answer too."""

    set: str
    """wiki, users (reviews and comments) or nq."""


@dataclass(frozen=True)
class Suite:
    """What is measured on."""

    sts: list[tuple[str, str, float]]
    items: list[Item]
    """All questions of SquadShifts and NQ."""

    prose: list[str]
    cisi_documents: dict[str, str]
    cisi_queries: list[tuple[str, set[str]]]
    """(text, ids of relevant documents)."""

    held_out: list[str] = field(default_factory=list)
    """Prose of the training sources that was kept out of training; empty where it is not at hand."""

    def contexts(self, sets: Sequence[str] = ("wiki", "users", "nq")) -> list[str]:
        return list(dict.fromkeys(item.context for item in self.items if item.set in sets))

    def smaller(self, limit: int, seed: int = 0) -> Suite:
        """A suite of four times `limit` questions, all sets alike, with their passages alone: for quick looks.

        Fewer passages make retrieval easier, so its numbers compare only with runs of the same limit.
        """
        wanted = [item for name in ("wiki", "users", "nq") for item in self.draw((name,), 4 * limit // 3, seed)]
        return replace(self, items=wanted)

    def draw(self, sets: Sequence[str], limit: int | None, seed: int = 0) -> list[Item]:
        """`limit` questions of these sets, in file order."""
        chosen = [item for item in self.items if item.set in sets]
        if limit is None or limit >= len(chosen):
            return chosen
        return [chosen[index] for index in sorted(random.Random(seed).sample(range(len(chosen)), limit))]


def load_suite(folder: Path | str) -> Suite:
    """Raises InputError if a file is missing or not of its form."""
    folder = Path(folder)
    rows = {name: _rows(folder, name) for name in FILES}
    items = [_squad(row) for row in rows["squadshifts_dev"]] + [_nq(row) for row in rows["nq_qed_dev"]]
    cisi = rows["cisi"]
    return Suite(
        sts=[(row["sentence1"], row["sentence2"], float(row["score"])) for row in rows["sts_b_dev"]],
        items=[item for item in items if item.answers and item.question.strip()],
        prose=list(dict.fromkeys(row["context"] for row in rows["fairytaleqa_val"])),
        cisi_documents={
            str(row["id"]): " ".join([row.get("title", ""), row["text"]]).strip()
            for row in cisi
            if row["type"] == "doc"
        },
        cisi_queries=[(row["text"], {str(i) for i in row["relevant"]}) for row in cisi if row["type"] == "query"],
        held_out=_held_out(folder.parent / "train"),
    )


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    for path in (folder / f"{name}.jsonl.xz", folder / f"{name}.jsonl"):
        if path.is_file():
            return list(read_rows(path))
    raise InputError(f"{folder} holds no {name}.jsonl.xz. A suite folder needs {', '.join(FILES)}.")


def _answers(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(a if isinstance(a, str) else a["text"] for a in row["answers"])


def _squad(row: dict[str, Any]) -> Item:
    kind = "wiki" if "wiki" in row["source"] else "users"
    return Item(row["question"], row["context"], _answers(row), str(row["title"]), kind)


def _nq(row: dict[str, Any]) -> Item:
    return Item(row["question"], row["context"], _answers(row), str(row.get("title") or row["context"]), "nq")


def _held_out(folder: Path, texts: int = 60) -> list[str]:
    """Held-out articles of the encyclopedia, where the training files lie beside the suite."""
    from training.mixture.records import is_held_out, read_records

    path = folder / "wikipedia.jsonl.xz"
    if not path.is_file():
        return []
    found: list[str] = []
    for record in read_records(path):
        if is_held_out(record):
            found.append(str(record["text"]))
        if len(found) == texts:
            break
    return found
