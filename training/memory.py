"""How much memory a run takes: an estimate from its numbers, and a dry run that measures it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from training.batches import StepBatch, StepLoader

if TYPE_CHECKING:
    from training.setup import Trainer


def peak_memory_gib() -> float:
    """The most memory that this process has held: of the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def print_memory(trainer: Trainer, loader: StepLoader, say: Callable[[str], None]) -> dict[str, float]:
    """Runs the heaviest of the next steps' batches through one whole step and says its peak."""
    from training.train import optimizer_step

    heaviest = max((loader.load(step) for step in range(min(16, trainer.config.run.steps))), key=_weight)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    report, norm = optimizer_step(trainer, heaviest, 0.0)
    peak = peak_memory_gib()
    largest = max(chunk.input_ids.numel() for chunk in heaviest.chunks())
    say(f"dry run: {heaviest.tokens} tokens in {len(heaviest.chunks())} chunks, the largest of {largest}")
    say(f"dry run: loss {report.total(trainer.config):.4f}, gradient norm {norm:.3f}, peak memory {peak:.2f} GiB")
    return {"peak_memory_gib": peak, "loss": report.total(trainer.config)}


def _weight(batch: StepBatch) -> int:
    """Tokens of the largest chunk: what the peak depends on."""
    return max(chunk.input_ids.numel() * chunk.input_ids.shape[1] for chunk in batch.chunks())
