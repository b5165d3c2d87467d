"""Reading one by one: the question is answered over each passage alone, and one of the answers is chosen.

A small reader is lost among five passages and nearly as good as with the right one alone when it reads each by itself.
Over the passages' caches that costs a short tail each, all of them in one batch a step (`BatchedDecoder`).

The choice: of the answers that are no refusal, the one that is most likely right by the checkpoint's fitted confidence
(rank, retrieval score, the answer's likelihood, and how likely the model would refuse); without one, the best-ranked.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial

from grit_app.documents.library import Hit
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.layout import Layout
from grit_app.gritlm.model import GritLM
from grit_app.gritlm.write.batched import BatchedAnswer, BatchedDecoder
from grit_app.gritlm.write.decoding import FinishReason, Sampling
from grit_app.rag.events import PassageAnswer
from grit_app.rag.judge.confidence import Features, confidence_of, words_feature
from grit_app.rag.retrieval import is_refusal
from grit_app.rag.stages import StageTimes

Cache = KVCache | None
Prompt = tuple[Layout, Cache]
"""A layout with the cache of its blocks, if it has any."""


@dataclass(frozen=True)
class Reading:
    """What reading one by one gave."""

    answers: tuple[PassageAnswer, ...]
    """In the order of the passages."""

    new_tokens: int
    finish_reason: FinishReason


def read_each(
    model: GritLM,
    prompts: Sequence[Prompt],
    hits: Sequence[Hit],
    sampling: Sampling,
    stages: StageTimes,
    cancel: threading.Event | None,
) -> Generator[PassageAnswer, None, Reading]:
    """Answers over each passage alone, given as they end. Raises Cancelled.

    prompts   for each of `hits` its layout and the cache of its blocks
    """
    together = BatchedDecoder(model)
    refusal = [*model.prompts.continuation(model.config.refusal_sentence), model.prompts.eos_id]
    told: dict[int, PassageAnswer] = {}
    try:
        running = [together.add(layout.tail, cache, sampling, rival=refusal) for layout, cache in prompts]
        judge = partial(_judged, config=model.config, refusal_tokens=len(refusal))
        while together.answers:
            with stages.stage("decode" if running[0].chosen else "tail"):
                together.step(cancel)
            for number, answer in enumerate(running):
                if answer.finish != "running" and number not in told:
                    told[number] = judge(answer, number, hits[number])
                    yield told[number]
    finally:
        together.close()
    finish: FinishReason = "length" if any(answer.finish == "length" for answer in running) else "stop"
    answers = tuple(told[number] for number in range(len(running)))
    return Reading(answers, sum(len(answer.token_ids) for answer in running), finish)


def choose(answers: Sequence[PassageAnswer]) -> PassageAnswer | None:
    """The answer that is most likely right; the best-ranked where no confidence was fitted. None if all refuse."""
    candidates = [answer for answer in answers if not answer.refuses]
    return max(candidates, key=lambda answer: (answer.confidence or 0.0, -answer.hit), default=None)


def _judged(answer: BatchedAnswer, number: int, hit: Hit, *, config: GritConfig, refusal_tokens: int) -> PassageAnswer:
    text = answer.text.strip()
    likelihood = answer.mean_log_probability
    features: Features = {
        "score": hit.score,
        "rank": float(number),
        "likelihood": likelihood,
        "refusal": answer.rival_log_likelihood / refusal_tokens - likelihood,
        "words": words_feature(text),
    }
    judge = confidence_of(config, "each")
    refuses = not text or is_refusal(text, config)
    confidence = None if judge is None else 0.0 if refuses else judge.probability(features)
    return PassageAnswer(number, text, refuses, confidence, features)
