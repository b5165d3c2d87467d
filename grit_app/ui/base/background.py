"""Work in a thread, its news in the page: for everything that reports progress through a callback.

    watch = Watch(lambda report: library.add(paths, progress=report, cancel=cancel), cancel)
    for news in watch:                      # a list of reports, perhaps empty, at every tick
        yield ...
    watch.result

What the work computes with the model counts as the job that `cancel` is. When the page goes away the loop is closed:
the cancel event is set and the thread is waited for, so that the model never works for somebody who left.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from grit_app.gritlm.scheduler import Job

Report = TypeVar("Report")
Result = TypeVar("Result")
Item = TypeVar("Item")


class Watch(Generic[Report, Result]):
    """One piece of work. Iterate it once; afterwards `result` is there, or the work's own exception was raised."""

    def __init__(
        self, work: Callable[[Callable[[Report], None]], Result], cancel: threading.Event, tick_s: float = 0.1
    ) -> None:
        self._work = work
        self._cancel = cancel
        self._tick_s = tick_s
        self._news: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self.result: Result

    def _run(self) -> None:
        job = self._cancel if isinstance(self._cancel, Job) else Job()
        try:
            with job.applies():
                self.result = self._work(self._news.put)
        except BaseException as error:
            self._error = error

    def __iter__(self) -> Iterator[list[Report]]:
        thread = threading.Thread(target=self._run, name="watched-work", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(self._tick_s)
                yield self._drain()
        finally:
            if thread.is_alive():
                self._cancel.set()
                thread.join()
        if self._error is not None:
            raise self._error
        if rest := self._drain():
            yield rest

    @property
    def has_ended(self) -> bool:
        """Whether the result is there."""
        return hasattr(self, "result")

    def _drain(self) -> list[Report]:
        items = []
        while not self._news.empty():
            items.append(self._news.get())
        return items


def awaited(items: Iterator[Item], cancel: threading.Event, tick_s: float = 0.4) -> Iterator[Item | None]:
    """The items; None at each tick until the first one is there, so that the page can tell who comes before."""
    first: Watch[None, list[Item]] = Watch(lambda _: list(islice(items, 1)), cancel, tick_s)
    for _ in first:
        if not first.has_ended:
            yield None
    yield from first.result
    yield from items
