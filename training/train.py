"""Fine-tune a model with GRIT.

    python -m training.train --config training/recipes/toy.yaml --output_dir runs/toy
    python -m training.train --config training/recipes/toy.yaml --output_dir runs/toy --resume auto
    accelerate launch --config_file training/recipes/accelerate-ddp.yaml -m training.train --config …

Every setting of the recipe can be overridden: --contrastive.temperature 0.05 --run.steps 100
"""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from jsonargparse import auto_cli

from grit_app.errors import GritError
from training.config import TrainConfig, TrainError
from training.data.batches import StepLoader
from training.data.formats import open_datasets
from training.run.adapters import check_adapters_move
from training.run.checkpoint import load_training_state, load_weights, newest_checkpoint, save_checkpoint, set_aside
from training.run.estimate import peak_memory_gib, print_memory
from training.run.metrics import Evaluator, RunLog
from training.run.optimizer import rate_factor, set_rate, total_norm
from training.run.setup import Trainer, set_up
from training.step.batch import StepBatch
from training.step.step import StepReport

ADAPTERS_MUST_MOVE_BY = 5
"""Steps after which an adapter without any change is an error. The first can have rate 0 or underflow."""


class NotFinite(TrainError):
    """A loss or the gradient norm is NaN or infinite."""


class Stop:
    """Set by SIGTERM or SIGINT: the running step is finished, a checkpoint saved, and the run ends."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Stop:
        self._old = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


def train(config: TrainConfig, say: Callable[[str], None] = print) -> dict[str, float]:
    """Runs the recipe; gives the last evaluation (or the last step's losses). Raises GritError with a sentence."""
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    datasets = open_datasets(config.data.train)
    fingerprint = "|".join(dataset.fingerprint for dataset in datasets)
    trainer = set_up(config)
    say = say if trainer.ranks.is_main else _silent
    loader = StepLoader(config, datasets, trainer.prompts, trainer.grit, trainer.ranks.rank, trainer.ranks.size)
    torch.manual_seed(config.run.seed + trainer.ranks.rank)  # dropout differs between processes
    try:
        describe(trainer, loader, say)
        if config.dry_run:
            return print_memory(trainer, loader, say, optimizer_step)
        start, best = _resume(trainer, fingerprint, say)
        return _loop(trainer, loader, fingerprint, start, best, say)
    finally:
        loader.close()
        if torch.distributed.is_initialized():
            trainer.accelerator.end_training()


def _loop(
    trainer: Trainer, loader: StepLoader, fingerprint: str, start: int, best: float | None, say: Callable[[str], None]
) -> dict[str, float]:
    """The run: prepare, gradient, update, log, evaluate, save."""
    config, run = trainer.config, trainer.config.run
    evaluator = Evaluator(trainer)
    last: dict[str, float] = {}
    with RunLog(config, trainer.ranks.is_main, start, say) as log, Stop() as stop:
        if start == 0:
            last = evaluator.run(0, log)
        for step in range(start, run.steps):
            began = time.perf_counter()
            batch = loader.prefetched(step)
            rate = config.optimizer.learning_rate * rate_factor(step, run.steps, config.optimizer)
            report, norm = optimizer_step(trainer, batch, rate)
            seconds = time.perf_counter() - began
            done = step + 1
            log.step(done, report, batch, norm=norm, rate=rate, seconds=seconds, memory_gib=peak_memory_gib())
            if config.adapter.method != "full" and done == min(ADAPTERS_MUST_MOVE_BY, run.steps):
                check_adapters_move(trainer.core)
            stopping = bool(trainer.ranks.max(int(stop.requested)))  # one process's signal stops all at the same step
            is_last = done == run.steps
            measured = False
            if is_last or (config.evaluation.every and done % config.evaluation.every == 0 and not stopping):
                measured = True
                last = evaluator.run(done, log) or last
            is_best = measured and evaluator.is_better(last, best)
            best = last[config.evaluation.best_metric] if is_best else best
            if is_best or is_last or stopping or done % run.save_every == 0:
                folder = save_checkpoint(trainer, done, best, fingerprint, is_best=is_best)
                say(f"saved {folder}")
            if stopping and not is_last:
                say(f"stopped after step {done}; go on with --resume auto")
                break
        return last or {**report.values} if start < run.steps else last


def optimizer_step(trainer: Trainer, batch: StepBatch, rate: float) -> tuple[StepReport, float]:
    """Gradient, clipping and update of one step; gives the losses and the gradient's norm before clipping."""
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


def _resume(trainer: Trainer, fingerprint: str, say: Callable[[str], None]) -> tuple[int, float | None]:
    """(first step, best value so far), after loading what `resume` asks for."""
    config, output_dir = trainer.config, trainer.config.output_dir
    found = newest_checkpoint(output_dir, trainer.ranks, with_earlier=config.resume == "weights")
    if config.resume == "no" and found:
        raise TrainError(
            f"{output_dir} holds checkpoints of an earlier run. Go on with --resume auto, or choose another "
            "--output_dir."
        )
    if config.resume == "weights":
        if found is None:
            raise TrainError(f"{output_dir} holds no checkpoint whose weights could be taken. Leave --resume out.")
        load_weights(trainer, found)
        trainer.ranks.barrier()  # nobody reads them any more
        if trainer.ranks.is_main:
            set_aside(output_dir)
        say(f"started from the weights of {found.name}")
    if config.resume != "auto" or found is None:
        return 0, None
    load_weights(trainer, found)
    step, best = load_training_state(trainer, found, fingerprint)
    say(f"resumed from step {step}")
    return step, best


def describe(trainer: Trainer, loader: StepLoader, say: Callable[[str], None]) -> None:
    """What the run is about to do, in numbers."""
    trained = sum(p.numel() for p in trainer.core.parameters() if p.requires_grad)
    total = sum(p.numel() for p in trainer.core.parameters())
    config = trainer.config
    say(
        f"model {config.model.path}: {total / 1e6:.2f} M parameters, "
        f"{trained / 1e6:.2f} M trained ({config.adapter.method})"
    )
    say(
        f"{trainer.ranks.size} process(es) on {trainer.ranks.device}, {config.run.precision}, "
        f"{'sharded' if trainer.is_sharded else 'replicated'}; {config.run.steps} steps"
    )
    for stream, found in loader.datasets.items():
        rows = sum(len(d) for d in found)
        size = getattr(config, stream).batch_size
        epochs = config.run.steps * size / max(1.0, sum(len(d) * d.file.weight for d in found))
        say(f"{stream}: {rows} rows in {len(found)} file(s), {size} a step, {epochs:.2f} epochs")


def _silent(_: str) -> None:
    """What processes other than the first say."""


def main(arguments: list[str] | None = None) -> None:
    try:
        config: Any = auto_cli(TrainConfig, args=arguments, as_positional=False)
        train(config)
    except GritError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
