"""One question from its text to a cited answer: embed, search, lay out, load caches, prefill, write, cite.

    for event in answer("How many schools took part?", library, model):
        match event:
            case Token(text): show(text)
            case Done(answer): show_sources(answer.citations)

One path for all strategies: they differ in the layout that `strategies.build_layout` gives, and so in which caches are
joined and what is left to compute. Each question stands for itself; earlier turns are shown, not read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.library import Hit, Library, Mode
from grit_app.errors import InputError
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.embed.encoding import Encoding
from grit_app.gritlm.layout import Layout, Positions
from grit_app.gritlm.model import GritLM
from grit_app.gritlm.scheduler import Job
from grit_app.gritlm.write.decoding import Sampling
from grit_app.rag import quoting
from grit_app.rag.block_caches import gather
from grit_app.rag.citations import CitedAnswer, align
from grit_app.rag.events import STAGES, Answer, Citation, Done, Event, FirstToken, Retrieved, Token
from grit_app.rag.retrieval import Found, answerable, may_answer, retrieve
from grit_app.rag.strategies import Strategy, build_layout, find_strategy

AnswerMode = Literal["quote", "short", "free"]
"""A sentence of the passages, its few words that answer, or the model's own writing."""
Search = Callable[[NDArray[np.float32]], Found]

ANSWER_TOKENS = 64
"""Longest free answer unless the caller says otherwise."""


def answer(
    question: str,
    library: Library,
    model: GritLM,
    strategy: str | None = None,
    k: int | None = None,
    mode: AnswerMode | None = None,
    documents: Sequence[str] | None = None,
    sampling: Sampling | None = None,
    cancel: threading.Event | None = None,
    *,
    positions: Positions = "consecutive",
    search_mode: Mode = "hybrid",
    hits: Sequence[Hit] | None = None,
) -> Iterator[Event]:
    """Events of one answer: Retrieved, FirstToken, Tokens, Done; no FirstToken and no Tokens if nothing is written.

    strategy, k, mode   None: the checkpoint's defaults
    documents           ids of those to search; None: all of the library
    positions           "colliding" for the two-cache strategies as published
    search_mode         vectors, keywords, or both
    hits                passages chosen by the caller, best first: nothing is searched, and they are read whatever
                        their score

    Raises InputError for an empty question, an unknown strategy, k below 1, or a question that does not fit the model.
    """
    config = model.config
    if not question.strip():
        raise InputError("The question is empty. Type one.")
    if k is not None and k < 1:
        raise InputError(f"k must be at least 1, not {k}.")
    run = _Run(
        question=question.strip(),
        library=library,
        model=model,
        strategy=find_strategy(strategy or config.default_strategy),
        mode=mode or cast(AnswerMode, config.answer_mode),
        sampling=sampling or Sampling(max_new_tokens=ANSWER_TOKENS),
        cancel=cancel,
        positions=positions,
    )
    events = run.events(lambda vector: _found(run, vector, k or config.default_k, documents, search_mode, hits))
    return cancel.steps(events) if isinstance(cancel, Job) else events


def _found(
    run: _Run,
    vector: NDArray[np.float32],
    k: int,
    documents: Sequence[str] | None,
    search_mode: Mode,
    hits: Sequence[Hit] | None,
) -> Found:
    if hits is not None:
        return Found(tuple(hits), is_general=False, is_given=True)
    return retrieve(run.library, run.question, vector, k, documents, search_mode)


@dataclass(frozen=True)
class _Written:
    """A text and what writing it took."""

    text: str
    new_tokens: int
    prefill_ms: float
    tokens_per_s: float
    finish_reason: str
    quoted: str = ""
    """The quoted sentences, of which `text` may be a part."""

    short: str = ""
    """The few words of them that answer."""


_NOTHING = _Written("", 0, 0.0, 0.0, "stop")


