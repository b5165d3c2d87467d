"""One question over one long document, by several strategies: answers with the time of every piece of text.

    race = run(model, question, text, ["rag_doc_query", "docs_cache"])
    for lane in race.lanes: lane.ttft_ms, lane.text, lane.at(120.0)      # the words that stood there after 120 ms

Each lane runs alone on the device, after a run of its own that is thrown away. Its clock starts with the question and
holds whatever then remains to be done: tokenise, embed the question where its cache is used, join caches, read the
tail, decode. Caches of the document are made before: that happens when a document is added.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grit_app.benchmark.measure.cases import read_block
from grit_app.benchmark.timing import synchronize
from grit_app.gritlm import GritLM, KVCache, Sampling, join
from grit_app.gritlm.errors import Cancelled, InputError
from grit_app.rag.quoting import Candidate, choose, shortlist
from grit_app.rag.strategies import build_layout


@dataclass(frozen=True)
class Lane:
    """One strategy's run, in milliseconds since the question arrived."""

    strategy: str
    pieces: tuple[tuple[float, int], ...]
    """(time, characters of `text` that stood there then), ascending."""

    text: str
    ttft_ms: float
    total_ms: float
    join_ms: float
    """Of it, joining caches."""

    cached_tokens: int
    computed_tokens: int
    cache_bytes: int
    prepare_ms: float
    """What making the document's caches took, before the question."""

    finish_reason: str

    def at(self, elapsed_ms: float) -> str:
        """The answer as far as it stood `elapsed_ms` after the question."""
        length = max((count for when, count in self.pieces if when <= elapsed_ms), default=0)
        return self.text[:length]


@dataclass(frozen=True)
class Race:
    """All lanes of one question."""

    question: str
    doc_tokens: int
    lanes: tuple[Lane, ...]

    @property
    def speedup(self) -> float:
        """The first lane's time to the first token over the last one's."""
        return self.lanes[0].ttft_ms / self.lanes[-1].ttft_ms

    @property
    def same_answer(self) -> bool:
        return len({lane.text for lane in self.lanes}) == 1


def cut_to_tokens(model: GritLM, text: str, tokens: int) -> tuple[str, int]:
    """The beginning of a text with at most `tokens` tokens, ending with a sentence if it can; and its length."""
    ids = model.prompts.continuation(text)
    if len(ids) > tokens:
        text = model.prompts.decode(ids[:tokens])
        end = max(text.rfind(mark) for mark in (". ", ".\n", "\n"))
        text = text[: end + 1] if end > len(text) // 2 else text
    return text.strip(), len(model.prompts.continuation(text.strip()))


def run(
    model: GritLM,
    question: str,
    text: str,
    strategies: Sequence[str],
    *,
    sampling: Sampling | None = None,
    is_quoting: bool = False,
    on_lane: Callable[[str], None] | None = None,
    cancel: threading.Event | None = None,
) -> Race:
    """All strategies, one after the other. `on_lane` is called with a strategy's name when its turn begins.

    is_quoting   as the app answers in quote mode: the model compares the few sentences whose words fit best, and the
                 chosen one stands there at once. Otherwise it writes, token by token.

    Raises InputError for an empty question or text, or one beyond the model's context; Cancelled.
    """
    if not question.strip() or not text.strip():
        raise InputError("A race needs a question and a document.")
    sampling = sampling or Sampling(max_new_tokens=48)
    tokens = len(model.prompts.continuation(text))
    if tokens + sampling.max_new_tokens + 256 > model.context:
        raise InputError(
            f"{tokens:,} tokens of document do not fit into the model's context of {model.context:,}. "
            "Choose a shorter one."
        )
    candidates = shortlist(question, [text], [1.0]) if is_quoting else []
    lanes = []
    for strategy in strategies:
        if on_lane is not None:
            on_lane(strategy)
        lanes.append(_lane(model, strategy, question, text, sampling, candidates, cancel))
    return Race(question, tokens, tuple(lanes))


@dataclass(frozen=True)
class _Run:
    """One timed answer; times in milliseconds since the question."""

    pieces: list[tuple[float, int]]
    text: str
    ttft_ms: float
    total_ms: float
    join_ms: float
    finish_reason: str


def _lane(
    model: GritLM,
    strategy: str,
    question: str,
    text: str,
    sampling: Sampling,
    candidates: Sequence[Candidate],
    cancel: threading.Event | None,
) -> Lane:
    start = time.perf_counter()
    layout = build_layout(strategy, model.prompts, model.config, question, [text])
    kept = [read_block(model, block, text) for block in layout.blocks if block.role == "document"]
    synchronize(model.device)
    prepare_ms = (time.perf_counter() - start) * 1e3 if kept else 0.0
    _answer(model, strategy, question, text, kept, Sampling(max_new_tokens=1), candidates, cancel)
    timed = _answer(model, strategy, question, text, kept, sampling, candidates, cancel)
    return Lane(
        strategy=strategy,
        pieces=tuple(timed.pieces),
        text=timed.text,
        ttft_ms=timed.ttft_ms,
        total_ms=timed.total_ms,
        join_ms=timed.join_ms,
        cached_tokens=layout.cached_length,
        computed_tokens=len(layout.tail),
        cache_bytes=sum(cache.nbytes for cache in kept),
        prepare_ms=prepare_ms,
        finish_reason=timed.finish_reason,
    )


def _answer(
    model: GritLM,
    strategy: str,
    question: str,
    text: str,
    kept: Sequence[KVCache],
    sampling: Sampling,
    candidates: Sequence[Candidate],
    cancel: threading.Event | None,
) -> _Run:
    synchronize(model.device)
    start = time.perf_counter()
    layout = build_layout(strategy, model.prompts, model.config, question, [text])
    documents = iter(kept)
    instruction = model.config.retrieval_instruction
    caches = [
        next(documents) if block.role == "document" else read_block(model, block, question, instruction)
        for block in layout.blocks
    ]
    joining = time.perf_counter()
    cache = join(caches, model.rope, positions=layout.positions, keep_headers=layout.keep_headers) if caches else None
    synchronize(model.device)
    ready = time.perf_counter()
    join_ms = (ready - joining) * 1e3
    if cancel is not None and cancel.is_set():
        raise Cancelled("The race was stopped.")
    if candidates:
        quote = choose(model, question, layout.tail, cache, candidates).text
        done_ms = (time.perf_counter() - start) * 1e3
        return _Run([(done_ms, len(quote))], quote, done_ms, done_ms, join_ms, "stop")
    stream = model.stream_ids(layout.tail, cache, sampling, cancel=cancel)
    pieces, length = [], 0
    asked_ms = (time.perf_counter() - start) * 1e3
    for piece in stream:
        length += len(piece)
        pieces.append(((time.perf_counter() - start) * 1e3, length))
    total_ms = (time.perf_counter() - start) * 1e3
    stats = stream.stats
    if stats.finish_reason == "cancelled":
        raise Cancelled("The race was stopped.")
    return _Run(pieces, stream.text, asked_ms + stats.ttft_ms, total_ms, join_ms, stats.finish_reason)
