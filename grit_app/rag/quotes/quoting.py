"""Quote mode: the answer is one sentence of the passages, or two, word for word.

    1  the words (`evidence`) and the passage's retrieval score rank all sentences of the passages; at most NEAREST stay
    2  the embedding compares them with the question; at most SHORTLIST stay
    3  the model tells how likely it answers with each of those, in one forward over the prompt (or its caches), and
       `spans` how clearly a few words of it answer

    score = evidence + PASSAGE_WEIGHT · retrieval score + COSINE_WEIGHT · cosine + MODEL_WEIGHT · mean log-likelihood
            + SPAN_WEIGHT · score of its best span

A weak model is a poor judge among many texts and a useful one among a few: the words do the first cut. Where the
second sentence comes within MARGIN of the first, both are quoted. The numbers were first chosen on half of 480
development questions, with an earlier model; on the other half, with the right passage given, 81 % of quotes hold the
answer at an F1 of 22.6 (words alone 73 %, 22.0; always one sentence 78 %, 23.0).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grit_app.errors import InputError
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.model import GritLM
from grit_app.gritlm.write.quote import best_span
from grit_app.rag.judge.confidence import Features
from grit_app.rag.quotes.evidence import evidence
from grit_app.rag.quotes.sentences import Sentence, sentences_of
from grit_app.rag.quotes.spans import short_answer

NEAREST: Final = 8
SHORTLIST: Final = 4
WORDS_REACH: Final = 3.0
COSINE_REACH: Final = 1.5
"""What lies further behind the best one after the words, or after the cosines, is not compared any more: no choice on
the development questions became worse, and half of the work goes, for which a cached prompt would have to wait."""

PASSAGE_WEIGHT: Final = 16.0
COSINE_WEIGHT: Final = 4.0
"""Chosen by development questions; 0 to 12 differ within the noise (training/LOG.md)."""

MODEL_WEIGHT: Final = 0.3
SPAN_WEIGHT: Final = 0.3
"""Chosen by development questions, by words alone (training/LOG.md)."""

MARGIN: Final = 0.5

QUESTION_PENALTY: Final = 3.0
"""For a sentence that itself asks: a heading in the form of a question holds its words, and no answer."""

WORST_LIKELIHOOD: Final = -20.0
"""For a text that the tokenizer cannot give back word for word (its likelihood is −inf)."""

_UNSPACED: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{4}")
"""Words in scripts that do not part them."""

OPENING_SENTENCES: Final = 2
"""Sentences quoted from a document's beginning for a question about it as a whole."""

SHORTEST_WORDS: Final = 4
"""What is shorter, or does not end as a sentence does, is a heading or a caption."""


PromptRead = tuple[Sequence[int], KVCache | None]
"""The ids of a tail, and the cache that they follow."""

PromptOf = Callable[[int], PromptRead]


@dataclass(frozen=True)
class Candidate:
    """A sentence with its score so far."""

    sentence: Sentence
    score: float


@dataclass(frozen=True)
class Quote:
    """The chosen text and what choosing took."""

    text: str
    sentences: tuple[Sentence, ...]
    short: str
    """The few words of the best sentence that answer."""

    short_from: Sentence
    """The best sentence: the one that `short` is taken from."""

    features: Features
    """What its confidence is made of; see rag/confidence.py."""


def shortlist(question: str, passages: Sequence[str], scores: Sequence[float], most: int = NEAREST) -> list[Candidate]:
    """The sentences that look most like the answer by their words, best first; no text twice.

    scores   retrieval score of each passage
    """
    sentences = sentences_of(passages)
    judged = [
        Candidate(sentence, float(words) + PASSAGE_WEIGHT * scores[sentence.passage] - _asks(sentence.text))
        for sentence, words in zip(sentences, evidence(question, sentences), strict=True)
    ]
    unique = {candidate.sentence.text: candidate for candidate in sorted(judged, key=lambda c: c.score)}
    return _within(sorted(unique.values(), key=lambda c: -c.score)[:most], WORDS_REACH)


