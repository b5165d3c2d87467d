"""Who computes with the model, and when: one turn at a time, fair between people.

    job = Job("interactive", owner="visitor 7")          # give it as `cancel=` to any call of the model, a library, rag
    for piece in model.stream(messages, cancel=job): ...  # each forward is a turn of that job
    job.set()                                            # stops it: Cancelled, or a stream that ends

    with scheduler.turn(job): ...                         # one forward; re-entrant in a thread
    with job.applies(): model.encode(texts)               # calls of this thread that are given no job are this one's
    with scheduler.working(job): ...                      # counted in other people's places while it lasts
    scheduler.place(job).words()                          # "1 before you, about 4 s"

Kinds of work:

- interactive   somebody waits for the next word: chat, questions, similarity
- background    indexing and cache building; gets a fifth of the time while people wait, and all that they leave
- bulk          benchmarks; only while nobody else wants the model, one job after the other

Each kind is fair between owners: who has computed least goes first (start-time fair queueing, Goyal et al. 1996), so a
long prompt of one person delays a short one of another by no more than its own length. A turn can be broken off between
two layers of a forward (`breathe`): each forward has its own buffers, and its numbers do not change by waiting. One
exception: the stock forward of embeddings keeps a flag in the shared configuration (attention.py). So only one such
forward is under way at a time, and one that waits for another lends it its urgency.

Reading files and drawing pages need no model, and so no turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Literal, NamedTuple, TypeVar

from grit_app.gritlm.errors import Busy, Cancelled

Kind = Literal["interactive", "background", "bulk"]
Work = Literal["own", "stock"]
"""Whose forward: the project's own causal one (runtime.py), or the stock one that embeds."""

Item = TypeVar("Item")

WEIGHTS: Final = {"interactive": 4.0, "background": 1.0}
"""Shares of the time while both kinds want the model."""

SLICE_S: Final = 0.01
"""A turn is not broken off before: changing hands costs about 0.1 ms."""

LINGER_S: Final = 0.005
"""So long the model stays free for the next token of an answer before background work takes it."""

BULK_IDLE_S: Final = 0.3
"""Bulk work begins when nobody has used the model for so long."""

POLL_S: Final = 0.1
"""A waiting job looks this often whether it was stopped."""

TYPICAL_S: Final = 0.2
"""Computing before a first token, until it was measured."""


