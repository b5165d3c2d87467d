"""One question from its text to a cited answer: embed, search, lay out, load caches, prefill, write, cite.

    for event in answer("How many schools took part?", library, model):
        match event:
            case Token(text): show(text)
            case Done(answer): show_sources(answer.citations)

One path for all strategies: they differ in the layouts that `strategies.build_layouts` gives, and so in which caches
are joined and what is left to compute. A question that follows on earlier turns is rewritten first (`follow_up`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.library import Hit, Library, Mode
from grit_app.errors import InputError
from grit_app.gritlm.embed.encoding import Encoding
from grit_app.gritlm.errors import Cancelled
from grit_app.gritlm.layout import Layout, Positions
from grit_app.gritlm.model import GritLM
from grit_app.gritlm.scheduler import Job
from grit_app.gritlm.write.decoding import Sampling
from grit_app.rag import one_by_one
from grit_app.rag.block_caches import gather
from grit_app.rag.events import Done, Event, FirstToken, Retrieved, Rewritten, Token
from grit_app.rag.judge.conclusion import Written, conclude
from grit_app.rag.judge.confidence import words_feature
from grit_app.rag.judge.fitting import check_length, fit
from grit_app.rag.quotes import quoting
from grit_app.rag.quotes.cells import Cell, find_cell
from grit_app.rag.reranking import Judgement, rerank
from grit_app.rag.retrieval import Found, may_answer, retrieve, whole_document
from grit_app.rag.run import AnswerMode, Run
from grit_app.rag.stages import StageTimes
from grit_app.rag.strategies import Strategy, find_strategy
from grit_app.rag.turns.follow_up import Turn, rewrite

Search = Callable[[NDArray[np.float32]], Found]
Choose = Callable[[NDArray[np.float32]], Sequence[Hit]]

RERANKED = 10
"""Passages that the model reorders where it is asked to, as in the paper's table 3."""

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
    hits: Sequence[Hit] | Choose | None = None,
    whole: bool = False,
    reranked_by: Judgement | None = None,
    turns: Sequence[Turn] = (),
    stages: StageTimes | None = None,
    retriever: GritLM | None = None,
) -> Iterator[Event]:
    """Events of one answer: Rewritten, Retrieved, PassageAnswers, FirstToken, Tokens, Done.

    Rewritten comes where the question followed on `turns`, PassageAnswers where passages are read one by one, and no
    FirstToken and no Tokens where nothing is written.

    strategy, k, mode   None: the checkpoint's defaults
    documents           ids of those to search; None: all of the library
    positions           "colliding" for the two-cache strategies as published
    search_mode         vectors, keywords, or both
    hits                passages chosen by the caller, best first, or a function of the question's vector that chooses
                        them: they are read whatever their score
    whole               read one document from its beginning to its end, instead of passages found in it
    reranked_by         let the model read the RERANKED passages that are found and reorder them before k are taken; the
                        answer's notes tell what that cost. Not for passages that are given, or a document as a whole
    turns               earlier questions and answers, the last one last
    stages              told of each stage's time; see rag/stages.py
    retriever           another model that embeds the question, as where one model searches and another one writes

    Raises InputError for an empty question, an unknown strategy, k below 1, or a question (or a whole document) that
    does not fit the model.
    """
    config = model.config
    name = strategy or config.default_strategy
    row = check_question(question, name, k)
    if model.writes_at and row.caches_anything:
        raise InputError(
            f"The strategy {name} reuses keys and values, and the engine at {model.writes_at} takes text alone. Use "
            "rag_doc_query or rag_query_doc there."
        )
    asked = question.strip()
    k = k or config.default_k
    run = Answering(
        asked=asked,
        question=rewrite(asked, turns),
        library=library,
        model=model,
        strategy=find_strategy("docs_cache") if whole and row.one_by_one else row,
        name="docs_cache" if whole and row.one_by_one else name,
        mode=mode or cast(AnswerMode, config.answer_mode),
        sampling=sampling or Sampling(max_new_tokens=ANSWER_TOKENS),
        cancel=cancel,
        positions=positions,
        stages=stages or StageTimes(),
        retriever=retriever or model,
        k=k,
        reranked_by=reranked_by,
    )
    check_length(run)
    depth = max(k, RERANKED) if reranked_by else k
    events = run.events(_search(run, whole, hits, depth, documents, search_mode))
    return cancel.steps(events) if isinstance(cancel, Job) else events


