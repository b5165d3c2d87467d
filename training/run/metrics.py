"""Numbers of a run: one aligned line a step, the same as JSON lines and for TensorBoard, and evaluation."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
from transformers import PreTrainedModel

from grit_app.errors import GritError
from grit_app.gritlm import GritLM
from grit_app.gritlm.load.loading import quiet_transformers
from training.config import ConfigError, TrainConfig, TrainError
from training.evaluation.held_out import measure_files
from training.step.batch import StepBatch
from training.step.step import StepReport

if TYPE_CHECKING:
    from training.run.setup import Trainer

log = logging.getLogger(__name__)

COLUMNS = (
    ("rep", "loss_contrastive", "7.4f"),
    ("acc@1", "accuracy_at_1_contrastive", "5.3f"),
    ("gen", "loss_generative", "7.4f"),
    ("rag", "loss_rag", "7.4f"),
    ("rag-rep", "loss_rag_contrastive", "7.4f"),
)


class RunLog:
    """Writes `metrics.jsonl` and TensorBoard files, and says one line a step; a progress bar on a terminal."""

    def __init__(self, config: TrainConfig, is_main: bool, start: int, say: Callable[[str], None]) -> None:
        self._config, self._is_main, self._say = config, is_main, say
        self._start, self._began = start, time.perf_counter()
        self._file: TextIO | None = None
        self._board: Any = None
        self._bar: Any = None

    def __enter__(self) -> RunLog:
        if self._is_main:
            folder = self._config.output_dir
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _continued(folder / "metrics.jsonl", self._start).open("a", encoding="utf-8")
            if importlib.util.find_spec("tensorboard") is not None:
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(folder / "tensorboard"))
            if sys.stderr.isatty():
                from tqdm import tqdm

                self._bar = tqdm(total=self._config.run.steps, initial=self._start, unit="step")
        return self

    def __exit__(self, *_: object) -> None:
        for resource in (self._file, self._board, self._bar):
            if resource is not None:
                resource.close()

    def step(
        self,
        step: int,
        report: StepReport,
        batch: StepBatch,
        *,
        norm: float,
        rate: float,
        seconds: float,
        memory_gib: float,
        is_last: bool = False,
    ) -> None:
        """The numbers of one step, counted from 1. Tokens are this process's."""
        values = {
            "loss": report.total(self._config),
            **report.values,
            "grad_norm": norm,
            "lr": rate,
            "tokens_per_s": batch.tokens / seconds,
            "padding_share": 1 - batch.tokens / max(1, batch.padded_tokens),
            "seconds": seconds,
            "peak_memory_gib": memory_gib,
            "replaced_samples": float(batch.replaced),
        }
        self.write(step, values)
        if self._bar is not None:
            self._bar.update()
        if step % self._config.run.log_every == 0 or is_last:
            parts = [f"{label} {report.values[key]:{form}}" for label, key, form in COLUMNS if key in report.values]
            total = self._config.run.steps
            width = len(str(total)) if total else 5
            of_total = f"/{total}" if total else ""
            self._say(
                f"step {step:{width}d}{of_total}  loss {values['loss']:7.4f}  {'  '.join(parts)}  "
                f"norm {norm:7.3f}  lr {rate:.2e}  {values['tokens_per_s']:7.0f} tok/s  "
                f"pad {values['padding_share']:4.0%}  {memory_gib:5.2f} GiB"
            )

    def write(self, step: int, values: dict[str, float]) -> None:
        """One JSON line, and the same numbers for TensorBoard."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def say(self, line: str) -> None:
        self._say(line)


def _continued(path: Path, start: int) -> Path:
    """The file without lines of steps after `start`, which a stopped run may have left behind its last checkpoint."""
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= start and start > 0]
        path.write_text("".join(kept), encoding="utf-8")
    return path


class Evaluator:
    """Measures the model as it stands through the serving path (`training.evaluate`), on the first process."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._config = trainer, trainer.config.evaluation

    def run(self, step: int, run_log: RunLog) -> dict[str, float]:
        """Metric → value, on every process; empty if nothing is to be measured. Every process must call it.

        Raises ConfigError if evaluation.best_metric is not among them.
        """
        if not self._config.files and self._config.suite is None:
            return {}
        # Serving must not disturb the run: dropout off, and the random states as before.
        self._trainer.core.eval()
        with torch.random.fork_rng():
            mine = self._measured(step)
        self._trainer.core.train()
        # Everybody needs them: whether this is the best checkpoint is decided, and saved, by all together. And a
        # failure stops everybody with its own sentence: alone, the others would wait for the first one.
        values, failure = self._trainer.ranks.shared(mine)
        if failure:
            raise TrainError(failure)
        if self._trainer.ranks.is_main:
            run_log.write(step, {f"eval/{name}": value for name, value in values.items()})
            run_log.say(f"evaluation after step {step}: " + "  ".join(f"{k} {v:.4f}" for k, v in values.items()))
        name = self._config.best_metric
        if name and name not in values:
            raise ConfigError(f"evaluation.best_metric {name} is not measured. Use one of {', '.join(sorted(values))}.")
        return values

    def _measured(self, step: int) -> tuple[dict[str, float], str]:
        """(values, the sentence of an error); both empty on a process that has no model."""
        trainer = self._trainer
        try:
            hf_model = whole_model(trainer)
            if hf_model is None:
                return {}, ""
            return self._measure(GritLM(hf_model, trainer.tokenizer, trainer.grit, identity=f"step {step}")), ""
        except GritError as error:
            return {}, str(error)
        except Exception as error:
            if trainer.ranks.size == 1:
                raise
            log.exception("evaluation failed")
            return {}, f"The first process could not evaluate ({type(error).__name__}: {error}). Its log says where."

    def _measure(self, model: GritLM) -> dict[str, float]:
        values = measure_files(model, self._config.files, self._config.limit)
        if self._config.suite is not None:
            from training.evaluate import evaluate  # needs the app's library and its packages

            values |= evaluate(model, self._config.suite, limit=self._config.limit)
        return values

    def is_better(self, values: dict[str, float], best: float | None) -> bool:
        """Whether the named metric improved; False if none is named."""
        name = self._config.best_metric
        if not name or name not in values:
            return False
        lower_is_better = any(word in name for word in ("perplexity", "loss"))
        return best is None or (values[name] < best if lower_is_better else values[name] > best)


def whole_model(trainer: Trainer) -> PreTrainedModel | None:
    """The model for serving, on the first process; None on the others. Every process must call it.

    Sharded weights are gathered into a copy of its own: serving calls parts of the model past FSDP's hooks.
    """
    if not trainer.is_sharded:
        return trainer.core.hf_model if trainer.ranks.is_main else None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(trainer.core, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not trainer.ranks.is_main:
        return None
    own = {name.removeprefix("language_model."): value for name, value in weights.items()}
    # Not an empty model that a state dict fills: what no state dict holds (rotary frequencies) would be whatever
    # the memory held before.
    config = trainer.core.config
    with quiet_transformers():
        model: Any = type(trainer.core.hf_model).from_pretrained(
            None, config=config, state_dict=own, dtype=torch.float32, attn_implementation=config._attn_implementation
        )
    return model.to(trainer.ranks.device).eval()
