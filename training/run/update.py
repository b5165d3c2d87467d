"""One optimizer step: gradient, clipping, update; and what stops a run whose numbers are not finite."""

from __future__ import annotations

import math

from training.config import TrainError
from training.run.optimizer import set_rate, total_norm
from training.run.setup import Trainer
from training.step.batch import StepBatch
from training.step.step import StepReport


class NotFinite(TrainError):
    """A loss or the gradient norm is NaN or infinite."""


def optimizer_step(trainer: Trainer, batch: StepBatch, rate: float) -> tuple[StepReport, float]:
    """Gives the losses and the gradient's norm before clipping."""
    trainer.module.train()
    trainer.optimizer.zero_grad(set_to_none=True)
    report = trainer.stepper.gradients(batch)
    norm = total_norm(trainer.core.parameters(), trainer.config.optimizer.clip_norm)
    broken = [name for name, value in report.values.items() if not math.isfinite(value)]
    if broken or not math.isfinite(norm):
        if trainer.config.run.non_finite == "stop":
            raise NotFinite(_not_finite_message(batch, broken, norm))
        trainer.optimizer.zero_grad(set_to_none=True)
        return report, norm
    set_rate(trainer.optimizer, rate)
    trainer.optimizer.step()
    return report, norm


def _not_finite_message(batch: StepBatch, broken: list[str], norm: float) -> str:
    streams = sorted({name.split("_")[-1] for name in broken}) or sorted(batch.rows)
    rows = [where for stream in streams for where in batch.rows.get(stream, [])]  # type: ignore[call-overload]
    return (
        f"Step {batch.step + 1}: {', '.join(broken) or 'the gradient norm'} is not finite (norm {norm}). "
        f"Samples of this process: {'; '.join(rows[:8])}{' …' if len(rows) > 8 else ''}. Lower the learning rate, or "
        "set run.non_finite to skip to go on without such steps."
    )
