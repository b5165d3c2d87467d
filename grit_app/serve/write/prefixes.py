"""Keys and values of prompts and their answers, kept so that the next turn of a chat reads only what is new.

A cache is found by the ids that it shares with a prompt from the beginning, among those of the same owner: one
visitor's timing tells nothing about another's prompts.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from grit_app.gritlm import KVCache

LEAST_TOKENS = 16
"""Shorter beginnings are read again: copying them saves nothing."""


class Prefixes:
    """The caches of all owners within one budget of bytes; the least recently used go first. Thread-safe."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._caches: OrderedDict[tuple[str, tuple[int, ...]], KVCache] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def find(self, owner: str, ids: list[int]) -> KVCache | None:
        """The longest kept beginning of `ids`, at most all but the last one: that is read for its logits."""
        with self._lock:
            best, shared = None, LEAST_TOKENS - 1
            for key in self._caches:
                if key[0] == owner and (common := _common(key[1], ids)) > shared:
                    best, shared = key, common
            if best is None:
                return None
            self._caches.move_to_end(best)
            return self._caches[best].slice(0, shared)

    def keep(self, owner: str, cache: KVCache) -> None:
        """Keeps a causal cache that begins at position 0, in place of those that are beginnings of it."""
        ids = tuple(cache.ids.tolist())
        if len(ids) < LEAST_TOKENS or cache.nbytes > self._budget:
            return
        with self._lock:
            for key in [key for key in self._caches if key[0] == owner and key[1] == ids[: len(key[1])]]:
                self.bytes -= self._caches.pop(key).nbytes
            self._caches[owner, ids] = cache
            self.bytes += cache.nbytes
            while self.bytes > self._budget:
                self.bytes -= self._caches.popitem(last=False)[1].nbytes

    def clear(self, owner: str | None = None) -> None:
        """Forgets one owner's caches, or all."""
        with self._lock:
            for key in [key for key in self._caches if owner is None or key[0] == owner]:
                self.bytes -= self._caches.pop(key).nbytes


def _common(known: tuple[int, ...], ids: list[int]) -> int:
    most = min(len(known), len(ids) - 1)
    for index in range(most):
        if known[index] != ids[index]:
            return index
    return most