class Job(threading.Event):
    """A piece of work that may be stopped (`set`), of a kind and an owner. Every `cancel` argument takes one.

    owner   whose turn it is: two jobs of one owner share that owner's part of the time; empty: of its own
    """

    def __init__(self, kind: Kind = "interactive", owner: str = "") -> None:
        super().__init__()
        self.kind = kind
        self.owner = owner or f"job-{id(self)}"
        self.interruptions = 0
        """How often another job computed between two turns of this one: what was timed meanwhile does not count."""

        self.has_computed = False
        self.is_working = False
        """Between the two ends of `Scheduler.working`."""

        self.expected_s: float | None = None
        """Computing that its present step needs, as far as known."""

    @contextmanager
    def applies(self) -> Iterator[Job]:
        """Calls of this thread that are given no job count as this one's."""
        before = getattr(_here, "job", None)
        _here.job = self
        try:
            yield self
        finally:
            _here.job = before

    def steps(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, each made as this job, in whatever thread asks for it."""
        source = iter(items)
        while True:
            with self.applies():
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item


_here = threading.local()


class Place(NamedTuple):
    """Where a job stands in the queue."""

    before: int
    """Other people's jobs that share the model with it, or come first."""

    seconds: float
    """Estimate until it has what it waits for; from measured speeds."""

    def words(self) -> str:
        """`1 before you, about 4 s`; empty where nobody is before."""
        return f"{self.before} before you, about {max(1, round(self.seconds))} s" if self.before else ""


@dataclass(eq=False)
class _Ticket:
    """A thread's claim on the model, from its asking to the end of its turn, breaks included."""

    job: Job
    thread: int
    order: int
    work: Work
    tokens: int
    granted: threading.Event = field(default_factory=threading.Event)
    depth: int = 1
    since_s: float = 0.0
    spent_s: float = 0.0

    @property
    def uses_trunk(self) -> bool:
        return self.work == "stock"


class _Line:
    """One kind of work: its tickets, and how much each owner has had (virtual time, in seconds of computing)."""

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.tag = 0.0
        self.waiting: list[_Ticket] = []
        self._virtual = 0.0
        self._had: dict[str, float] = {}

    def add(self, ticket: _Ticket, floor: float) -> None:
        owner = ticket.job.owner
        if not self.waiting:
            self.tag = max(self.tag, floor)
        if all(other.job.owner != owner for other in self.waiting):
            self._had[owner] = max(self._virtual, self._had.get(owner, 0.0))  # time not asked for is not saved up
        self.waiting.append(ticket)

    def first(self) -> _Ticket:
        return min(self.waiting, key=lambda ticket: (self._had[ticket.job.owner], ticket.order))

    def serve(self, ticket: _Ticket) -> None:
        self.waiting.remove(ticket)
        self._virtual = max(self._virtual, self._had[ticket.job.owner])

    def account(self, ticket: _Ticket, seconds: float) -> None:
        self.tag += seconds / self.weight
        self._had[ticket.job.owner] = self._had.get(ticket.job.owner, self._virtual) + seconds
        if len(self._had) > 256:  # who had no more than the others needs no memory
            kept = {other.job.owner for other in self.waiting}
            self._had = {owner: had for owner, had in self._had.items() if owner in kept or had > self._virtual}


class Scheduler:
    """One model's turns. Safe to use from any thread; `with scheduler:` is a turn of the thread's own job."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._lines = {kind: _Line(weight) for kind, weight in WEIGHTS.items()}
        self._bulk: list[_Ticket] = []
        self._current: _Ticket | None = None
        self._trunk: _Ticket | None = None
        self._working: dict[Job, int] = {}
        self._orders = count()
        self._virtual = 0.0
        self._last: Job | None = None
        self._released_s = {"interactive": float("-inf"), "background": float("-inf"), "bulk": float("-inf")}
        self._speeds: dict[Work, float] = {}
        self._first_s = TYPICAL_S
        self.limit = 0
        """Jobs that may be under way at once (`working`); 0: any number."""

    # ------------------------------------------------------------ turns

    @contextmanager
    def turn(self, job: threading.Event | None = None, work: Work = "own", tokens: int = 0) -> Iterator[None]:
        """Holds the model for one forward of `tokens`, whose speed is taken note of.

        Raises Cancelled if the job is stopped while it waits.
        """
        self.acquire(job, work, tokens)
        try:
            yield
        finally:
            self.release()

    def __enter__(self) -> Scheduler:
        self.acquire(None, "stock")
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, job: threading.Event | None = None, work: Work = "own", tokens: int = 0) -> None:
        """Waits for a turn; in a thread that has one, only counts."""
        mine = self._mine()
        if mine is not None:
            assert mine.uses_trunk or work == "own", "the stock forward needs a turn that says so from its beginning"
            mine.depth += 1
            return
        owned = _job_of(job)
        if tokens > 1 and (speed := self.speed(work)):
            owned.expected_s = tokens / speed
        ticket = _Ticket(owned, threading.get_ident(), next(self._orders), work, tokens)
        with self._guard:
            self._add(ticket)
            self._dispatch()
        self._wait(ticket, owned if job is None else job)

    def release(self) -> None:
        """Ends the turn that `acquire` began."""
        ticket = self._current
        assert ticket is not None and ticket.thread == threading.get_ident(), "a turn ends in the thread that has it"
        ticket.depth -= 1
        if ticket.depth:
            return
        with self._guard:
            self._end(ticket)
            if self._trunk is ticket:
                self._trunk = None
            if ticket.tokens > 1:
                self._measure(ticket)
            self._dispatch()

    def breathe(self) -> None:
        """Between two layers: lets another job go first if it is its turn. Does nothing in a thread without a turn."""
        ticket = self._mine()
        if ticket is None or ticket.depth > 1 or not self._is_wanted():
            return
        if self._clock() - ticket.since_s < SLICE_S:
            return
        with self._guard:
            self._end(ticket)
            ticket.granted = threading.Event()
            self._add(ticket)
            self._dispatch()
        # Not to be stopped here: the caller looks at its job between layers by itself. But to be asked for again and
        # again, as in `_wait`: work that gives way gets its turn by time, and nobody else may come to hand it out.
        while not ticket.granted.wait(LINGER_S):
            with self._guard:
                self._dispatch()

    def _wait(self, ticket: _Ticket, stop: threading.Event) -> None:
        while not ticket.granted.wait(POLL_S if ticket.job.kind == "interactive" else LINGER_S):
            with self._guard:
                if (stop.is_set() or ticket.job.is_set()) and not ticket.granted.is_set():
                    self._queue_of(ticket).remove(ticket)
                    raise Cancelled("Stopped while it waited for its turn.")
                self._dispatch()

    def _mine(self) -> _Ticket | None:
        current = self._current
        return current if current is not None and current.thread == threading.get_ident() else None

    def _is_wanted(self) -> bool:
        return bool(self._bulk) or any(line.waiting for line in self._lines.values())

    def _queue_of(self, ticket: _Ticket) -> list[_Ticket]:
        line = self._lines.get(ticket.job.kind)
        return self._bulk if line is None else line.waiting

    def _add(self, ticket: _Ticket) -> None:
        line = self._lines.get(ticket.job.kind)
        if line is None:
            self._bulk.append(ticket)
        else:
            line.add(ticket, self._virtual)

    def _end(self, ticket: _Ticket) -> None:
        now = self._clock()
        line = self._lines.get(ticket.job.kind)
        ticket.spent_s += now - ticket.since_s
        if line is not None:
            line.account(ticket, now - ticket.since_s)
        self._released_s[ticket.job.kind] = now
        self._current = None

    def _dispatch(self) -> None:
        """Gives a free model to whose turn it is. Call with the guard held."""
        if self._current is not None:
            return
        ticket = self._next(self._clock())
        if ticket is None:
            return
        if ticket.uses_trunk and self._trunk is not None and self._trunk is not ticket:
            ticket = self._trunk  # it stands in the way: the sooner it is done
        line = self._lines.get(ticket.job.kind)
        if line is None:
            self._bulk.remove(ticket)
        else:
            line.serve(ticket)
            self._virtual = max(self._virtual, line.tag)
        if ticket.uses_trunk:
            self._trunk = ticket
        if ticket.job.has_computed and self._last is not ticket.job:
            ticket.job.interruptions += 1
        ticket.job.has_computed = True
        self._last = ticket.job
        self._current = ticket
        ticket.since_s = self._clock()
        ticket.granted.set()

    def _next(self, now: float) -> _Ticket | None:
        """Whose turn it is; None: nobody's yet."""
        interactive, background = self._lines["interactive"], self._lines["background"]
        lingers = now - self._released_s["interactive"] < LINGER_S
        if interactive.waiting and (not background.waiting or interactive.tag <= background.tag):
            return interactive.first()
        if background.waiting and (interactive.waiting or not lingers or background.tag <= interactive.tag):
            return background.first()
        used_s = max(self._released_s["interactive"], self._released_s["background"])
        if self._bulk and not background.waiting and now - used_s >= BULK_IDLE_S:
            return min(self._bulk, key=lambda ticket: ticket.order)
        return None

    # ------------------------------------------------------------ places and speeds

    @property
    def is_busy(self) -> bool:
        """Whether another thread has the model or waits for it."""
        current = self._current
        return self._is_wanted() or (current is not None and current.thread != threading.get_ident())

    @contextmanager
    def working(self, job: threading.Event | None) -> Iterator[Job]:
        """Counts the job as under way. Raises Busy with a sentence if there are `limit` of them already."""
        owned = _job_of(job)
        with self._guard:
            if self.limit and len(self._working) >= self.limit and owned not in self._working:
                raise Busy(f"{len(self._working)} requests are under way already. Wait a moment, then try again.")
            self._working[owned] = self._working.get(owned, 0) + 1
            owned.is_working = True
        try:
            yield owned
        finally:
            with self._guard:
                self._working[owned] -= 1
                if not self._working[owned]:
                    del self._working[owned]
                    owned.is_working = False

    def place(self, job: Job) -> Place:
        """Where the job stands among those that are under way, with an estimate from measured speeds."""
        with self._guard:
            others = [other for other in self._working if other is not job and other.owner != job.owner]
        mine_s = job.expected_s or self._first_s
        if job.kind == "interactive":
            before = sum(other.kind == "interactive" for other in others)
            shared = any(other.kind == "background" for other in others)
            # Sharing evenly, each of them gets as much time as this one needs.
            return Place(before, mine_s * (1 + before) * (1.25 if shared else 1.0))
        before = sum(other.kind != "bulk" or job.kind == "bulk" for other in others)
        return Place(before, sum(other.expected_s or self._first_s for other in others) + mine_s)

    def _measure(self, ticket: _Ticket) -> None:
        speed = ticket.tokens / max(ticket.spent_s, 1e-6)
        known = self._speeds.get(ticket.work, speed)
        self._speeds[ticket.work] = 0.8 * known + 0.2 * speed
        if ticket.work == "own" and ticket.job.kind == "interactive":
            self._first_s = 0.8 * self._first_s + 0.2 * ticket.spent_s

    def speed(self, work: Work) -> float | None:
        """Tokens a second in forwards of several tokens, a running mean; None before the first."""
        return self._speeds.get(work)


def _job_of(job: threading.Event | None) -> Job:
    """The job itself; for a plain event, or none, the thread's job, or an interactive one of the thread's own."""
    if isinstance(job, Job):
        return job
    own = getattr(_here, "job", None)
    if isinstance(own, Job):
        return own
    anonymous = getattr(_here, "anonymous", None)
    if not isinstance(anonymous, Job):
        anonymous = _here.anonymous = Job("interactive", f"thread-{threading.get_ident()}")
    return anonymous
