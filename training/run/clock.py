"""How far a run is: by its steps, by its minutes, or by whichever is further."""

from __future__ import annotations

import time
from collections.abc import Callable

from training.config import RunConfig
from training.step.distributed import Ranks

TICKS = 100_000
"""A run by the clock has so many moments; the learning rate is a function of the moment as of a step."""


class Clock:
    """Every process sees the first one's time, so that all stop at the same step.

    spent_s   of run.minutes, by the checkpoint that the run goes on from
    """

    def __init__(
        self, run: RunConfig, ranks: Ranks, spent_s: float = 0.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._run, self._ranks, self._now = run, ranks, now
        self._began = now() - spent_s
        self._paused_at: float | None = None
        self._last_step_s = 0.0
        self.seconds = spent_s

    def step_done(self) -> None:
        """To be called after each step, by every process."""
        before = self.seconds
        self.seconds = self._elapsed()
        self._last_step_s = self.seconds - before

    def pause(self) -> None:
        """What follows (an evaluation, a checkpoint) does not count until `go_on`."""
        self._paused_at = self._now()

    def go_on(self) -> None:
        """Training goes on after `pause`."""
        if self._paused_at is not None:
            self._began += self._now() - self._paused_at
            self._paused_at = None

    def moment(self, step: int) -> tuple[int, int]:
        """How far the run is before this step (counted from 0), as (place, total). The learning rate follows it."""
        if self._run.minutes is None:
            assert self._run.steps is not None
            return step, self._run.steps
        share = self.seconds / (60 * self._run.minutes)
        if self._run.steps is not None:
            share = max(share, step / self._run.steps)
        return min(TICKS - 1, int(share * TICKS)), TICKS

    def is_over(self, done: int) -> bool:
        """Whether the run ends after `done` steps: another step would end later than it is worth."""
        if self._run.steps is not None and done >= self._run.steps:
            return True
        if self._run.minutes is None:
            return False
        return self.seconds + self._last_step_s / 2 >= 60 * self._run.minutes

    def _elapsed(self) -> float:
        if self._run.minutes is None:
            return self._now() - self._began
        return self._ranks.exchange([round(1000 * (self._now() - self._began))])[0][0] / 1000