def choose(
    model: GritLM,
    question: str,
    prompt_of: PromptOf,
    candidates: Sequence[Candidate],
    vector: NDArray[np.float32] | None = None,
    scores: Sequence[float] = (),
    cancel: threading.Event | None = None,
) -> Quote:
    """The best candidate, or the best two, by words, embedding and likelihood.

    prompt_of   for a passage's number the prompt that reads it: a cache (or none) and the ids behind it
    vector      the question's embedding; None: it is not compared
    scores      retrieval score of each passage, for the confidence

    Raises InputError if there is no candidate, Cancelled once `cancel` is set.
    """
    if not candidates:
        raise InputError("The passages hold no sentence that could be quoted.")
    near = _within(_compare(model, candidates, vector, cancel)[:SHORTLIST], COSINE_REACH)
    likelihoods, refusal = _likelihoods(model, prompt_of, near, cancel)
    spans = [short_answer(question, candidate.sentence.text) for candidate in near]
    short_of = {candidate.sentence: span.text if span else "" for candidate, span in zip(near, spans, strict=True)}
    judged = _ranked(
        [
            replace(
                candidate,
                score=candidate.score
                + MODEL_WEIGHT * max(likelihood, WORST_LIKELIHOOD)
                + SPAN_WEIGHT * (span.score if span else 0.0),
            )
            for candidate, likelihood, span in zip(near, likelihoods, spans, strict=True)
        ]
    )
    chosen = [c.sentence for c in judged[:2] if judged[0].score - c.score < MARGIN]
    best = chosen[0]
    likelihood = max(likelihoods[[c.sentence for c in near].index(best)], WORST_LIKELIHOOD)
    span = next((span for c, span in zip(near, spans, strict=True) if c.sentence == best), None)
    features: Features = {
        "score": scores[best.passage] if scores else 0.0,
        "likelihood": likelihood,
        "refusal": refusal - likelihood,
        "margin": judged[0].score - judged[1].score if len(judged) > 1 else COSINE_REACH,
        "span": span.score if span else 0.0,
    }
    chosen.sort(key=lambda sentence: (sentence.passage, sentence.start))
    return Quote(" ".join(sentence.text for sentence in chosen), tuple(chosen), short_of[best], best, features)


def _likelihoods(
    model: GritLM, prompt_of: PromptOf, near: Sequence[Candidate], cancel: threading.Event | None
) -> tuple[list[float], float]:
    """Each candidate's mean log-likelihood behind the prompt that reads it, and the refusal's highest one."""
    found = [0.0] * len(near)
    refusals = []
    prompts: dict[int, tuple[list[int], PromptRead]] = {}
    for number, candidate in enumerate(near):  # candidates of one prompt are compared in one forward
        read = prompt_of(candidate.sentence.passage)
        prompts.setdefault(id(read), ([], read))[0].append(number)
    for numbers, (tail, cache) in prompts.values():
        texts = [near[number].sentence.text for number in numbers]
        *own, refusal = best_span(model, tail, cache, [*texts, model.config.refusal_sentence], cancel=cancel).scores
        refusals.append(refusal)
        for number, likelihood in zip(numbers, own, strict=True):
            found[number] = likelihood
    return found, max(max(refusals), WORST_LIKELIHOOD)


def _compare(
    model: GritLM,
    candidates: Sequence[Candidate],
    vector: NDArray[np.float32] | None,
    cancel: threading.Event | None,
) -> list[Candidate]:
    """The candidates with their cosines counted in, best first."""
    if vector is None or len(candidates) < 2:
        return _ranked(candidates)
    vectors = model.encode([candidate.sentence.text for candidate in candidates], normalize=True, cancel=cancel)
    cosines = vectors @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
    return _ranked(
        [
            replace(c, score=c.score + COSINE_WEIGHT * float(cosine))
            for c, cosine in zip(candidates, cosines, strict=True)
        ]
    )


def _asks(text: str) -> float:
    return QUESTION_PENALTY if text.endswith(("?", "؟", "？")) else 0.0


def _within(ranked: Sequence[Candidate], reach: float) -> list[Candidate]:
    return [candidate for candidate in ranked if ranked[0].score - candidate.score <= reach]


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: -candidate.score)


def openings(passages: Sequence[str]) -> list[Candidate]:
    """For a question about a document as a whole: the first sentences of running text of the first passage."""
    for number, passage in enumerate(passages):
        full = [s for s in sentences_of([passage]) if _is_whole(s.text)][:OPENING_SENTENCES]
        if full:
            text = " ".join(sentence.text for sentence in full)
            return [Candidate(Sentence(text, number, full[0].start, full[-1].stop), 0.0)]
    return [Candidate(Sentence(" ".join(passages[0].split()), 0, 0, len(passages[0])), 0.0)]


def _is_whole(text: str) -> bool:
    """A sentence from its beginning: a table's cells and torn lines also end with a full stop."""
    long = len(text.split()) >= SHORTEST_WORDS or _UNSPACED.search(text) is not None
    ends = text.rstrip("\"'”’)]").endswith((".", "!", "?", "。", "؟"))
    return long and ends and not text[:1].islower()
