"""Quote mode: the answer is a sentence of the passages, word for word.

    1  evidence (words) ranks all sentences of the passages that are read; the best few stay
    2  the model tells how likely it answers with each of them, in one forward over the prompt (or its caches)
    3  score = evidence + MODEL_WEIGHT · mean log-likelihood of a token + PASSAGE_WEIGHT · retrieval score

A weak model is a poor judge among many texts and a useful one among a few: the words do the first cut.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grit_app.gritlm.errors import InputError
from grit_app.gritlm.kv_cache import KVCache
from grit_app.gritlm.model import GritLM
from grit_app.gritlm.quote import best_span
from grit_app.rag.evidence import evidence
from grit_app.rag.sentences import Sentence, sentences_of

SHORTLIST: Final = 4
"""Sentences that the model chooses from."""

MODEL_WEIGHT: Final = 0.3
PASSAGE_WEIGHT: Final = 4.0

OPENING_SENTENCES: Final = 2
"""Sentences quoted from a document's beginning for a question about it as a whole."""

SHORTEST_WORDS: Final = 4
"""What is shorter, or does not end as a sentence does, is a heading or a caption."""


@dataclass(frozen=True)
class Candidate:
    """A sentence with its score before the model has read it."""

    sentence: Sentence
    score: float


@dataclass(frozen=True)
class Quote:
    """The chosen text and what choosing took."""

    text: str
    new_tokens: int
    choose_ms: float
    """Reading the prompt and comparing the candidates."""


def shortlist(
    question: str, passages: Sequence[str], scores: Sequence[float], most: int = SHORTLIST
) -> list[Candidate]:
    """The sentences that look most like the answer, best first; no text twice.

    scores   retrieval score of each passage
    """
    sentences = sentences_of(passages)
    judged = [
        Candidate(sentence, float(words) + PASSAGE_WEIGHT * scores[sentence.passage])
        for sentence, words in zip(sentences, evidence(question, sentences), strict=True)
    ]
    unique = {candidate.sentence.text: candidate for candidate in sorted(judged, key=lambda c: c.score)}
    return sorted(unique.values(), key=lambda c: -c.score)[:most]


def choose(model: GritLM, tail: Sequence[int], cache: KVCache | None, candidates: Sequence[Candidate]) -> Quote:
    """The best candidate by words and model together. Raises InputError if there is none."""
    if not candidates:
        raise InputError("The passages hold no sentence that could be quoted.")
    started_s = time.perf_counter()
    texts = [candidate.sentence.text for candidate in candidates]
    likelihoods = best_span(model, tail, cache, texts).scores
    totals = [
        candidate.score + MODEL_WEIGHT * max(likelihood, -20.0)  # −inf: a text that the tokenizer cannot give back
        for candidate, likelihood in zip(candidates, likelihoods, strict=True)
    ]
    text = texts[max(range(len(texts)), key=totals.__getitem__)]
    return Quote(text, model.prompts.count(text), (time.perf_counter() - started_s) * 1e3)


def openings(passages: Sequence[str]) -> list[Candidate]:
    """For a question about a document as a whole: the first sentences of running text of the first passage."""
    for number, passage in enumerate(passages):
        full = [s for s in sentences_of([passage]) if _is_whole(s.text)][:OPENING_SENTENCES]
        if full:
            text = " ".join(sentence.text for sentence in full)
            return [Candidate(Sentence(text, number, full[0].start, full[-1].stop), 0.0)]
    return [Candidate(Sentence(" ".join(passages[0].split()), 0, 0, len(passages[0])), 0.0)]


def _is_whole(text: str) -> bool:
    return len(text.split()) >= SHORTEST_WORDS and text.rstrip("\"'”’)]").endswith((".", "!", "?", "。", "؟"))
