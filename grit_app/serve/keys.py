"""Who asks, and how much each may.

Without a key every caller on this machine is the owner `local`. With `--api_key` a caller is known by the SHA-256 of
its key; the key itself is kept nowhere. What a caller stores is filed under its owner, and no other owner reaches it.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from grit_app.serve.errors import ApiError
from grit_app.settings import Settings

LOCAL = "local"
WINDOW_S = 60.0


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request."""

    owner: str
    """Under which name its documents and handles are filed."""


@dataclass
class _Use:
    """One owner's running and recent requests."""

    running: int = 0
    recent: deque[float] = field(default_factory=deque)


class Gate:
    """Knows the keys and counts their requests. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._hashes = settings.api_key_hashes
        self._rate = settings.api_rate
        self._concurrency = settings.api_concurrency
        self._uses: dict[str, _Use] = {}
        self._lock = threading.Lock()

    def identify(self, key: str | None) -> Caller:
        """The caller with this key. Raises ApiError 401 if keys are in use and this is none of them."""
        if not self._hashes:
            return Caller(LOCAL)
        if not key:
            raise self._refused("This server needs a key. Send it as: Authorization: Bearer KEY.", "missing_api_key")
        digest = hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
        # All of them are compared, in constant time each: how long a refusal takes tells nothing.
        if sum(hmac.compare_digest(digest, known) for known in self._hashes) == 0:
            raise self._refused("This key is not known here. Ask whoever runs the server.", "invalid_api_key")
        return Caller(digest[:40])

    @staticmethod
    def _refused(message: str, code: str) -> ApiError:
        return ApiError(401, message, code=code, headers={"WWW-Authenticate": "Bearer"})

    def enter(self, caller: Caller) -> None:
        """Counts one request in. Raises ApiError 429 above the rate or the number that may run at once."""
        now = time.monotonic()
        with self._lock:
            use = self._uses.setdefault(caller.owner, _Use())
            while use.recent and now - use.recent[0] > WINDOW_S:
                use.recent.popleft()
            if self._rate and len(use.recent) >= self._rate:
                wait_s = max(1, round(WINDOW_S - (now - use.recent[0])))
                raise self._busy(f"More than {self._rate} requests within a minute. Wait {wait_s} s.", wait_s)
            if use.running >= self._concurrency:
                raise self._busy(f"{use.running} requests of this key are running. Wait until one has ended.", 1)
            use.running += 1
            if self._rate:
                use.recent.append(now)

    @staticmethod
    def _busy(message: str, wait_s: int) -> ApiError:
        return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(wait_s)})

    def leave(self, caller: Caller) -> None:
        """Counts it out again."""
        with self._lock:
            self._uses[caller.owner].running -= 1
