"""Clock readings and what is said about them: stages of one run, and the summary of many runs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

Summary = dict[str, float]
"""`{median, p10, p90, min, n}`: the form of every key that ends in `_ms`."""


def summarize(samples: Sequence[float], digits: int = 3) -> Summary:
    """Median, the band that holds 80 % of the samples, the minimum, and how many there were (at least one)."""
    values = np.asarray(samples, dtype=np.float64)
    p10, median, p90 = np.percentile(values, [10, 50, 90])
    numbers = {"median": median, "p10": p10, "p90": p90, "min": values.min()}
    return {name: round(float(value), digits) for name, value in numbers.items()} | {"n": len(values)}


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StageClock:
    """Milliseconds of the named stages of one run, each read with the device at rest.

    clock = StageClock(device)
    with clock.stage("load"):
        ...
    clock.stages          # {"load": 3.1}
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to the stage."""
        synchronize(self._device)
        start = time.perf_counter()
        yield
        synchronize(self._device)
        self.add(name, (time.perf_counter() - start) * 1e3)

    def add(self, name: str, milliseconds: float) -> None:
        self.stages[name] = self.stages.get(name, 0.0) + milliseconds
