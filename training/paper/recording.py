"""What a measurement of the paper leaves behind: one JSON file a command, with the command, model and machine in it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grit_app.benchmark import environment
from grit_app.benchmark.show.paper import FOLDER
from grit_app.gritlm import GritLM

Row = dict[str, Any]


@dataclass(frozen=True)
class PaperSettings:
    """One run of a command."""

    model_name: str
    data: Path
    limit: int | None = None
    """Queries, pairs or questions of each set; None: whole sets."""

    output: Path = FOLDER
    device: str = "cpu"
    quantization: str = "none"
    sets: str = ""
    """Names of test sets, separated by commas: what is measured of those that a command knows. Empty: all of them."""

    _loaded: list[GritLM] = field(default_factory=list, compare=False, repr=False)

    @property
    def model(self) -> GritLM:
        """Loaded once, at its first use."""
        if not self._loaded:
            self._loaded.append(
                GritLM.from_pretrained(self.model_name, device=self.device, quantization=self.quantization)
            )
        return self._loaded[0]

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Those of a command's sets that are wanted, in its order."""
        wanted = [name.strip() for name in self.sets.split(",") if name.strip()]
        return [name for name in names if not wanted or name in wanted]

    def record(
        self,
        name: str,
        measure: Callable[[PaperSettings], list[Row]],
        again: bool = True,
        options: Mapping[str, object] | None = None,
        notes: list[str] | None = None,
    ) -> Path:
        """Runs `measure` and writes its rows. With `again` False a recording of the same run is left as it is.

        options   of the command, besides those of every command
        notes     what a reader must know of the numbers; `measure` may add some
        """
        path = self.output / f"{name}.json"
        if not again and self.is_recorded(name, options or {}):
            return path
        started_s = time.perf_counter()
        rows = measure(self)
        recording = {
            "command": self.command(name, options or {}),
            "model": Path(self.model_name).name,
            "weights": self.weights,
            "limit": self.limit,
            "sets": self.sets,
            "seconds": round(time.perf_counter() - started_s),
            "environment": environment.describe(self.model),
            "notes": notes or [],
            "rows": rows,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.part")
        aside.write_text(json.dumps(recording, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        aside.replace(path)
        return path

    def command(self, name: str, options: Mapping[str, object]) -> str:
        """How anyone repeats it."""
        return f"python -m training.paper {name} --model {self.model_name} --data DATA{self._options(options)}"

    def is_recorded(self, name: str, options: Mapping[str, object]) -> bool:
        """Whether the same run's recording is there."""
        path = self.output / f"{name}.json"
        if not path.is_file():
            return False
        recording = json.loads(path.read_text(encoding="utf-8"))
        own = {"model": Path(self.model_name).name, "limit": self.limit, "sets": self.sets}
        told = recording["command"].endswith(self._options(options))
        is_same_run = told and all(recording.get(name) == value for name, value in own.items())
        return is_same_run and recording.get("weights") == self.weights  # trained on, a model keeps its name

    @property
    def weights(self) -> str:
        """Tells weights apart that bear the same name."""
        return self.model.identity[:12]

    def _options(self, options: Mapping[str, object]) -> str:
        own = {"limit": self.limit, "sets": self.sets}
        given = {option: value for option, value in own.items() if value} | dict(options)
        return "".join(f" --{option} {value}" for option, value in given.items())


def mean_interval(values: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Mean with its 95 % interval by resampling: {value, low, high, n}."""
    numbers = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(numbers), size=(2000, len(numbers)))
    low, high = np.quantile(numbers[picks].mean(axis=1), [0.025, 0.975])
    return {"value": float(numbers.mean()), "low": float(low), "high": float(high), "n": len(numbers)}


def correlation_interval(rho: float, n: int) -> dict[str, float]:
    """A Spearman correlation with its 95 % interval {value, low, high, n}.

    Source: Bonett and Wright 2000 (Psychometrika 65): Fisher's transform with variance (1 + ρ²/2) / (n − 3).
    """
    width = 1.96 * math.sqrt((1 + rho * rho / 2) / max(1, n - 3))
    centre = math.atanh(min(0.999999, max(-0.999999, rho)))
    return {"value": rho, "low": math.tanh(centre - width), "high": math.tanh(centre + width), "n": n}


def error_interval(value: float, standard_error: float, n: int) -> dict[str, float]:
    """A mean with the 95 % interval of its standard error: {value, low, high, n}."""
    return {"value": value, "low": value - 1.96 * standard_error, "high": value + 1.96 * standard_error, "n": n}
