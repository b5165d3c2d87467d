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
from grit_app.rag.quotes.sentences import Sentence, sentences_of, split_sentences

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


def align(answer: str, hits: Sequence[Hit], model: GritLM, only: int | None = None) -> CitedAnswer:
    """The sentences of `answer`, each with the passage among `hits` that supports it best, if any does.

    only   index of the one passage that was read for the answer: no other can support it, and it is number 1
    """
    parts = split_sentences(answer) or ([answer.strip()] if answer.strip() else [])
    passages = [hit.chunk.text if only in (None, index) else "" for index, hit in enumerate(hits)]
    candidates = sentences_of(passages)
    shares = [_shares(part, passages) for part in parts]
    found = [_by_words(part, own, passages, candidates) for part, own in zip(parts, shares, strict=True)]
    _by_vectors(parts, shares, candidates, found, model)
    supports: dict[int, Support] = {}
    for support in found:
        if support is not None:
            supports.setdefault(support.hit, support)
    order = list(dict.fromkeys([*([only] if only is not None else []), *supports, *range(len(hits))]))
    number_of = {index: number for number, index in enumerate(order, 1)}
    sentences = [
        (part, [] if support is None else [number_of[support.hit]]) for part, support in zip(parts, found, strict=True)
    ]
    return CitedAnswer(sentences, order, supports)


def quoted(parts: Sequence[tuple[str, Sentence]], hits: Sequence[Hit]) -> CitedAnswer:
    """Texts that were taken from a sentence of a passage each, so that nothing need be found: (text, sentence)."""
    supports: dict[int, Support] = {}
    for _, sentence in parts:
        supports.setdefault(sentence.passage, Support(sentence.passage, sentence.start, sentence.stop))
    order = [*supports, *(index for index in range(len(hits)) if index not in supports)]
    number_of = {index: number for number, index in enumerate(order, 1)}
    return CitedAnswer([(text, [number_of[sentence.passage]]) for text, sentence in parts], order, supports)


def _shares(part: str, passages: Sequence[str]) -> list[float]:
    """For each passage the share of the part's words that stand in it; 0 where a number is missing."""
    words = set(tokens(part))
    return [_share(words, text) if words and _holds_numbers(part, text) else 0.0 for text in passages]


def _by_words(
    part: str, shares: Sequence[float], passages: Sequence[str], candidates: Sequence[Sentence]
) -> Support | None:
    """The passage that holds the part, or so many of its words that this proves support."""
    words = set(tokens(part))
    if not words or not candidates:
        return None
    best = max(range(len(passages)), key=lambda index: (part in passages[index], shares[index], -index))
    if shares[best] >= SURE_OVERLAP or part in passages[best]:
        return _place(best, words, part, passages[best], candidates)
    return None


def _by_vectors(
    parts: Sequence[str],
    shares: Sequence[Sequence[float]],
    candidates: Sequence[Sentence],
    found: list[Support | None],
    model: GritLM,
) -> None:
    """Fills `found` where words alone do not decide: all sentences that are compared are embedded together."""
    possible = {
        row: [number for number, s in enumerate(candidates) if shares[row][s.passage] >= POSSIBLE_OVERLAP]
        for row, support in enumerate(found)
        if support is None
    }
    rows = [row for row, numbers in possible.items() if numbers]
    if not rows:
        return
    needed = sorted({number for row in rows for number in possible[row]})
    vectors = model.encode([*(parts[row] for row in rows), *(candidates[number].text for number in needed)])
    column = {number: len(rows) + index for index, number in enumerate(needed)}
    for index, row in enumerate(rows):
        cosines = vectors[[column[number] for number in possible[row]]] @ vectors[index]
        nearest = int(cosines.argmax())
        if float(cosines[nearest]) >= SURE_COSINE:
            sentence = candidates[possible[row][nearest]]
            found[row] = Support(sentence.passage, sentence.start, sentence.stop)


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
