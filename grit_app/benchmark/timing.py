"""What is said about many clock readings, and waiting for the device before one."""

from __future__ import annotations

from collections.abc import Sequence

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
