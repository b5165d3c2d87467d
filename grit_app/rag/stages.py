"""Where the time of an answer goes: an observer of its stages.

`answer(…, stages=StageTimes())` measures each stage as it runs. A benchmark gives an observer of its own that waits
for the device before each reading.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("tokenise", "embed", "search", "load", "join", "tail", "decode")
"""Laying the prompt out, embedding the question, searching, getting caches of blocks, joining them, reading what no
cache holds up to the first token, and writing the rest."""


class StageTimes:
    """Milliseconds of each stage of one answer, summed where a stage runs more than once."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to the stage."""
        self.settle()
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.settle()
            self.add(name, (time.perf_counter() - started_s) * 1e3)

    def add(self, name: str, milliseconds: float) -> None:
        self.ms[name] += milliseconds

    def settle(self) -> None:
        """Called before each reading of the clock: a place to wait for the device."""
