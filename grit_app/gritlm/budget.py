"""One budget of bytes a model, for all that is kept to be faster (caches of documents, chats, prompts and handles), and
for files that are kept in memory.

    memory.use(holder, key, cache.nbytes)      # used now; others, the least recently used first, are let go
    memory.hold(holder, key, len(original))    # cannot be made again, so it stays; False: there is no room for it
    memory.free(holder, key)

What was let go is made again when it is needed. A holder that is gone counts no more.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Protocol

import torch

from grit_app.gritlm.load.size import free_bytes

SHARE: Final = 0.25
"""Of the memory that is free when the model is loaded."""

LEAST_BYTES: Final = 256_000_000


class Holder(Protocol):
    """Something that keeps bytes under keys."""

    def let_go(self, key: Hashable) -> bool:
        """Frees what lies under the key. False: it is in use, and stays."""
        ...


class Budget:
    """Safe to use from several threads. Call `use` without a lock that any holder's `let_go` takes."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self.held_bytes = 0
        """Of `bytes`, what cannot be let go."""
        self._entries: OrderedDict[tuple[int, Hashable], int] = OrderedDict()
        self._held: dict[tuple[int, Hashable], int] = {}
        self._holders: dict[int, weakref.ref[Holder]] = {}
        self._lock = threading.RLock()  # a holder's end may come in the middle of anything

    @classmethod
    def of(cls, device: torch.device) -> Budget:
        """A share of the memory in which the model's caches lie."""
        return cls(max(LEAST_BYTES, int(SHARE * free_bytes(device))))

    def use(self, holder: Holder, key: Hashable, nbytes: int) -> None:
        """Notes that so many bytes lie under the key and are used now; then makes room."""
        with self._lock:
            self.free(holder, key)
            self._entries[self._name(holder, key)] = nbytes
            self.bytes += nbytes
        self._make_room(self._name(holder, key))

    def hold(self, holder: Holder, key: Hashable, nbytes: int) -> bool:
        """Notes bytes that stay until they are freed, and makes room. False: not noted, since too much is held."""
        with self._lock:
            if self.held_bytes + nbytes > self.limit_bytes:
                return False
            self._held[self._name(holder, key)] = nbytes
            self.held_bytes += nbytes
            self.bytes += nbytes
        self._make_room(None)
        return True

    def free(self, holder: Holder, key: Hashable) -> None:
        """What lay under the key is gone; nothing happens if it was not noted."""
        self._drop((id(holder), key))

    def _drop(self, name: tuple[int, Hashable]) -> None:
        with self._lock:
            held = self._held.pop(name, 0)
            self.held_bytes -= held
            self.bytes -= held + self._entries.pop(name, 0)

    def _name(self, holder: Holder, key: Hashable) -> tuple[int, Hashable]:
        number = id(holder)
        if number not in self._holders:
            self._holders[number] = weakref.ref(holder)
            weakref.finalize(holder, self._forget, number)
        return number, key

    def _forget(self, number: int) -> None:
        with self._lock:
            self._holders.pop(number, None)
            for name in [name for name in (*self._entries, *self._held) if name[0] == number]:
                self._drop(name)

    def _make_room(self, last: tuple[int, Hashable] | None) -> None:
        """Lets go of the least recently used, `last` excepted, until the rest fits."""
        with self._lock:
            oldest = [name for name in self._entries if name != last] if self.bytes > self.limit_bytes else []
        for name in oldest:
            with self._lock:
                nbytes = self._entries.get(name)
                holder = self._holders[name[0]]() if nbytes is not None else None
                if self.bytes <= self.limit_bytes:
                    return
            # Outside the lock: a holder that notes something at this moment has its own lock, and waits for this one.
            if holder is not None and holder.let_go(name[1]):
                self._drop(name)
