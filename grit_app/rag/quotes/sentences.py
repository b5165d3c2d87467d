"""Sentences of retrieved passages, each knowing where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grit_app.documents.chunking import sentence_spans


@dataclass(frozen=True)
class Sentence:
    """`passages[passage][start:stop]`."""

    text: str
    passage: int
    start: int
    stop: int


def sentences_of(passages: Sequence[str]) -> list[Sentence]:
    """All sentences in order; a line break ends one, as it does in chunks (table rows and headings are lines)."""
    found: list[Sentence] = []
    for number, text in enumerate(passages):
        at = 0
        for line in text.split("\n"):
            found += [Sentence(line[a:b], number, at + a, at + b) for a, b in sentence_spans(line)]
            at += len(line) + 1
    return found


def split_sentences(text: str) -> list[str]:
    """The sentences of one text."""
    return [sentence.text for sentence in sentences_of([text])]
