"""Whose documents are whose.

A library belongs to one *browser*, known by a random key that lives in that browser's storage. The key itself is never
kept on the server: libraries are filed under its SHA-256.

- Local run: the library is a folder under the data folder, and survives reloads and restarts.
- Shared (any address but this machine's): the library lives in memory only. It is freed a short grace time after the
  browser's last tab is closed (a reload looks the same for a moment), and by the sweep when it has been idle too long
  or too many are held.

A visitor counts once something is theirs: a document, a conversation, a running job. Who only came is forgotten first,
so no number of random keys takes the place of anybody. A running job is activity, however long it takes. A visitor that
was let go opens nothing any more: what a late handler still holds of it fails with a sentence.

Several tabs of one browser share its library. Callers without a key (API clients) get a library of their own session,
in memory, on any kind of run.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from grit_app.documents.library import Library
from grit_app.errors import DocumentError
from grit_app.gritlm import Conversation
from grit_app.gritlm.errors import Busy
from grit_app.gritlm.scheduler import Job, Kind

GRACE_S = 45.0
SWEEP_S = 60.0
EMPTY_LIMIT = 256
"""Visitors remembered to whom nothing belongs."""

KINDS: dict[str, Kind] = {
    "upload": "background",
    "caches": "background",
    "race": "bulk",
    "measure": "bulk",
    "answers": "bulk",
}
"""Of the runs; any other one is interactive."""

_KEY = re.compile(r"[A-Za-z0-9_-]{32,64}")


def new_key() -> str:
    """A browser's secret: 256 random bits."""
    return secrets.token_urlsafe(32)


def session_of(request: gr.Request) -> str:
    """The page (or API client) behind a request; a reload makes a new one."""
    return request.session_hash or ""


def owner_of(session: str, key: object) -> tuple[str, bool]:
    """Under which name a caller's things are filed, and whether a browser (not a bare session) stands behind it."""
    if isinstance(key, str) and _KEY.fullmatch(key):
        return hashlib.sha256(key.encode()).hexdigest()[:40], True
    return "session-" + hashlib.sha256(session.encode()).hexdigest()[:40], False


@dataclass
class Visitor:
    """What the server holds for one browser. `lock` guards `library` and `is_gone` while it is opened or closed."""

    owner: str
    folder: Path | None
    sessions: set[str] = field(default_factory=set)
    library: Library | None = None
    turns: list[Any] = field(default_factory=list)
    conversation: Conversation = field(default_factory=Conversation)
    last_seen_s: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)
    is_gone: bool = False

    @property
    def owns(self) -> bool:
        """Whether something is theirs that would be lost."""
        library = self.library
        return bool(self.turns or self.conversation.ids) or (library is not None and not library.is_empty)