def _search(
    run: Run,
    whole: bool,
    hits: Sequence[Hit] | Choose | None,
    k: int,
    documents: Sequence[str] | None,
    search_mode: Mode,
) -> Search:
    """From the question's vector to the passages to be read."""
    if whole:
        return lambda vector: whole_document(run.library, run.question, vector, documents)
    if hits is not None:
        given = hits if callable(hits) else lambda _: hits
        return lambda vector: Found(tuple(given(vector)), is_general=False, is_given=True)
    return lambda vector: retrieve(run.library, run.question, vector, k, documents, search_mode)


def check_question(question: str, strategy: str, k: int | None) -> Strategy:
    """The strategy of that name. Raises InputError for what `answer` would refuse, before any work is done."""
    if not question.strip():
        raise InputError("The question is empty. Type one.")
    if k is not None and k < 1:
        raise InputError(f"k must be at least 1, not {k}.")
    return find_strategy(strategy)


class Answering(Run):
    """The steps from a question to its answer."""

    def events(self, search: Search) -> Iterator[Event]:
        self.started_s = time.perf_counter()
        if self.question != self.asked:
            yield Rewritten(self.question)
        found = Found((), is_general=False)
        layouts: list[Layout] = []
        try:
            encoding, found = self._retrieve(search)
            found = self._rerank(found)
            found, cell = self._cell(found)
            yield Retrieved(found.hits)
            if cell is not None:
                written = Written(cell.text, quote=cell.quote, short=cell.text)
                yield from self._say(cell.text)
            elif self.mode == "sources":
                written = Written("")
            elif self.strategy.retrieves and not may_answer(found, self.model.config):  # the refusal is known
                written = Written(self.model.config.refusal_sentence)
                yield from self._say(written.text)
            else:
                with self.stages.stage("tokenise"):
                    layouts, hits = fit(self, found)
                written = yield from self._write(layouts, hits, found, encoding)
        except Cancelled:
            written = Written("", finish_reason="cancelled")
        yield Done(conclude(self, found, written, layouts))

    def _check(self) -> None:
        if self.cancel is not None and self.cancel.is_set():
            raise Cancelled("Stopped.")

    def _retrieve(self, search: Search) -> tuple[Encoding | None, Found]:
        """The question's encoding, made once (its cache is kept when the strategy wants it), and the passages."""
        if not self.strategy.retrieves:
            return None, Found((), is_general=False)
        with self.stages.stage("embed"):
            encodings = self.retriever.encode_iter(
                [self.question],
                self.retriever.config.retrieval_instruction,
                return_cache=self.strategy.caches_query,
                cancel=self.cancel,
            )
            encoding = next(iter(encodings))
        with self.stages.stage("search"):
            return encoding, search(encoding.vector)

    def _rerank(self, found: Found) -> Found:
        """The k passages that the model itself finds best, where it was asked to judge."""
        if self.reranked_by is None or found.is_given:
            return found
        if found.is_general or len(found.hits) < 2:
            return replace(found, hits=found.hits[: self.k])
        started_s = time.perf_counter()
        with self.stages.stage("search"):
            texts = [hit.chunk.text for hit in found.hits]
            scores = rerank(self.model, self.question, texts, self.reranked_by, cancel=self.cancel)
        best = sorted(range(len(scores)), key=lambda place: -scores[place])
        self.notes.append(
            f"The model read {len(texts)} passages and put them in its own order, which took "
            f"{time.perf_counter() - started_s:.1f} s."
        )
        return replace(found, hits=tuple(found.hits[place] for place in best[: self.k]))

    def _cell(self, found: Found) -> tuple[Found, Cell | None]:
        """The cell of a table that the question asks for, and the passages with that of its row among them."""
        if self.mode == "sources" or not found.hits or found.is_general or found.is_given:
            return found, None
        with self.stages.stage("search"):
            cell = find_cell(self.question, self.library, found.hits)
        return (replace(found, hits=cell.hits) if cell else found), cell

    # ------------------------------------------------------------ the answer

    def _write(
        self, layouts: Sequence[Layout], hits: Sequence[Hit], found: Found, encoding: Encoding | None
    ) -> Generator[Event, None, Written]:
        self._check()
        prompts = [self._prompt(layout, group, encoding) for layout, group in self._with_passages(layouts, hits)]
        if self.mode != "free" and hits:
            written = self._quote(prompts, hits, found, encoding)
            yield from self._say(written.text)
            return written
        if self.strategy.one_by_one and hits:
            return (yield from self._read_each(prompts, hits))
        return (yield from self._stream(*prompts[0], found))

    def _with_passages(self, layouts: Sequence[Layout], hits: Sequence[Hit]) -> list[tuple[Layout, Sequence[Hit]]]:
        """Each prompt with the passages that stand in it."""
        groups = [[hit] for hit in hits] if self.strategy.one_by_one and hits else [list(hits)]
        return list(zip(layouts, groups, strict=True))

    def _prompt(self, layout: Layout, hits: Sequence[Hit], encoding: Encoding | None) -> one_by_one.Prompt:
        """The layout with the cache that its tail sees."""
        query = encoding.cache if encoding else None
        chunks = [hit.chunk for hit in hits]
        return layout, gather(self.model, layout, self.library, chunks, query, self.stages, self.cancel)

    def _quote(
        self,
        prompts: Sequence[one_by_one.Prompt],
        hits: Sequence[Hit],
        found: Found,
        encoding: Encoding | None,
    ) -> Written:
        passages = [hit.chunk.text for hit in hits]
        scores = [hit.score for hit in hits]
        if found.is_general:
            candidates = quoting.openings(passages)
        else:
            candidates = quoting.shortlist(self.question, passages, scores)
        reads = [(layout.tail, cache) for layout, cache in prompts]
        vector = encoding.vector if encoding else None
        with self.stages.stage("tail"):
            quote = quoting.choose(
                self.model,
                self.question,
                lambda passage: reads[passage if self.strategy.one_by_one else 0],
                candidates,
                vector,
                scores,
                self.cancel,
            )
        features = {} if found.is_general else quote.features
        short = "" if found.is_general else quote.short  # a document as a whole has no few words that answer
        count = self.model.prompts.count(quote.text)
        return Written(quote.text, count, features=features, kind="quote", quote=quote, short=short)

    def _read_each(self, prompts: Sequence[one_by_one.Prompt], hits: Sequence[Hit]) -> Generator[Event, None, Written]:
        reading = yield from one_by_one.read_each(self.model, prompts, hits, self.sampling, self.stages, self.cancel)
        chosen = one_by_one.choose(reading.answers)
        text = self.model.config.refusal_sentence if chosen is None else chosen.text
        yield from self._say(text)
        return Written(
            text,
            reading.new_tokens,
            finish_reason=reading.finish_reason,
            kind="each",
            features=chosen.features if chosen else {},
            passage_answers=reading.answers,
            only=chosen.hit if chosen else None,
        )

    def _stream(self, layout: Layout, cache: one_by_one.Cache, found: Found) -> Generator[Event, None, Written]:
        asked_ms = self.elapsed_ms()
        stream = self.model.stream_ids(layout.tail, cache, self.sampling, cancel=self.cancel)
        try:
            for piece in stream:
                if not self.first_token_ms:
                    self.first_token_ms = asked_ms + stream.stats.ttft_ms
                    yield FirstToken(self.first_token_ms)
                yield Token(piece)
        finally:
            stream.close()
        stats = stream.stats
        self.first_token_ms = asked_ms + stats.ttft_ms if stats.ttft_ms else 0.0  # also where it ended the answer
        self.stages.add("tail", stats.ttft_ms)
        self.stages.add("decode", stats.total_ms - stats.ttft_ms)
        features = {
            "score": found.score,
            "likelihood": stats.mean_log_probability,
            "words": words_feature(stream.text),
        }
        return Written(
            stream.text,
            stats.new_tokens,
            tokens_per_s=stats.tokens_per_s,
            finish_reason=stats.finish_reason,
            kind="free",
            features=features,
        )

    def _say(self, text: str) -> Iterator[Event]:
        """A text that is known as a whole, in pieces."""
        self.first_token_ms = self.elapsed_ms()
        yield FirstToken(self.first_token_ms)
        words = text.split(" ")
        for index, word in enumerate(words):
            yield Token(word if index == 0 else f" {word}")
