"""KV caches that a caller keeps between requests: an embedding leaves one, a chat or an answer names it.

The paper's idea as an interface: the pass that gave the vector also gave the keys and values, so writing over that text
needs no second reading.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from grit_app.gritlm import GritLM, KVCache, join
from grit_app.gritlm.budget import Budget
from grit_app.serve.errors import ApiError
from grit_app.serve.types.embeddings import CacheHandle

LIFETIME_S = 3600.0
"""After its last use a cache is kept for so long."""


@dataclass
class _Held:
    cache: KVCache
    expires_s: float


class Handles:
    """All owners' caches, the least recently used first to go. Thread-safe.

    owner_bytes   what one owner may keep
    memory        the process's budget, which all of them share with everything else that is kept to be faster
    """

    def __init__(self, owner_bytes: int, memory: Budget, clock: Callable[[], float] = time.time) -> None:
        self._owner_bytes = owner_bytes
        self._memory = memory
        self._clock = clock
        self._held: dict[str, OrderedDict[str, _Held]] = {}
        self._lock = threading.Lock()

    def keep(self, owner: str, caches: Sequence[KVCache]) -> list[CacheHandle]:
        """A handle for each. Raises ApiError 413 if they do not fit together into what the owner may keep."""
        size = sum(cache.nbytes for cache in caches)
        room = self._memory.limit_bytes - self._memory.held_bytes
        limit, knob = min((self._owner_bytes, "api_bytes_mb"), (room, "memory_mb"))
        if size > limit:
            raise ApiError(
                413,
                f"These caches take {size / 1e6:.1f} MB, and there is room for {limit / 1e6:.0f} MB. Send "
                f"fewer or shorter texts, or raise {knob}.",
                param="cache",
            )
        made = {f"kv_{secrets.token_hex(16)}": _Held(cache, self._clock() + LIFETIME_S) for cache in caches}
        with self._lock:
            self._expire()
            held = self._held.setdefault(owner, OrderedDict())
            while held and sum(one.cache.nbytes for one in held.values()) + size > self._owner_bytes:
                self._drop(owner, next(iter(held)))
            held.update(made)
        for name, one in made.items():
            self._memory.use(self, (owner, name), one.cache.nbytes)
        return [self._describe(name, one) for name, one in made.items()]

    def get(self, owner: str, name: str) -> KVCache:
        """The cache of a handle, whose lifetime begins anew. Raises ApiError 404: gone, or another owner's."""
        with self._lock:
            self._expire()
            held = self._held.get(owner, OrderedDict())
            if name not in held:
                raise ApiError(
                    404,
                    f"There is no cache {name[:60]!r}: it was let go, or the server was restarted. Embed the text "
                    "again with cache: true.",
                    param="caches",
                    code="cache_not_found",
                )
            held.move_to_end(name)
            held[name].expires_s = self._clock() + LIFETIME_S
            cache = held[name].cache
        self._memory.use(self, (owner, name), cache.nbytes)
        return cache

    def list(self, owner: str) -> list[CacheHandle]:
        """The owner's handles, the least recently used first."""
        with self._lock:
            self._expire()
            return [self._describe(name, one) for name, one in self._held.get(owner, {}).items()]

    def remove(self, owner: str, name: str) -> None:
        """Lets a cache go. Raises ApiError 404 if it is not there."""
        self.get(owner, name)
        with self._lock:
            self._drop(owner, name)

    def let_go(self, key: Hashable) -> bool:
        """Drops one cache, for others to have the room: its owner is told to embed the text again."""
        with self._lock:
            self._drop(*key)  # type: ignore[misc]  # (owner, name), as it was given to the budget
        return True

    def _drop(self, owner: str, name: str) -> None:
        """Call with the lock held."""
        self._held[owner].pop(name, None)
        self._memory.free(self, (owner, name))

    @property
    def bytes(self) -> int:
        """Of all owners together."""
        with self._lock:
            return sum(one.cache.nbytes for held in self._held.values() for one in held.values())

    @staticmethod
    def _describe(name: str, held: _Held) -> CacheHandle:
        return CacheHandle(id=name, tokens=held.cache.length, bytes=held.cache.nbytes, expires_at=int(held.expires_s))

    def _expire(self) -> None:
        now = self._clock()
        for owner, held in self._held.items():
            for name in [name for name, one in held.items() if one.expires_s <= now]:
                self._drop(owner, name)


def joined(model: GritLM, handles: Handles, owner: str, names: Sequence[str]) -> KVCache:
    """The caches of these handles as one, in their order, for a prompt to follow."""
    cache = join([handles.get(owner, name) for name in names], model.rope)
    if cache.end >= model.context:
        raise ApiError(
            400, f"The caches hold {cache.length:,} tokens; this model reads {model.context:,}.", param="caches"
        )
    return cache
