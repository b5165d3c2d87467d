"""The one lock of a model, and how a long job shares it.

Every forward holds the lock (see attention.py). An answer takes it for each token, an embedding job for each batch.
Taking turns one by one, an answer would get a single token for each batch of a thousand: while somebody indexes a
document, all answers would crawl (measured: 20 tokens in 16.6 s, alone in 0.5 s; with the rule below in 1.9 s). So
after each batch the embedding job gives way for as long as the batch took, if somebody else is using the model: both
get half of the time.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final

IDLE_S: Final = 0.03
"""Nobody has used the lock for this long: the other job has ended. Answers pause less than this between tokens."""

POLL_S: Final = 0.003


class ModelLock:
    """A re-entrant lock, used as `with model.lock:`, that knows whether others use it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts = threading.Lock()
        self._waiting = 0
        self._depth = 0
        self._owner: int | None = None
        self._released_at = 0.0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._lock.acquire(blocking=False):
            if not blocking:
                return False
            with self._counts:
                self._waiting += 1
            try:
                if not self._lock.acquire(timeout=timeout):
                    return False
            finally:
                with self._counts:
                    self._waiting -= 1
        self._depth += 1
        self._owner = threading.get_ident()
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
        self._released_at = time.monotonic()
        self._lock.release()

    def __enter__(self) -> ModelLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @property
    def is_busy(self) -> bool:
        """Whether another thread holds the lock or waits for it."""
        return self._owner not in (None, threading.get_ident()) or self._waiting > 0

    def give_way(self, seconds: float) -> None:
        """Leaves the model to others for `seconds`, or until none has used it for a moment.

        Does nothing in a thread that holds the lock: nobody could use the time.
        """
        if self._owner == threading.get_ident():
            return
        deadline = time.monotonic() + seconds
        while (now := time.monotonic()) < deadline:
            if not self.is_busy and now - self._released_at > IDLE_S:
                return
            time.sleep(POLL_S)
