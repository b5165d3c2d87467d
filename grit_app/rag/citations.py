"""Which passage supports which sentence of an answer: found by the program, never written by the model.

A passage supports a sentence if it holds most of the sentence's words and all of its numbers. Where the words alone are
not enough (a free answer in other words), the embedding decides between the sentence and the passage's own sentences.
A sentence without support gets no mark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from grit_app.documents.keep.keywords import tokens
from grit_app.documents.library import Hit
from grit_app.gritlm.model import GritLM
from grit_app.rag.sentences import Sentence, sentences_of, split_sentences

SURE_OVERLAP = 0.6
"""Share of a sentence's words that must stand in a passage for the words alone to prove support."""

POSSIBLE_OVERLAP = 0.35
"""Below this share no similarity of vectors counts as support: a small model finds many things alike."""

SURE_COSINE = 0.8
"""Between the two shares, how alike the answer's sentence and a sentence of the passage must be."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Support:
    """Where a passage says what a sentence of the answer says."""

    hit: int
    """Index of the passage among the retrieved ones."""

    start: int
    stop: int
    """Characters of the passage's best sentence."""


@dataclass(frozen=True)
class CitedAnswer:
    """An answer cut into sentences, with the numbers of the passages that support each."""

    sentences: list[tuple[str, list[int]]]
    """(text, numbers from 1)."""

    order: list[int]
    """Indices of the retrieved passages as they are numbered: cited ones first, then by rank."""

    supports: dict[int, Support]
    """By index of the passage: where it first supports the answer."""

    @property
    def marked(self) -> str:
        """The answer with `[n]` behind each supported sentence."""
        return " ".join(
            " ".join([text, *(f"[{number}]" for number in numbers)]) for text, numbers in self.sentences
        ).strip()

    @property
    def is_supported(self) -> bool:
        """Every sentence has a mark."""
        return bool(self.sentences) and all(numbers for _, numbers in self.sentences)


def align(answer: str, hits: Sequence[Hit], model: GritLM) -> CitedAnswer:
    """The sentences of `answer`, each with the passage among `hits` that supports it best, if any does."""
    parts = split_sentences(answer) or ([answer.strip()] if answer.strip() else [])
    passages = [hit.chunk.text for hit in hits]
    candidates = sentences_of(passages)
    found = [_support(part, passages, candidates, model) for part in parts]
    supports: dict[int, Support] = {}
    for support in found:
        if support is not None:
            supports.setdefault(support.hit, support)
    order = [*supports, *(index for index in range(len(hits)) if index not in supports)]
    number_of = {index: number for number, index in enumerate(order, 1)}
    sentences = [
        (part, [] if support is None else [number_of[support.hit]]) for part, support in zip(parts, found, strict=True)
    ]
    return CitedAnswer(sentences, order, supports)


def _support(part: str, passages: Sequence[str], candidates: Sequence[Sentence], model: GritLM) -> Support | None:
    words = set(tokens(part))
    if not words or not candidates:
        return None
    shares = [_share(words, text) if _holds_numbers(part, text) else 0.0 for text in passages]
    best = max(range(len(passages)), key=lambda index: (part in passages[index], shares[index], -index))
    if shares[best] >= SURE_OVERLAP or part in passages[best]:
        return _place(best, words, part, passages[best], candidates)
    possible = [sentence for sentence in candidates if shares[sentence.passage] >= POSSIBLE_OVERLAP]
    if not possible:
        return None
    vectors = model.encode([part, *(sentence.text for sentence in possible)])
    cosines = vectors[1:] @ vectors[0]
    nearest = int(cosines.argmax())
    if float(cosines[nearest]) < SURE_COSINE:
        return None
    sentence = possible[nearest]
    return Support(sentence.passage, sentence.start, sentence.stop)


def _place(hit: int, words: set[str], part: str, passage: str, candidates: Sequence[Sentence]) -> Support:
    """The part itself where it stands word for word, else the passage's sentence that shares most words."""
    if (start := passage.find(part)) >= 0:
        return Support(hit, start, start + len(part))
    own = [sentence for sentence in candidates if sentence.passage == hit]
    best = max(own, key=lambda sentence: (_share(words, sentence.text), -sentence.start))
    return Support(hit, best.start, best.stop)


def _share(words: set[str], text: str) -> float:
    return len(words & set(tokens(text))) / len(words)


def _holds_numbers(part: str, text: str) -> bool:
    """A number that the passage does not have cannot come from it."""
    return set(_NUMBER.findall(part)) <= set(_NUMBER.findall(text))
