"""An answer during which the model may search on its own: ask, read, ask again, answer.

    for event in answer_searching("Which river flows where Kepler was born?", library, model, searches=2):
        match event:
            case Searching(query): ...
            case Done(answer): ...

The first search is the question itself. Whatever the model asks for is embedded by the same weights in a pass of its
own, and the passages found are read from their KV caches: of every further step only the question, the offer and the
list of searches are computed. A search that brings no new passage, or the last one that is allowed, is followed by the
plain question, which has to be answered.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from grit_app.documents.library import Hit, Library
from grit_app.errors import InputError
from grit_app.gritlm import GritLM, Sampling
from grit_app.rag.answering import answer, check_question
from grit_app.rag.events import Answer, Done, Event, FirstToken, Searching, Token
from grit_app.rag.searching.protocol import may_become_call, offered, query_in

MOST_SEARCHES = 8


@dataclass
class _Spent:
    """What the steps took together."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    ms: float = 0.0

    def add(self, step: Answer) -> None:
        self.prompt_tokens += step.prompt_tokens
        self.cached_tokens += step.cached_tokens
        self.new_tokens += step.new_tokens
        self.ms += step.timings_ms["total"]

    def over(self, last: Answer, question: str, searches: Sequence[str]) -> Answer:
        """The last step's answer with the counts of all steps, and its two times since the question."""
        before_ms = self.ms
        self.add(last)
        times = last.timings_ms | {name: last.timings_ms[name] + before_ms for name in ("first_token", "total")}
        return replace(
            last,
            question=question,
            searches=tuple(searches),
            timings_ms=times,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            new_tokens=self.new_tokens,
        )


def answer_searching(
    question: str,
    library: Library,
    model: GritLM,
    strategy: str | None = None,
    k: int | None = None,
    documents: Sequence[str] | None = None,
    sampling: Sampling | None = None,
    cancel: threading.Event | None = None,
    *,
    searches: int,
) -> Iterator[Event]:
    """The events of `answer`, with Searching before each search that the model asked for.

    k          passages of each search
    searches   how many the model may ask for, 1 … 8
    strategy   None: the checkpoint's. Passages are read together, so one that reads them one by one is refused

    Raises InputError as `answer` does, and for `searches` out of range.
    """
    name = strategy or model.config.default_strategy
    row = check_question(question, name, k)
    if not 1 <= searches <= MOST_SEARCHES:
        raise InputError(f"searches must lie in 1 … {MOST_SEARCHES}, not {searches}.")
    if not row.retrieves or row.one_by_one:
        raise InputError(f"The strategy {name} does not read several passages together. Use docs_cache for searches.")
    asked: list[str] = []
    hits: list[Hit] = []
    spent = _Spent()
    query = question.strip()
    while True:
        new = _new_hits(library, model, query, k or model.config.default_k, documents, hits, cancel)
        hits += new
        may_search = bool(new) and len(asked) < searches
        prompt = offered(question, asked) if may_search else question
        step = answer(prompt, library, model, name, mode="free", sampling=sampling, cancel=cancel, hits=tuple(hits))
        done = yield from _told(step, may_search)
        wanted = query_in(done.text) if may_search else None
        if wanted is None:
            yield Done(spent.over(done, question.strip(), asked))
            return
        spent.add(done)
        asked.append(wanted)
        query = wanted
        yield Searching(wanted)


def _new_hits(
    library: Library,
    model: GritLM,
    query: str,
    k: int,
    documents: Sequence[str] | None,
    known: Sequence[Hit],
    cancel: threading.Event | None,
) -> list[Hit]:
    """The k best passages for a query that were not found before, best first."""
    vector = model.encode([query], model.config.retrieval_instruction, cancel=cancel)[0]
    seen = {hit.chunk.id for hit in known}
    return [hit for hit in library.search(vector, query, k, documents) if hit.chunk.id not in seen]


def _told(step: Iterator[Event], may_search: bool) -> Generator[Event, None, Answer]:
    """The events of one step but its Done; tokens are held back while they may still be a call."""
    held: list[Event] = []
    text = ""
    for event in step:
        if isinstance(event, Done):
            if not (may_search and query_in(event.answer.text)):
                yield from held
            return event.answer
        if may_search and isinstance(event, FirstToken | Token):
            held.append(event)
            text += event.text if isinstance(event, Token) else ""
            if may_become_call(text):
                continue
            yield from held
            held.clear()
        else:
            yield event
    raise AssertionError("an answer ends with Done")
