"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations


def wsd(step: int, *, total_steps: int, warmup_steps: int, decay_steps: int, floor: float = 0.0) -> float:
    """Warm-up, stable, decay: the factor of the peak learning rate at `step` (0 … total_steps - 1).

    Linear up over `warmup_steps`, 1 until `decay_steps` before the end, linear down to `floor`. Unlike a cosine the
    stable part does not know the end: a run can be prolonged from any of its weights, and only the decay is repeated.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    remaining = total_steps - step
    if remaining >= decay_steps:
        return 1.0
    return floor + (1.0 - floor) * max(remaining, 0) / max(decay_steps, 1)