@dataclass
class _Run:
    """One question on its way."""

    question: str
    library: Library
    model: GritLM
    strategy: Strategy
    mode: AnswerMode
    sampling: Sampling
    cancel: threading.Event | None
    positions: Positions
    timings: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    notes: list[str] = field(default_factory=list)
    started_s: float = field(default_factory=time.perf_counter)

    def events(self, search: Search) -> Iterator[Event]:
        self.started_s = time.perf_counter()
        encoding, found = self._retrieve(search)
        yield Retrieved(found.hits)
        layout, hits = self._fit(found.hits)
        if not self.strategy.retrieves or may_answer(found, self.model.config):  # else the refusal is known
            cache = self._load(layout, hits, encoding)
            written = yield from self._write(layout, cache, hits, found, encoding)
        else:
            written = replace(_NOTHING, text=self.model.config.refusal_sentence)
            yield from self._say(written.text)
        yield Done(self._conclude(found, written, layout))

    # ------------------------------------------------------------ before the answer

    def _retrieve(self, search: Search) -> tuple[Encoding | None, Found]:
        """The question's encoding, made once (its cache is kept when the strategy wants it), and the passages."""
        if not self.strategy.retrieves:
            return None, Found((), is_general=False)
        with self._clock("embed"):
            encodings = self.model.encode_iter(
                [self.question], self.model.config.retrieval_instruction, return_cache=self.strategy.caches_query
            )
            encoding = next(iter(encodings))
        with self._clock("search"):
            found = search(encoding.vector)
        return encoding, found

    def _fit(self, hits: Sequence[Hit]) -> tuple[Layout, list[Hit]]:
        """The layout over as many of the passages as the model's context holds, best first."""
        config, context = self.model.config, self.model.context
        room = context - self.sampling.max_new_tokens
        kept = list(hits[: self.strategy.most_documents])
        while True:
            strategy = self.strategy if kept else find_strategy("none")
            passages = [hit.chunk.text for hit in kept]
            layout = build_layout(strategy, self.model.prompts, config, self.question, passages, self.positions)
            if layout.cached_length + len(layout.tail) <= room:
                break
            if not kept:
                raise InputError(
                    f"The question has {self.model.prompts.count(self.question)} tokens; with an answer of up to "
                    f"{self.sampling.max_new_tokens} it does not fit into the model's context of {context}. Shorten it."
                )
            kept.pop()
        wanted = min(len(hits), self.strategy.most_documents or len(hits))
        if len(kept) < wanted:
            self.notes.append(
                f"Only the best {len(kept)} of {wanted} passages were read: more do not fit into the model's context "
                f"of {context} tokens."
            )
        return layout, kept

    def _load(self, layout: Layout, hits: Sequence[Hit], encoding: Encoding | None) -> KVCache | None:
        if not layout.blocks:
            return None
        with self._clock("load_cache"):
            query = encoding.cache if encoding else None
            return gather(self.model, layout, self.library, [hit.chunk for hit in hits], query)

    # ------------------------------------------------------------ the answer

    def _write(
        self,
        layout: Layout,
        cache: KVCache | None,
        hits: Sequence[Hit],
        found: Found,
        encoding: Encoding | None,
    ) -> Generator[Event, None, _Written]:
        if self.cancel is not None and self.cancel.is_set():
            return replace(_NOTHING, finish_reason="cancelled")
        if self.mode != "free" and hits:
            written = self._quote(layout, cache, hits, found, encoding)
            yield from self._say(written.text)
            return written
        return (yield from self._stream(layout, cache))

    def _quote(
        self,
        layout: Layout,
        cache: KVCache | None,
        hits: Sequence[Hit],
        found: Found,
        encoding: Encoding | None,
    ) -> _Written:
        passages = [hit.chunk.text for hit in hits]
        if found.is_general:
            candidates = quoting.openings(passages)
        else:
            candidates = quoting.shortlist(self.question, passages, [hit.score for hit in hits])
        vector = encoding.vector if encoding else None
        quote = quoting.choose(self.model, self.question, layout.tail, cache, candidates, vector)
        self.timings["prefill"] = quote.choose_ms
        short = "" if found.is_general else quote.short  # a document as a whole has no few words that answer
        text = short if self.mode == "short" and short else quote.text
        count = self.model.prompts.count(text)
        return _Written(text, count, quote.choose_ms, 0.0, "stop", quoted=quote.text, short=short)

    def _stream(self, layout: Layout, cache: KVCache | None) -> Generator[Event, None, _Written]:
        asked_s = time.perf_counter()
        stream = self.model.stream_ids(layout.tail, cache, self.sampling, cancel=self.cancel)
        is_first = True
        try:
            for piece in stream:
                if is_first:
                    is_first = False
                    before_ms = (asked_s - self.started_s) * 1e3
                    self.timings["first_token"] = before_ms + stream.stats.ttft_ms
                    yield FirstToken(self.timings["first_token"])
                yield Token(piece)
        finally:
            stream.close()
        stats = stream.stats
        self.timings["prefill"] = stats.prefill_ms
        return _Written(stream.text, stats.new_tokens, stats.prefill_ms, stats.tokens_per_s, stats.finish_reason)

    def _say(self, text: str) -> Iterator[Event]:
        """A text that is known as a whole, in pieces."""
        self.timings["first_token"] = (time.perf_counter() - self.started_s) * 1e3
        yield FirstToken(self.timings["first_token"])
        words = text.split(" ")
        for index, word in enumerate(words):
            yield Token(word if index == 0 else f" {word}")

    # ------------------------------------------------------------ after the answer

    def _conclude(self, found: Found, written: _Written, layout: Layout) -> Answer:
        config, text = self.model.config, written.text.strip()
        cached_tokens, computed_tokens = (layout.cached_length, len(layout.tail)) if written.prefill_ms else (0, 0)
        is_answerable = answerable(found, text, config)
        cited = align((written.quoted or text) if is_answerable else "", found.hits, self.model)
        if is_answerable and written.quoted and text != written.quoted:  # the short words stand for their quote
            numbers = sorted({number for _, found_in in cited.sentences for number in found_in})
            cited = replace(cited, sentences=[(text, numbers)])
        if written.finish_reason == "cancelled":
            self.notes.append("Stopped before its end.")
        elif self.strategy.retrieves and not is_answerable:
            self.notes.append("The documents do not answer this. These passages come nearest.")
        elif self.strategy.retrieves and not cited.is_supported:
            self.notes.append("Not every sentence of this answer is supported by a passage.")
        self.timings["total"] = (time.perf_counter() - self.started_s) * 1e3
        return Answer(
            text=text,
            marked=cited.marked if cited.sentences else text,
            answerable=is_answerable,
            short=written.short if is_answerable else "",
            is_supported=cited.is_supported,
            strategy=self.strategy.name,
            mode=self.mode if self.strategy.retrieves else "free",
            citations=tuple(_citations(found.hits, cited)),
            prompt_tokens=cached_tokens + computed_tokens,
            cached_tokens=cached_tokens,
            new_tokens=written.new_tokens,
            tokens_per_s=written.tokens_per_s,
            finish_reason=written.finish_reason,
            timings_ms=dict(self.timings),
            notes=tuple(self.notes),
            sentences=tuple((sentence, tuple(numbers)) for sentence, numbers in cited.sentences),
        )

    def _clock(self, stage: str) -> _Clock:
        return _Clock(self.timings, stage)


class _Clock:
    """Adds the time of a `with` block to a stage."""

    def __init__(self, timings: dict[str, float], stage: str) -> None:
        self._timings, self._stage = timings, stage

    def __enter__(self) -> None:
        self._started_s = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._stage] += (time.perf_counter() - self._started_s) * 1e3


def _citations(hits: Sequence[Hit], cited: CitedAnswer) -> Iterator[Citation]:
    for number, index in enumerate(cited.order, 1):
        chunk = hits[index].chunk
        support = cited.supports.get(index)
        page = chunk.page_at(support.start if support else 0)
        span = (support.start, support.stop) if support else None
        yield Citation(number, hits[index], support is not None, page.index + 1, page.label, span)
