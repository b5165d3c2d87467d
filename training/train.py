"""Fine-tune a model with GRIT.

    python -m training.train --config training/recipes/toy.yaml --output_dir runs/toy
    python -m training.train --config training/recipes/toy.yaml --output_dir runs/toy --resume auto
    accelerate launch --config_file training/recipes/accelerate-ddp.yaml -m training.train --config …

Every setting of the recipe can be overridden: --contrastive.temperature 0.05 --run.steps 100
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import torch
from jsonargparse import auto_cli

from grit_app.doors import one_sentence
from training.config import RunConfig, TrainConfig, TrainError
from training.data.batches import StepLoader
from training.data.formats import open_datasets
from training.data.teachers import open_teachers
from training.data.workers import batches
from training.run.adapters import check_adapters_move
from training.run.checkpoint import load_training_state, load_weights, newest_checkpoint, save_checkpoint, set_aside
from training.run.clock import Clock
from training.run.estimate import peak_memory_gib, print_memory
from training.run.metrics import Evaluator, RunLog
from training.run.optimizer import rate_factor
from training.run.setup import Trainer, make_accelerator, set_up
from training.run.update import optimizer_step
from training.step.distributed import Ranks

ADAPTERS_MUST_MOVE_BY = 5
"""Steps after which an adapter without any change is an error. The first can have rate 0 or underflow."""


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


def train(config: TrainConfig, say: Callable[[str], None] = print, began: float | None = None) -> dict[str, float]:
    """Runs the recipe; gives the last evaluation (or the last step's losses). Raises GritError with a sentence.

    began   when run.minutes began, by time.monotonic(); None: with the first step
    """
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    datasets = open_datasets(config.data.train)
    fingerprint = "|".join(dataset.fingerprint for dataset in datasets)
    accelerator = make_accelerator(config)
    ranks = Ranks.here(accelerator.device)
    say = say if ranks.is_main else _silent
    teachers = open_teachers(config, datasets, ranks, say)
    trainer = set_up(config, accelerator, teachers.width if teachers else 0)
    loader = StepLoader(
        config,
        datasets,
        trainer.prompts,
        trainer.grit,
        ranks.rank,
        ranks.size,
        forwards=trainer.forwards,
        teachers=teachers,
    )
    torch.manual_seed(config.run.seed + ranks.rank)  # dropout differs between processes
    try:
        describe(trainer, loader, say)
        if config.dry_run:
            return print_memory(trainer, loader, say)
        return _loop(trainer, loader, fingerprint, _resume(trainer, fingerprint, say), say, began)
    finally:
        loader.close()
        if torch.distributed.is_initialized():
            trainer.accelerator.end_training()


class Start(NamedTuple):
    """Where a run begins."""

    step: int = 0
    best: float | None = None
    seconds: float = 0.0
    """Spent of run.minutes."""


def _loop(
    trainer: Trainer,
    loader: StepLoader,
    fingerprint: str,
    start: Start,
    say: Callable[[str], None],
    began_s: float | None = None,
) -> dict[str, float]:
    """The run: prepare, gradient, update, log, evaluate, save."""
    config, run, best = trainer.config, trainer.config.run, start.best
    evaluator = Evaluator(trainer)
    last: dict[str, float] = {}
    with RunLog(config, trainer.ranks.is_main, start.step, say) as log, Stop() as stop:
        if start.step == 0:
            last = evaluator.run(0, log)
        waited_s = 0.0 if began_s is None else time.monotonic() - began_s
        clock = Clock(run, trainer.ranks, start.seconds + waited_s)
        if start.step and clock.is_over(start.step):  # a new run makes one step, however late it is
            return last
        steps = batches(
            loader,
            start.step,
            processes=run.loader_processes,
            tokenizer_folder=trainer.folder,
            grit=trainer.grit,
        )
        began = time.perf_counter()
        for step, batch in enumerate(steps, start.step):
            rate = config.optimizer.learning_rate * rate_factor(*clock.moment(step), config.optimizer)
            report, norm = optimizer_step(trainer, batch, rate)
            clock.step_done()
            seconds = time.perf_counter() - began
            done, is_last = step + 1, clock.is_over(step + 1)
            memory_gib = peak_memory_gib()
            log.step(done, report, batch, norm=norm, rate=rate, seconds=seconds, memory_gib=memory_gib, is_last=is_last)
            if config.adapter.method != "full" and (done == ADAPTERS_MUST_MOVE_BY or is_last):
                check_adapters_move(trainer.core)
            stopping = bool(trainer.ranks.max(int(stop.requested)))  # one process's signal stops all at the same step
            clock.pause()
            measured = False
            if is_last or (config.evaluation.every and done % config.evaluation.every == 0 and not stopping):
                measured = True
                last = evaluator.run(done, log) or last
            is_best = measured and evaluator.is_better(last, best)
            best = last[config.evaluation.best_metric] if is_best else best
            if is_best or is_last or stopping or done % run.save_every == 0:
                folder = save_checkpoint(trainer, done, best, fingerprint, is_best=is_best, seconds=clock.seconds)
                say(f"saved {folder}")
            clock.go_on()
            if is_last:
                break
            if stopping:
                say(f"stopped after step {done}; go on with --resume auto")
                break
            began = time.perf_counter()
        return last or {**report.values}


def _resume(trainer: Trainer, fingerprint: str, say: Callable[[str], None]) -> Start:
    """Where the run begins, after loading what `resume` asks for."""
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
        return Start()
    load_weights(trainer, found)
    start = Start(*load_training_state(trainer, found, fingerprint))
    say(f"resumed from step {start.step}")
    return start


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
        f"{'sharded' if trainer.is_sharded else 'replicated'}, "
        f"{'packed' if trainer.forwards.is_packed else 'padded'} rows; {_length(config.run)}"
    )
    for stream, found in loader.datasets.items():
        rows = sum(len(d) for d in found)
        size = getattr(config, stream).batch_size
        weighted = max(1.0, sum(len(d) * d.file.weight for d in found))
        epochs = f", {config.run.steps * size / weighted:.2f} epochs" if config.run.steps else ""
        say(f"{stream}: {rows} rows in {len(found)} file(s), {size} a step{epochs}")


def _length(run: RunConfig) -> str:
    """How long the run is, for people."""
    named = ((run.steps, "steps"), (run.minutes, "minutes"))
    return " or ".join(f"{value:g} {unit}" for value, unit in named if value is not None)


def _silent(_: str) -> None:
    """What processes other than the first say."""


def main(arguments: list[str] | None = None) -> None:
    with one_sentence():
        config: Any = auto_cli(TrainConfig, args=arguments, as_positional=False)
        train(config)


if __name__ == "__main__":
    main()
