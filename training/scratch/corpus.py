"""Read the corpus files: JSON Lines, plain or compressed with xz, to plain documents.

A source names a file and a template that turns one record into text. The templates are fixed rules, so that the
same files always give the same documents.
"""

from __future__ import annotations

import json
import lzma
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grit_app.errors import GritError
from training.scratch.cloze import cloze_questions, passages

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
    """How a record becomes text: a key of TEMPLATES; `questions` (questions of a passage in one chat); `cloze` (made
    questions about runs of its sentences, as chats of the same form)."""

    only: list[str] = field(default_factory=list)
    """Keep only records whose `source` field is one of these; empty keeps all."""

    def __post_init__(self) -> None:
        known = sorted([*TEMPLATES, "questions", "cloze"])
        if self.template not in known:
            raise CorpusError(f"{self.file}: no template is called {self.template!r}. There are {known}.")


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


QUESTIONS_OF_A_CHAT = 4


def _questions(passage: str, asked: list[tuple[str, str]]) -> list[str]:
    """Chats over one passage, a few of its (question, answer) pairs in each: it is read once for several answers."""
    chats = []
    for first in range(0, len(asked), QUESTIONS_OF_A_CHAT):
        turns: list[str] = []
        for question, answer in asked[first : first + QUESTIONS_OF_A_CHAT]:
            before = "" if turns else f"{passage}\n\n"
            turns += [f"{before}{question}\n\n{QUESTION_TAIL}", answer]
        chats.append(chat(*turns))
    return chats


def _made_questions(record: Record) -> list[str]:
    rng = random.Random(str(record["title"]))
    chats: list[str] = []
    for passage in passages(record["text"], rng):
        asked = [(cloze.question, cloze.answer) for cloze in cloze_questions(passage, rng, QUESTIONS_OF_A_CHAT)]
        chats += _questions(passage, asked)
    return chats


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
        return [
            text
            for context, group in by_passage.items()
            for text in _questions(context, [(r["question"], answer_texts(r)[0]) for r in group])
        ]
    if source.template == "cloze":
        return [text for record in records for text in _made_questions(record)]
    return [TEMPLATES[source.template](record) for record in records]
