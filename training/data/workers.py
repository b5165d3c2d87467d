"""Steps prepared ahead: by one thread, or by processes where one core is too slow for the GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.load.loading import load_tokenizer
from grit_app.gritlm.prompts import Prompts
from training.config import TrainConfig
from training.data.batches import StepLoader
from training.data.chunk import Forwards
from training.data.formats import open_datasets
from training.data.teachers import Teachers
from training.step.batch import StepBatch

STEPS_AHEAD = 4
"""That each process holds ready."""


class _Steps(Dataset[StepBatch]):
    """Step → batch, in a process that opens the files by itself when it is first asked."""

    def __init__(
        self,
        config: TrainConfig,
        tokenizer_folder: Path,
        grit: GritConfig,
        ranks: tuple[int, int],
        forwards: Forwards,
        teachers: Teachers | None,
    ) -> None:
        self._config, self._folder, self._grit, self._ranks = config, tokenizer_folder, grit, ranks
        self._forwards, self._teachers = forwards, teachers
        self._loader: StepLoader | None = None

    def __getitem__(self, step: int) -> StepBatch:
        if self._loader is None:
            torch.set_num_threads(1)
            self._loader = StepLoader(
                self._config,
                open_datasets(self._config.data.train),
                Prompts(load_tokenizer(self._folder)),
                self._grit,
                *self._ranks,
                forwards=self._forwards,
                teachers=self._teachers,
            )
        return self._loader.load(step)


def batches(
    loader: StepLoader, start: int, *, processes: int, tokenizer_folder: Path, grit: GritConfig
) -> Iterator[StepBatch]:
    """The batches of steps `start`, `start + 1`, …, without end; the same ones for any number of processes."""
    if processes == 0:
        step = start
        while True:
            yield loader.prefetched(step)
            step += 1
    steps = _Steps(loader.config, tokenizer_folder, grit, loader.ranks, loader.forwards, loader.teachers)
    ahead: Any = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, 2**62),  # type: ignore[arg-type]
        num_workers=processes,
        prefetch_factor=STEPS_AHEAD,
        multiprocessing_context="spawn",  # a fork would inherit the tokenizer's threads
        pin_memory=torch.cuda.is_available(),
    )
    workers: Any = iter(ahead)
    try:
        yield from workers
    finally:
        with suppress(RuntimeError):  # one that is ended amid its work may abort: its batch is not wanted any more
            workers._shutdown_workers()
