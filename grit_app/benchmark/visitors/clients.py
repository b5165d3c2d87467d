"""Programs that use /v1 beside the pages, each with a key of its own: what they do, and how each answer is checked.

Every client keeps a document with codes that nobody else has, and all ask with the same words. An answer is `mixed` if
it holds another client's code or a page visitor's, `wrong` if it lacks the client's own, or if a text's vector is not
the one that the idle server gave.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Final

import httpx
import numpy as np

from grit_app.benchmark.visitors.tasks import PLACES, REPLY_TOKENS, TEXTS, Outcome, leak

ANSWER_S: Final = 300.0
LEAST_COSINE: Final = 0.999
"""Of a text's vector among other texts with its vector alone: bfloat16 rounds otherwise in another batch."""

BUSY: Final = (429, 503)


class Client:
    """One program with one connection. Use it in one thread, as a context."""

    def __init__(self, url: str, number: int, key: str, codes: Sequence[str], foreign: Sequence[str]) -> None:
        self.number, self.phase = number, "alone"
        self._codes, self._foreign = codes, foreign
        self._texts = [f"The code of the {place} is {code}." for place, code in zip(PLACES, codes, strict=True)]
        self._known: list[np.ndarray] = []
        self._random = random.Random(number)
        self._closing = ExitStack()
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1", headers={"authorization": f"Bearer {key}"}, timeout=ANSWER_S
        )

    def __enter__(self) -> Client:
        self._closing.enter_context(self._http)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def prepare(self) -> None:
        """The client's document, and its vectors from the idle server. Raises httpx.HTTPError."""
        note = " ".join(self._texts)
        self._post("documents", files={"file": ("codes.txt", note.encode())})
        self._known = self._vectors()

    def act(self) -> Outcome:
        """One of the things that clients do."""
        return self._random.choice((self.embed, self.chat, self.chat, self.ask, self.rerank))()

    def embed(self) -> Outcome:
        def run() -> tuple[str, str, float | None]:
            cosines = [float(a @ b) for a, b in zip(self._vectors(), self._known, strict=True)]
            return ("ok" if min(cosines) >= LEAST_COSINE else "wrong"), f"cosine {min(cosines):.4f}", None

        return self._done("/v1/embeddings", run)

    def chat(self) -> Outcome:
        """A streamed reply to a message that holds the client's own code."""
        body = {
            "messages": [{"role": "user", "content": f"Repeat this: the code is {self._codes[0]}."}],
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
            "stream": True,
        }

        def run() -> tuple[str, str, float | None]:
            start, first_ms, text = time.perf_counter(), None, ""
            with self._http.stream("POST", "chat/completions", json=body) as reply:
                if reply.is_error:
                    reply.read()
                reply.raise_for_status()
                for line in reply.iter_lines():
                    piece = _piece(line)
                    if piece and first_ms is None:
                        first_ms = 1e3 * (time.perf_counter() - start)
                    text += piece
            return ("ok" if text else "wrong"), text, first_ms

        return self._done("/v1/chat/completions", run)

    def ask(self) -> Outcome:
        """About a place of the client's own document: the same words that every other client uses."""
        place = self._random.randrange(len(PLACES))
        question = f"What is the code of the {PLACES[place]}?"

        def run() -> tuple[str, str, float | None]:
            answer = str(self._post("answers", json={"question": question, "mode": "quote"})["answer"])
            return ("ok" if self._codes[place] in answer else "wrong"), answer, None

        return self._done("/v1/answers", run)

    def rerank(self) -> Outcome:
        documents = [*TEXTS, self._texts[0]]
        body = {"query": f"What is the code of the {PLACES[0]}?", "documents": documents, "return_documents": True}

        def run() -> tuple[str, str, float | None]:
            reply = json.dumps(self._post("rerank", json=body))
            return ("ok" if self._codes[0] in reply else "wrong"), reply, None

        return self._done("/v1/rerank", run)

    def _vectors(self) -> list[np.ndarray]:
        data = self._post("embeddings", json={"input": self._texts})["data"]
        return [np.array(one["embedding"], dtype=np.float32) for one in data]

    def _post(self, path: str, **body: Any) -> dict[str, Any]:
        reply: dict[str, Any] = self._http.post(path, **body).raise_for_status().json()
        return reply

    def _done(self, action: str, work: Callable[[], tuple[str, str, float | None]]) -> Outcome:
        start, first_ms = time.perf_counter(), None
        try:
            result, detail, first_ms = work()
        except httpx.HTTPStatusError as error:
            result = "busy" if error.response.status_code in BUSY else "error"
            detail = error.response.text
            if result == "busy":
                time.sleep(float(error.response.headers.get("retry-after", 1)))
        total_ms = 1e3 * (time.perf_counter() - start)
        if leaked := leak(detail, self._foreign):
            result, detail = "mixed", f"shows {leaked}"
        detail = "" if result == "ok" else detail[:300]
        return Outcome(self.phase, self.number, action, result, total_ms, first_ms, detail=detail)


def _piece(line: str) -> str:
    """The text that one line of a stream adds."""
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(line.removeprefix("data: "))["choices"]
    return str(choices[0]["delta"].get("content") or "") if choices else ""
