"""One thread that embeds short requests of all callers in common batches.

While one forward runs, the next requests gather; the next forward takes a text of each owner in turn, as many as its
budget of tokens holds. A request alone goes out at once: nothing waits for company.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from grit_app.errors import Cancelled
from grit_app.gritlm import Encoding, GritLM
from grit_app.gritlm.embed.encoding import batch_tokens, encode_prompts, tokenised
from grit_app.gritlm.prompts import EmbedPrompt
from grit_app.gritlm.scheduler import Job

BATCH_SIZE = 32
"""In texts of 256 tokens; see `GritLM.encode_iter`."""

POLL_S = 0.1


@dataclass(eq=False)
class _Request:
    """Texts of one caller, and what became of them."""

    owner: str
    prompts: Sequence[EmbedPrompt]
    results: list[Encoding | None]
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, eq=False)
class _Text:
    request: _Request
    index: int

    @property
    def length(self) -> int:
        return len(self.request.prompts[self.index].ids)


class Embedder:
    """Embeds with one model. Safe to use from several threads; `close` ends all."""

    def __init__(self, model: GritLM, count_batch: Callable[[], None]) -> None:
        """count_batch   called once for each forward"""
        self._model = model
        self._count_batch = count_batch
        self._waiting: dict[str, deque[_Text]] = {}  # by owner, whose turn it is first
        self._changed = threading.Condition()
        self._stop = Job("interactive", "embedder")
        self._thread = threading.Thread(target=self._run, name="embedder", daemon=True)
        self._thread.start()

    def encode(
        self,
        owner: str,
        texts: Sequence[str],
        instruction: str,
        job: threading.Event,
        max_length: int | None = None,
    ) -> list[Encoding]:
        """As `GritLM.encode_iter` gives them. Raises Cancelled once `job` is set, and what the model raises."""
        prompts = tokenised(
            self._model, texts, instruction, min(max_length or self._model.context, self._model.context)
        )
        request = _Request(owner, prompts, [None] * len(prompts))
        with self._changed:
            self._waiting.setdefault(owner, deque()).extend(_Text(request, index) for index in range(len(prompts)))
            self._changed.notify()
        while not request.done.wait(POLL_S):
            if job.is_set() or self._stop.is_set():
                self._forget(request)
                raise Cancelled("Embedding was stopped.")
        if request.error is not None:
            raise request.error
        return [result for result in request.results if result is not None]

    def close(self) -> None:
        """Ends the thread after its present forward."""
        self._stop.set()
        with self._changed:
            self._changed.notify()

    def _forget(self, request: _Request) -> None:
        with self._changed:
            mine = self._waiting.get(request.owner, deque())
            kept = deque(text for text in mine if text.request is not request)
            self._waiting[request.owner] = kept
            if not kept:
                del self._waiting[request.owner]

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._stop.is_set())
                if self._stop.is_set():
                    return
                batch = self._take()
            try:
                self._embed(batch)
            except Exception as error:  # a fault of one forward must not end all embedding for good
                for text in batch:
                    text.request.error = error
                    text.request.done.set()
                    self._forget(text.request)

    def _take(self) -> list[_Text]:
        """The texts of the next forward, of each owner in turn. Call with the lock held."""
        budget = batch_tokens(BATCH_SIZE, self._model.device, self._model.scheduler.speed("stock"))
        batch: list[_Text] = []
        longest = total = 0
        full: set[str] = set()
        while turn := [owner for owner in self._waiting if owner not in full]:
            for owner in turn:
                text = self._waiting[owner][0]
                padded = (len(batch) + 1) * max(longest, text.length)
                # Padding may cost as much as the texts themselves, not more.
                if batch and (padded > budget or padded > 2 * (total + text.length)):
                    full.add(owner)
                    continue
                batch.append(self._waiting[owner].popleft())
                longest, total = max(longest, text.length), total + text.length
                if not self._waiting[owner]:
                    del self._waiting[owner]
        for owner in [text.request.owner for text in batch]:  # who was served is the last to be served again
            if owner in self._waiting:
                self._waiting[owner] = self._waiting.pop(owner)
        return batch

    def _embed(self, batch: Sequence[_Text]) -> None:
        prompts = [text.request.prompts[text.index] for text in batch]
        for text, encoding in zip(batch, encode_prompts(self._model, prompts, self._stop), strict=True):
            text.request.results[text.index] = encoding
        self._count_batch()
        for request in {text.request for text in batch}:
            if all(result is not None for result in request.results):
                request.done.set()
