"""Keys and values of prompts and their answers, kept so that the next turn of a chat reads only what is new.

A cache is found by the ids that it shares with a prompt from the beginning, among those of the same owner: one
visitor's timing tells nothing about another's prompts.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from grit_app.gritlm import KVCache
from grit_app.gritlm.budget import Budget

LEAST_TOKENS = 16
"""Shorter beginnings are read again: copying them saves nothing."""

Key = tuple[str, tuple[int, ...]]
"""Whose, and of which ids."""


class Prefixes:
    """The caches of all owners, within the process's budget of bytes. Thread-safe."""

    def __init__(self, memory: Budget) -> None:
        self._memory = memory
        self._caches: dict[Key, KVCache] = {}
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        with self._lock:
            return sum(cache.nbytes for cache in self._caches.values())

    def find(self, owner: str, ids: list[int]) -> KVCache | None:
        """The longest beginning of `ids` whose cache is kept, without the last id: that is read for its logits."""
        with self._lock:
            best, shared = None, LEAST_TOKENS - 1
            for key in self._caches:
                if key[0] == owner and (common := _common(key[1], ids)) > shared:
                    best, shared = key, common
            if best is None:
                return None
            cache = self._caches[best]
        self._memory.use(self, best, cache.nbytes)
        return cache.slice(0, shared)

    def keep(self, owner: str, cache: KVCache) -> None:
        """Keeps a causal cache that begins at position 0, in place of those that are beginnings of it."""
        ids = tuple(cache.ids.tolist())
        if len(ids) < LEAST_TOKENS or cache.nbytes > self._memory.limit_bytes:
            return
        with self._lock:
            for key in [key for key in self._caches if key[0] == owner and key[1] == ids[: len(key[1])]]:
                self._drop(key)
            self._caches[owner, ids] = cache
        self._memory.use(self, (owner, ids), cache.nbytes)

    def let_go(self, key: Hashable) -> bool:
        """Drops one cache, for others to have the room: its prompt is read again."""
        with self._lock:
            self._drop(key)
        return True

    def _drop(self, key: Hashable) -> None:
        """Call with the lock held."""
        self._caches.pop(key, None)  # type: ignore[call-overload]  # a budget knows keys of any kind
        self._memory.free(self, key)


def _common(known: tuple[int, ...], ids: list[int]) -> int:
    most = min(len(known), len(ids) - 1)
    for index in range(most):
        if known[index] != ids[index]:
            return index
    return most
