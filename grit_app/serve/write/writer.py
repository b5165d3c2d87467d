"""One thread that writes all answers side by side: a token of each in one forward a step, whoever asked.

Answers join and leave between any two steps, and none waits for the end of another.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grit_app.errors import Cancelled
from grit_app.gritlm import GritLM, KVCache, Sampling
from grit_app.gritlm.scheduler import Job
from grit_app.gritlm.write.batched import BatchedAnswer, BatchedDecoder
from grit_app.gritlm.write.decoding import Constraint
from grit_app.serve.write.prefixes import Prefixes
from grit_app.serve.write.stops import StopFinder

logger = logging.getLogger("grit_app.serve")

PROMPT_S = 0.15
"""Of a step go into reading new prompts: so much later the others' next tokens come at most."""


@dataclass(frozen=True)
class TokenScore:
    """A token, its log-probability, and the likeliest ones at its place."""

    token_id: int
    log_probability: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """Text that is certain now, with the scores of the tokens since the piece before, if they were asked for."""

    text: str
    scores: tuple[TokenScore, ...] = ()


@dataclass(frozen=True)
class End:
    """The last event of an answer that was written: why it ended and what it took."""

    finish_reason: str
    """stop, length or cancelled."""

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int


Event = Piece | End | Exception


@dataclass(eq=False)
class Writing:
    """One answer to write. Its events are given to `tell`, in the writer's thread; the last is an End or an error."""

    owner: str
    prompt_ids: Sequence[int]
    """Without a cache the whole prompt, else what follows the cache."""

    sampling: Sampling
    tell: Callable[[Event], None]
    cancel: threading.Event
    cache: KVCache | None = None
    """Given by the caller: then no beginning is looked up, and nothing is kept."""

    constraint: Constraint | None = None
    stops: Sequence[str] = ()
    top_logprobs: int | None = None
    """None: no scores. Otherwise the likeliest so many beside each token's own."""

    answer: BatchedAnswer | None = None
    """Set once it has begun."""

    reused: KVCache | None = None
    """A kept beginning of the prompt."""

    finder: StopFinder | None = None
    scores: list[TokenScore] = field(default_factory=list)

    @property
    def has_begun(self) -> bool:
        """Whether its prompt is read."""
        return self.answer is not None and self.answer.chosen > 0  # forced tokens need no reading

    @property
    def cached_tokens(self) -> int:
        used = self.cache or self.reused
        return used.length if used else 0

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids) + (self.cache.length if self.cache else 0)


