"""Read the corpus files: JSON Lines, plain or compressed with xz, to plain documents.

A source names a file and a template that turns one record into text. The templates are fixed rules, so that the
same files always give the same documents.
"""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grit_app.errors import GritError

Record = dict[str, Any]


class CorpusError(GritError):
    """A corpus file or a setting of the corpus is missing or wrong."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One corpus file."""

    file: str
    """Name inside `data_dir`, e.g. wikipedia.jsonl.xz."""

    weight: float = 1.0
    """Relative share of this source in the mixture (of characters or of rows)."""

    template: str = "text"
    """How a record becomes text: a key of TEMPLATES, or `questions` (all questions of a passage in one chat)."""

    only: list[str] = field(default_factory=list)
    """Keep only records whose `source` field is one of these; empty keeps all."""

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES and self.template != "questions":
            raise CorpusError(f"{self.file}: no template is called {self.template!r}. There are {sorted(TEMPLATES)}.")


def read_records(path: Path) -> Iterator[Record]:
    """The objects of a .jsonl or .jsonl.xz file, in file order. Raises CorpusError naming the file and line."""
    if not path.is_file():
        raise CorpusError(f"{path} is not there. Set data_dir to the folder with the corpus files (training/DATA.md).")
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{path}, line {number}: not a JSON object ({error.msg}).") from error


def is_held_out(record: Record, parts: int = 64) -> bool:
    """True for about one record in `parts`, decided by its title (or whole text) alone.

    Records of one article share the title, so an article is either trained on everywhere or nowhere.
    """
    key = record.get("title") or record.get("term") or json.dumps(record, sort_keys=True)
    return zlib.crc32(str(key).lower().encode()) % parts == 0


def chat(*turns: str) -> str:
    """Turns user, assistant, user, … in the published chat layout, without BOS and without the last `</s>`.

    A literal `</s>` stands between turns: `encode_documents` turns it into the EOS id.
    """
    text = ""
    for number, turn in enumerate(turns):
        if number % 2 == 0:
            text += f"<|user|>\n{turn}\n"
        else:
            text += f"<|assistant|>\n{turn.strip()}" + ("</s>\n" if number + 1 < len(turns) else "")
    return text


def _titled(record: Record) -> str:
    return f"{record['title']}\n{record['text']}"


def _plain(record: Record) -> str:
    return str(record["text"])


def _instruction(record: Record) -> str:
    question = record["instruction"] + (f"\n\n{record['input']}" if record.get("input") else "")
    return chat(question, record["output"])


def _definition(record: Record) -> str:
    word = record["words"][0]
    text = chat(f'What does "{word}" mean?', record["definition"])
    if record["examples"]:
        text += "</s>\n" + chat(f'Use "{word}" in a sentence.', record["examples"][0])
    return text


def _glossary(record: Record) -> str:
    return chat(f"What is {record['term']}?", record["definition"])


def _section(record: Record) -> str:
    return f"{record['query']}\n{record['positive']}"


def _question_pair(record: Record) -> str:
    return f"{record['positive']}\n\n{record['query']}"


def answer_texts(record: Record) -> list[str]:
    """Reference answers of a question-answering record, whichever form the file uses."""
    return [answer["text"] if isinstance(answer, dict) else answer for answer in record["answers"]]


def _questions(records: list[Record]) -> str:
    """One passage with all its questions as turns of one chat: the passage is read once for many answers."""
    title = records[0].get("title") or ""
    passage = f"{title} {records[0]['context']}".strip()
    turns: list[str] = []
    for number, record in enumerate(records):
        question = f"{record['question']}\n\n{QUESTION_TAIL}"
        turns += [f"{passage}\n\n{question}" if number == 0 else question, answer_texts(record)[0]]
    return chat(*turns)


# The published wording for a question behind its passage (see grit_app.gritlm.prompts).
QUESTION_TAIL = "Answer the prior query while optionally using the context prior to it"

TEMPLATES: dict[str, Callable[[Record], str]] = {
    "text": _plain,
    "titled": _titled,
    "instruction": _instruction,
    "definition": _definition,
    "glossary": _glossary,
    "section": _section,
    "question_pair": _question_pair,
}


def read_documents(data_dir: Path, source: SourceConfig, *, held_out: bool = False) -> list[str]:
    """Documents of one source, in file order: the training part, or the held-out part."""
    records = [
        record
        for record in read_records(data_dir / source.file)
        if is_held_out(record) == held_out and (not source.only or record["source"] in source.only)
    ]
    if source.template == "questions":
        by_passage: dict[str, list[Record]] = {}
        for record in records:
            by_passage.setdefault(record["context"], []).append(record)
        return [_questions(group) for group in by_passage.values()]
    return [TEMPLATES[source.template](record) for record in records]