class Visitors:
    """The registry. `open_library(folder)` makes a library; folder None means in memory.

    durable_root   where browsers' libraries live on a local run; None: nothing is kept on disk
    rate           interactive runs that one visitor may begin within a minute; 0: any number
    """

    def __init__(
        self,
        open_library: Callable[[Path | None], Library],
        durable_root: Path | None,
        *,
        max_visitors: int = 64,
        idle_s: float = 3600.0,
        grace_s: float = GRACE_S,
        rate: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open = open_library
        self._root = durable_root
        self._max_visitors = max_visitors
        self._idle_s = idle_s
        self._grace_s = grace_s
        self._rate = rate
        self._begun: dict[str, deque[float]] = {}  # of owners: when their runs of the last minute began
        self._clock = clock
        self._visitors: dict[str, Visitor] = {}
        self._runs: dict[tuple[str, str], Job] = {}
        self._owners: dict[str, str] = {}  # of sessions
        self._sweeping: threading.Thread | None = None
        self._ended = threading.Event()
        self._guard = threading.RLock()

    def __len__(self) -> int:
        return len(self._visitors)

    def enter(self, session: str, key: object) -> Visitor:
        """The visitor behind this request; made on the first one. Also takes note that the session is alive."""
        owner, is_browser = owner_of(session, key)
        with self._guard:
            visitor = self._visitors.get(owner)
            if visitor is None:
                folder = self._root / owner if self._root is not None and is_browser else None
                visitor = self._visitors[owner] = Visitor(owner, folder)
            visitor.sessions.add(session)
            self._owners[session] = owner
            visitor.last_seen_s = self._clock()
        self.sweep(keep=owner)
        return visitor

    def library(self, visitor: Visitor) -> Library:
        """The visitor's library, opened on first use. Raises DocumentError for a visitor that was let go."""
        with visitor.lock:
            if visitor.is_gone:
                raise DocumentError("This library was closed after a long time without a request. Reload the page.")
            if visitor.library is None:
                visitor.library = self._open(visitor.folder)
            return visitor.library

    def of(self, session: str) -> Visitor | None:
        """The visitor whose page this is, if it is known."""
        with self._guard:
            return self._visitors.get(self._owners.get(session, ""))

    def begin_run(self, session: str, kind: str) -> Job:
        """The session's new run of this kind, as a job of its visitor; one that is still going is asked to stop.

        Raises Busy for a visitor who has begun too many within a minute.
        """
        job = Job(KINDS.get(kind, "interactive"), self._owners.get(session, session))
        with self._guard:
            if self._rate and job.kind == "interactive":
                self._count(job.owner)
            self.stop_run(session, kind)
            self._runs[session, kind] = job
            return job

    def _count(self, owner: str) -> None:
        now = self._clock()
        begun = self._begun.setdefault(owner, deque())
        while begun and now - begun[0] >= 60:
            begun.popleft()
        if len(begun) >= self._rate:
            wait_s = 60 - (now - begun[0])
            raise Busy(f"{self._rate} requests within a minute are the limit here. Go on in {max(1, round(wait_s))} s.")
        begun.append(now)

    def join_run(self, session: str, kind: str) -> Job:
        """The run of this kind that is going on, or a new one: what is added now is stopped with it."""
        with self._guard:
            job = self._runs.get((session, kind))
            return self.begin_run(session, kind) if job is None or job.is_set() else job

    def current_run(self, session: str, kind: str) -> Job:
        """What `begin_run` gave: it may be stopped already, when Stop came before the run got its turn."""
        with self._guard:
            return self._runs.get((session, kind)) or self.begin_run(session, kind)

    def stop_run(self, session: str, kind: str) -> None:
        """Ask the session's run of this kind to stop; without one nothing happens."""
        with self._guard:
            if event := self._runs.get((session, kind)):
                event.set()

    def leave(self, session: str) -> None:
        """The session's page is closed: stop its runs now, free what is its own after the grace time."""
        with self._guard:
            self._stop_all({session})
            self._owners.pop(session, None)
            for visitor in self._visitors.values():
                if session in visitor.sessions:
                    visitor.sessions.discard(session)
                    visitor.last_seen_s = self._clock()
        timer = threading.Timer(self._grace_s + 0.1, self.sweep)
        timer.daemon = True
        timer.start()

    def keep_sweeping(self, interval_s: float = SWEEP_S) -> None:
        """Sweeps from now on, also while nobody comes or goes; until `close`."""

        def work() -> None:
            while not self._ended.wait(interval_s):
                self.sweep()

        self._sweeping = threading.Thread(target=work, name="visitors-sweep", daemon=True)
        self._sweeping.start()

    def sweep(self, keep: str | None = None) -> None:
        """Free libraries without a page (after the grace time), idle ones, and the longest idle above the limit."""
        now = self._clock()
        with self._guard:
            for visitor in self._visitors.values():
                if self._is_working(visitor):
                    visitor.last_seen_s = now
            idle = [
                v
                for v in sorted(self._visitors.values(), key=lambda v: v.last_seen_s)
                if v.owner != keep and not self._is_working(v)
            ]
            owning = [v for v in idle if v.owns]
            empty = [v for v in idle if not v.owns]
            surplus = len(self._visitors) - len(empty) - self._max_visitors
            leaving = [v for i, v in enumerate(owning) if i < surplus or self._is_over(v, now)]
            leaving += [v for i, v in enumerate(empty) if i < len(empty) - EMPTY_LIMIT or self._is_over(v, now)]
            for visitor in leaving:
                del self._visitors[visitor.owner]
                self._begun.pop(visitor.owner, None)
                self._stop_all(visitor.sessions)
                for session in visitor.sessions:
                    self._owners.pop(session, None)
        for visitor in leaving:
            _close(visitor)

    def _is_working(self, visitor: Visitor) -> bool:
        return any(job.is_working for (session, _), job in self._runs.items() if session in visitor.sessions)

    def _stop_all(self, sessions: set[str]) -> None:
        """Ask every run of these sessions to stop, and forget them."""
        for key in [key for key in self._runs if key[0] in sessions]:
            self._runs.pop(key).set()

    def _is_over(self, visitor: Visitor, now: float) -> bool:
        idle_s = now - visitor.last_seen_s
        return idle_s > self._idle_s or (not visitor.sessions and idle_s > self._grace_s)

    def close(self) -> None:
        """Free everything: the app ends."""
        self._ended.set()
        with self._guard:
            visitors, self._visitors = list(self._visitors.values()), {}
            for event in self._runs.values():
                event.set()
        for visitor in visitors:
            _close(visitor)


def _close(visitor: Visitor) -> None:
    with visitor.lock:
        visitor.is_gone = True
        library, visitor.library = visitor.library, None
        visitor.turns.clear()
        visitor.conversation.clear()
        if library is not None:
            library.close()