class Writer:
    """Writes with one model. `submit` returns at once; `close` ends all."""

    def __init__(self, model: GritLM) -> None:
        self._model = model
        self._prefixes = Prefixes(model.memory)
        self._new: queue.SimpleQueue[Writing | None] = queue.SimpleQueue()
        self._running: list[Writing] = []
        self._twins: list[Writing] = []
        """Whose whole prompt is just being read for another answer, of the same request say: it is not read twice."""

        self._stop = Job("interactive", "writer")
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Answers that are being written."""
        return len(self._running)

    @property
    def kept_bytes(self) -> int:
        """Of keys and values of prompts and answers that were written."""
        return self._prefixes.bytes

    @property
    def waiting(self) -> int:
        return self._new.qsize() + len(self._twins)

    def submit(self, writing: Writing) -> None:
        """Begins an answer with the next step."""
        self._new.put(writing)

    def close(self) -> None:
        """Ends all answers as cancelled."""
        self._stop.set()
        self._new.put(None)

    def _run(self) -> None:
        decoder = BatchedDecoder(self._model, PROMPT_S)
        while not self._stop.is_set():
            self._take(decoder)
            try:
                self._step(decoder)
            except Exception as error:  # a fault of one forward must not end all writing for good
                logger.exception("writing failed")
                decoder.close()
                self._give_up(error)
        decoder.close()
        self._give_up(Cancelled("The server is ending."))

    def _give_up(self, error: Exception) -> None:
        for writing in [*self._running, *self._twins]:
            writing.tell(error)
        self._running.clear()
        self._twins.clear()

    def _take(self, decoder: BatchedDecoder) -> None:
        """Begins what was submitted; waits if there is nothing to write at all."""
        while not (self._running or self._twins) or not self._new.empty():
            writing = self._new.get()
            if writing is None:
                return
            if self._is_being_read(writing):
                self._twins.append(writing)
            else:
                self._start(writing, decoder)

    def _start(self, writing: Writing, decoder: BatchedDecoder) -> None:
        try:
            self._begin(writing, decoder)
            self._running.append(writing)
        except Exception as error:
            writing.tell(error)

    def _is_being_read(self, writing: Writing) -> bool:
        return writing.cache is None and any(not twin.has_begun for twin in self._twins_of(writing))

    def _twins_of(self, writing: Writing) -> list[Writing]:
        """Running answers to the same prompt of the same owner."""
        return [
            other
            for other in self._running
            if other.cache is None and other.owner == writing.owner and other.prompt_ids == writing.prompt_ids
        ]

    def _start_twins(self, decoder: BatchedDecoder) -> None:
        """Those whose prompt is read by now: from what that left."""
        for writing in [writing for writing in self._twins if not self._is_being_read(writing)]:
            self._twins.remove(writing)
            for twin in self._twins_of(writing)[:1]:
                self._prefixes.keep(twin.owner, harvest(twin, self._model))
            self._start(writing, decoder)

    def _begin(self, writing: Writing, decoder: BatchedDecoder) -> None:
        writing.finder = StopFinder(writing.stops)
        tail, cache = list(writing.prompt_ids), writing.cache
        if cache is None:
            cache = writing.reused = self._prefixes.find(writing.owner, tail)
            tail = tail[cache.length :] if cache else tail
        writing.answer = decoder.add(tail, cache, writing.sampling, writing.constraint)
        if writing.top_logprobs is not None:
            writing.answer.observe = lambda token, logits: writing.scores.append(
                score_of(token, logits, writing.top_logprobs or 0)
            )

    def _step(self, decoder: BatchedDecoder) -> None:
        """One token of every answer, and what each of them has to be told."""
        for writing in [writing for writing in self._running if writing.cancel.is_set()]:
            self._end(writing, decoder, "cancelled")
        self._start_twins(decoder)
        if not self._running:
            return
        pieces = {id(answer): piece for answer, piece in decoder.step(self._stop)}
        for writing in list(self._running):
            assert writing.answer is not None and writing.finder is not None
            self._tell(writing, pieces.get(id(writing.answer), ""))
            if writing.finder.found:
                self._end(writing, decoder, "stop")
            elif writing.answer.finish != "running":
                self._end(writing, decoder, writing.answer.finish)

    def _tell(self, writing: Writing, piece: str) -> None:
        assert writing.finder is not None
        text = writing.finder.push(piece)
        if text or (writing.scores and not writing.finder.found):
            writing.tell(Piece(text, tuple(writing.scores)))
            writing.scores.clear()

    def _end(self, writing: Writing, decoder: BatchedDecoder, reason: str) -> None:
        assert writing.answer is not None and writing.finder is not None
        if rest := writing.finder.flush():
            writing.tell(Piece(rest, tuple(writing.scores)))
        decoder.remove(writing.answer)
        self._running.remove(writing)
        if writing.cache is None:
            self._prefixes.keep(writing.owner, harvest(writing, self._model))
        writing.tell(End(reason, writing.prompt_tokens, writing.cached_tokens, len(writing.answer.token_ids)))


def score_of(token_id: int, logits: Tensor | None, count: int) -> TokenScore:
    """The token's place among all; a forced token has probability 1."""
    if logits is None:
        return TokenScore(token_id, 0.0, ((token_id, 0.0),) if count else ())
    scores = logits.log_softmax(dim=-1)
    best = scores.topk(min(count, len(scores))) if count else None
    top = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)) if best else ()
    return TokenScore(token_id, float(scores[token_id]), top)


def harvest(writing: Writing, model: GritLM) -> KVCache:
    """Keys and values of the prompt and of what was written and read, with memory of their own."""
    assert writing.answer is not None
    space = writing.answer.space
    ids = [*writing.prompt_ids, *writing.answer.token_ids][: space.length]
    return KVCache(
        keys=torch.stack([keys[:, : space.length].to(model.device) for keys in space.keys]),
        values=torch.stack([values[:, : space.length].to(model.device) for values in space.values]),
        ids=torch.tensor(ids, dtype=torch.int32),
        header_length=0,
        attention="causal",
    )
