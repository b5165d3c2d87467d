"""Writing by another server of OpenAI's protocol, vLLM's or llama.cpp's say: `--engine openai --base_url URL`.

The model here still embeds, searches and quotes; chats and free answers are written there. A prompt goes there as text:
keys and values stay where they were made, so strategies that reuse them are refused (see `rag.answering.answer`).
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from grit_app.errors import Busy, ModelError
from grit_app.gritlm import GenerationStats, GritLM, KVCache, Sampling
from grit_app.gritlm.prompts import ASSISTANT, USER
from grit_app.gritlm.write.decoding import Constraint
from grit_app.rag.strategies import REFERENCE

KEY_VARIABLE: Final = "OPENAI_API_KEY"
"""Where the other server's key is read from, as OpenAI's own clients do."""

POLL_S: Final = 0.1
TIMEOUT: Final = httpx.Timeout(10.0, read=300.0)


@dataclass(frozen=True)
class Engine:
    """The other server."""

    base_url: str
    """As OpenAI's clients take it: with /v1 at its end."""

    model: str = ""
    """Empty: the first one that it lists."""

    @property
    def place(self) -> str:
        return httpx.URL(self.base_url).netloc.decode()

    def client(self) -> httpx.Client:
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.base_url.rstrip("/"), headers=headers, timeout=TIMEOUT)

    def events(self, messages: Sequence[Mapping[str, str]], sampling: Sampling) -> Iterator[dict[str, Any]]:
        """The chunks of a streamed answer. Raises ModelError or Busy with a sentence."""
        body: dict[str, Any] = {
            "messages": [dict(one) for one in messages],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        try:
            with self.client() as http:
                body["model"] = self.model or self._first_model(http)
                with http.stream("POST", "/chat/completions", json=body) as answer:
                    self._check(answer)
                    for line in answer.iter_lines():
                        if line.startswith("data:") and (data := line.removeprefix("data:").strip()) != "[DONE]":
                            yield json.loads(data)
        except httpx.HTTPError as error:
            raise ModelError(
                f"The server at {self.place} does not answer ({type(error).__name__}). Start it, or mend --base_url."
            ) from error
        except ValueError as error:
            raise ModelError(f"The server at {self.place} sends no chat completions. Check --base_url.") from error

    def _first_model(self, http: httpx.Client) -> str:
        answer = http.get("/models")
        self._check(answer)
        listed = answer.json().get("data") or [{}]
        return str(listed[0].get("id", ""))

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code == 429 or answer.status_code == 503:
            raise Busy(f"The server at {self.place} is busy. Wait a moment, then try again.")
        if answer.is_error:
            answer.read()
            raise ModelError(f"The server at {self.place} refused ({answer.status_code}): {answer.text[:300].strip()}")


class RemoteStream(Iterator[str]):
    """An answer written elsewhere; read it as a TokenStream."""

    def __init__(self, events: Iterator[dict[str, Any]], cancel: threading.Event | None) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        """None are known: the other vocabulary is its own."""

        self._inbox: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()
        self._events = events
        self._cancel = cancel
        self._closed = threading.Event()
        self._usage: dict[str, Any] = {}
        self._pieces_seen = 0
        self._reason: Any = "running"
        self._started_s = self._first_s = self._ended_s = 0.0
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def read_all(self) -> str:
        for _ in self:
            pass
        return self.text

    def close(self) -> None:
        """Stops the answer."""
        self._closed.set()
        self._pieces.close()
        if self._reason == "running":
            self._reason = "cancelled"

    def _read(self) -> None:
        """In a thread of its own: a server that says nothing must not keep anybody from stopping."""
        try:
            for event in self._events:
                self._inbox.put(event)
                if self._closed.is_set():
                    break
            self._inbox.put(None)
        except Exception as error:
            self._inbox.put(error)
        finally:
            getattr(self._events, "close", lambda: None)()

    def _run(self) -> Generator[str, None, None]:
        self._started_s = time.perf_counter()
        threading.Thread(target=self._read, name="remote-answer", daemon=True).start()
        try:
            while (event := self._next_event()) is not None:
                self._usage = event.get("usage") or self._usage
                for choice in event.get("choices") or []:
                    piece = (choice.get("delta") or {}).get("content") or ""
                    if choice.get("finish_reason"):
                        self._reason = "length" if choice["finish_reason"] == "length" else "stop"
                    if piece:
                        self._first_s = self._first_s or time.perf_counter()
                        self._pieces_seen += 1
                        self.text += piece
                        yield piece
        finally:
            self._ended_s = time.perf_counter()
            self._closed.set()

    def _next_event(self) -> dict[str, Any] | None:
        while True:
            if self._cancel is not None and self._cancel.is_set():
                self._reason = "cancelled"
                return None
            try:
                event = self._inbox.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if isinstance(event, Exception):
                raise event
            return event

    @property
    def stats(self) -> GenerationStats:
        """As the other server counts, timed here: the way there and back is a part of it."""
        end_s = self._ended_s or time.perf_counter()
        count = int(self._usage.get("completion_tokens") or self._pieces_seen)
        writing_s = end_s - self._first_s
        first_ms = (self._first_s - self._started_s) * 1e3 if self._first_s else 0.0
        details = self._usage.get("prompt_tokens_details") or {}
        return GenerationStats(
            prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
            cached_tokens=int(details.get("cached_tokens") or 0),
            new_tokens=count,
            prefill_ms=first_ms,
            ttft_ms=first_ms,
            total_ms=(end_s - self._started_s) * 1e3 if self._started_s else 0.0,
            tokens_per_s=(count - 1) / writing_s if count > 1 and self._first_s and writing_s > 0 else 0.0,
            finish_reason=self._reason,
        )


class RemoteGritLM(GritLM):
    """A model that embeds here and writes there."""

    engine: Engine

    def describe(self) -> dict[str, Any]:
        facts = super().describe()
        return facts | {"name": f"{facts['name']}, written by {self.engine.model or 'the server'} at {self.writes_at}"}

    def stream(
        self,
        messages: Sequence[Mapping[str, str]],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        cancel: threading.Event | None = None,
        conversation: object = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
    ) -> Any:
        """As GritLM's. What is kept of a conversation is the other server's to keep; its guards are its own too."""
        return RemoteStream(self.engine.events(messages, Sampling(max_new_tokens, temperature, top_p, seed)), cancel)

    def stream_ids(
        self,
        tail_ids: Sequence[int],
        cache: KVCache | None = None,
        sampling: Sampling | None = None,
        constraint: Constraint | None = None,
        cancel: threading.Event | None = None,
        beyond_context: bool = False,
    ) -> Any:
        """As GritLM's, for one turn of the user's and nothing from a cache. Raises ModelError for another prompt."""
        if cache is not None or constraint is not None:
            raise ModelError("A remote engine takes neither keys and values nor lists of tokens. Use --engine own.")
        said = self.prompts.decode(tail_ids).partition(USER)[2].rpartition(f"\n{ASSISTANT}")[0]
        return RemoteStream(self.engine.events([{"role": "user", "content": said}], sampling or Sampling()), cancel)


def written_by(model: GritLM, engine: Engine) -> RemoteGritLM:
    """The model with its writing done by `engine`; free answers from plain prompts are its default."""
    remote = object.__new__(RemoteGritLM)  # the same parts: a second construction would hook the layers twice
    remote.__dict__.update(model.__dict__)
    remote.engine, remote.writes_at = engine, engine.place
    # What was fitted for the model's own likelihoods says nothing of another's.
    remote.config = model.config.overridden(default_strategy=REFERENCE, answer_mode="free", confidence={})
    return remote
