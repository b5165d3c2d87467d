"""Small data and settings for the training tests."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.load.loading import load_tokenizer
from grit_app.gritlm.prompts import Prompts
from training.config import (
    AdapterConfig,
    ContrastiveConfig,
    DataConfig,
    DataFile,
    GenerativeConfig,
    ModelConfig,
    OptimizerConfig,
    RagConfig,
    RunConfig,
    TrainConfig,
)
from training.data.batches import StepLoader
from training.data.formats import open_datasets
from training.data.teachers import open_teachers
from training.run.setup import build_module, choose_forwards
from training.step.distributed import Ranks
from training.step.module import GritModule
from training.step.step import Stepper

WORDS = ["river", "sea", "bee", "honey", "wax", "school", "text", "answer", "question", "number", "hello", "mountains"]


def words(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def contrastive_rows(count: int, seed: int = 0, negatives: tuple[int, int] = (2, 2)) -> list[dict[str, Any]]:
    """Rows with an instruction on two thirds of the queries, and a doubled positive now and then."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        query = words(rng, 2, 6)
        positive = words(rng, 3, 40) if number % 5 or not rows else rows[-1]["pos"][0]
        rows.append(
            {
                "query": ["Find the passage", query] if number % 3 else query,
                "pos": [positive],
                "neg": [words(rng, 3, 30) for _ in range(rng.randint(*negatives))],
            }
        )
    return rows


def chat_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [{"text": [words(rng, 2, 9) for _ in range(2 * rng.randint(1, 3))]} for _ in range(count)]


def rag_rows(count: int, seed: int = 2) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return [
        {
            "question": words(rng, 3, 6),
            "passages": [words(rng, 5, 30) for _ in range(5)],
            "gold": [] if number % 4 == 3 else [rng.randrange(5)],
            "answer": words(rng, 1, 4),
        }
        for number in range(count)
    ]


def make_config(folder: Path, base: Path, *, streams: str = "cgr", rows: int = 40, **sections: Any) -> TrainConfig:
    """A unified run over fresh data files in `folder`; `sections` replace parts of it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for letter, make in (("c", contrastive_rows), ("g", chat_rows), ("r", rag_rows)):
        if letter in streams:
            files.append(DataFile(path=str(write_rows(folder / f"{letter}.jsonl", make(rows)))))
    values: dict[str, Any] = {
        "model": ModelConfig(path=str(base)),
        "data": DataConfig(
            train=files or [DataFile(path="none")],
            query_max_length=64,
            passage_max_length=256,
            generative_max_length=512,
        ),
        "run": RunConfig(steps=4, precision="fp32", save_every=100),
        "output_dir": folder / "run",
        "contrastive": ContrastiveConfig(batch_size=8, negatives=2, chunk_tokens=256, temperature=0.1),
        "generative": GenerativeConfig(batch_size=8, chunk_tokens=128),
        "rag": RagConfig(batch_size=8, chunk_tokens=512),
        "optimizer": OptimizerConfig(learning_rate=1e-3),
    }
    return TrainConfig(**values | sections)


class Workbench:
    """A module with its loader and stepper in one process."""

    def __init__(self, config: TrainConfig, change: Callable[[GritModule], None] | None = None) -> None:
        folder = Path(config.model.path)
        self.config = config
        datasets = open_datasets(config.data.train)
        ranks = Ranks.here(torch.device("cpu"))
        teachers = open_teachers(config, datasets, ranks, lambda line: None)
        self.width = teachers.width if teachers else 0
        self.core, self.grit = build_module(config, folder, torch.device("cpu"), self.width)
        forwards = choose_forwards(config, self.core, torch.device("cpu"))
        if change is not None:
            change(self.core)
        self.prompts = Prompts(load_tokenizer(folder))
        self.loader = StepLoader(config, datasets, self.prompts, self.grit, forwards=forwards, teachers=teachers)
        self.stepper = Stepper(self.core, self.core, config, ranks)

    def gradients(self, step: int = 0) -> dict[str, torch.Tensor]:
        """Gradient of one step, by parameter name."""
        self.core.zero_grad(set_to_none=True)
        self.report = self.stepper.gradients(self.loader.load(step))
        return gradients_of(self.core)


def gradients_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def relative_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest deviation of a parameter's gradient, relative to the largest entry of all."""
    assert found.keys() == expected.keys() and expected
    scale = max(float(g.abs().max()) for g in expected.values())
    assert scale > 1e-6, "the gradient is zero: nothing is compared"
    return max(float((found[name] - expected[name]).abs().max()) for name in expected) / scale


def lora(**changes: Any) -> AdapterConfig:
    return AdapterConfig(method="lora", rank=4, alpha=8, **changes)


def plain_grit() -> GritConfig:
    return GritConfig(answer_prefix="", retrieval_instruction="Find the passage")
