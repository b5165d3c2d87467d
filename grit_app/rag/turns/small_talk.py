"""Talk about the app itself: what visitors ask it first ("Who are you?"), and what is true.

A small model does not know who or where it is. The same model that writes also finds the nearest of the known requests
by its embedding, and reads it with its reply as an example before it answers. The words are still its own.
"""

from __future__ import annotations

import json
import threading
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grit_app.gritlm import GritLM
from grit_app.places import ASSETS

FILE: Final = ASSETS / "small_talk.jsonl"
"""Rows: requests (several ways to ask one thing), reply. `{name}` and `{millions}` are the model's."""

LONGEST_REQUEST: Final = 120
"""Characters. Longer messages are about something else, and are not compared."""


@dataclass(frozen=True)
class Exchange:
    """One known request and its reply."""

    request: str
    reply: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """As two turns of a conversation."""
        return [{"role": "user", "content": self.request}, {"role": "assistant", "content": self.reply}]


def exchanges(name: str, millions: int, path: Path = FILE) -> list[Exchange]:
    """Every known request with its reply, as a model of this name and size says it."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Exchange(request, row["reply"].replace("{name}", name).replace("{millions}", str(millions)))
        for row in rows
        for request in row["requests"]
    ]


class SmallTalk:
    """The known requests under one model's embedding. Does not hold the model, so that an unloaded one goes away."""

    def __init__(self, model: GritLM) -> None:
        self._least = model.config.small_talk_similarity
        self._exchanges: list[Exchange] = []
        self._vectors: NDArray[np.float32] | None = None
        if self._least > 0:
            self._exchanges = exchanges(model.name, round(model.hf_model.num_parameters() / 1e6))
            self._vectors = model.encode([one.request for one in self._exchanges], normalize=True)

    def nearest(self, model: GritLM, request: str, cancel: threading.Event | None = None) -> Exchange | None:
        """The known request that this one means; None if none is as near as the checkpoint asks."""
        if self._vectors is None or not request.strip() or len(request) > LONGEST_REQUEST:
            return None
        similarities = self._vectors @ model.encode([request], normalize=True, cancel=cancel)[0]
        best = int(similarities.argmax())
        return self._exchanges[best] if similarities[best] >= self._least else None


_known: weakref.WeakKeyDictionary[GritLM, SmallTalk] = weakref.WeakKeyDictionary()
_guard = threading.Lock()


def small_talk(model: GritLM) -> SmallTalk:
    """The model's small talk, embedded once."""
    with _guard:
        found = _known.get(model)
    if found is None:
        found = SmallTalk(model)
        with _guard:
            _known[model] = found
    return found


def with_example(
    model: GritLM, messages: list[dict[str, str]], cancel: threading.Event | None = None
) -> tuple[list[dict[str, str]], Exchange | None]:
    """A conversation for the model to answer, with the exchange that its last message means before that message.

    A conversation with a system message stays as it is: there the visitor says who the model shall be.
    """
    if not messages or messages[0]["role"] == "system" or messages[-1]["role"] != "user":
        return messages, None
    found = small_talk(model).nearest(model, messages[-1]["content"], cancel)
    return (messages, None) if found is None else ([*messages[:-1], *found.messages, messages[-1]], found)
