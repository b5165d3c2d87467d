"""How long the paper's commands will take on this machine: its speed, measured for seconds, times the tokens of each.

An estimate for planning, good to a factor of two or three: texts differ in length, and a machine in what else it does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grit_app.gritlm import GritLM
from training.paper import sets
from training.paper.recording import PaperSettings

TRAINING: Final = 3
"""Forwards that a trained token costs: its own and twice that backwards."""

CHARACTERS: Final = 4.5
"""Of a token."""

PROMPT: Final = 250
"""Tokens of a question with a passage."""

ANSWER: Final = 24
"""Tokens of an answer."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second."""

    read: float
    written: float

    def hours(self, read: float, written: float = 0.0) -> float:
        return (read / self.read + written / self.written) / 3600


@dataclass(frozen=True)
class Training:
    """What the ablations train."""

    recipe: Mapping[str, Any]
    arms: int
    seeds: int
    steps: int

    def hours(self, speed: Speed, passages: float) -> float:
        """Of all runs with their measurements, over so many tokens of passages."""
        trained = self.steps * _step_tokens(self.recipe) * TRAINING
        return self.arms * self.seeds * speed.hours(trained + 1.5 * passages, 240 * ANSWER)


def measure_speed(model: GritLM) -> Speed:
    """By 32 texts embedded and one answer written."""
    text = "The river reaches the sea after three hundred kilometres, and the bees make honey from its banks. " * 6
    texts = [f"{number} {text}" for number in range(32)]
    tokens = sum(model.prompts.count(one) for one in texts)
    model.encode(texts[:2])  # what the first use costs is no speed
    started_s = time.perf_counter()
    model.encode(texts)
    read = tokens / (time.perf_counter() - started_s)
    stream = model.stream([{"role": "user", "content": texts[0]}], ANSWER)
    stream.read_all()
    stats = stream.stats
    written = max(1, stats.new_tokens) / max(1e-6, stats.total_ms - stats.ttft_ms) * 1e3
    return Speed(read, written)


def expected_hours(settings: PaperSettings, speed: Speed, pairs: int, training: Training | None) -> dict[str, float]:
    """Command → hours. `pairs` are the preferences that are tuned on."""
    corpus = {name: _retrieval_tokens(settings.data, name, settings.limit) for name in sets.RETRIEVAL_SETS}
    passages, queries = sum(c for c, _ in corpus.values()), sum(q for _, q in corpus.values())
    similar = sum(_sts_tokens(settings.data, name, settings.limit) for name in sets.STS_SETS)
    answers = settings.limit or 200
    asked = settings.limit or 60
    tuned = 3 * (settings.limit or 100)
    return {
        "table1": speed.hours(similar + 2 * passages + 8 * answers * PROMPT, answers * ANSWER),
        "rerank": speed.hours(passages + 3 * asked * 10 * 4 * PROMPT),
        "fewshot": speed.hours(passages + 2 * 3 * queries),
        "rag": speed.hours(8 * asked * PROMPT + 7 * 5 * 12_000, (8 * asked + 7 * 5 * 6) * 16),
        "kto": speed.hours(2 * pairs * 2 * PROMPT * (TRAINING + 1) + tuned * 3 * PROMPT, tuned * 3 * ANSWER),
        "ablations": training.hours(speed, passages) if training else 0.0,
    }


def _retrieval_tokens(data: Path, name: str, limit: int | None) -> tuple[float, float]:
    """Of the passages, and of the queries."""
    found = sets.retrieval_set(name, data, limit)
    return tuple(sum(map(len, texts.values())) / CHARACTERS for texts in (found.corpus, found.queries))  # type: ignore[return-value]


def _sts_tokens(data: Path, name: str, limit: int | None) -> float:
    rows = sets.sts_rows(name, data)[:limit]
    return sum(len(row["sentence1"]) + len(row["sentence2"]) for row in rows) / CHARACTERS


def _step_tokens(recipe: Mapping[str, Any]) -> float:
    """About half of what the recipe's limits allow."""
    data, contrast = recipe["data"], recipe.get("contrastive", {})
    passage = data.get("passage_max_length", 2048)
    pairs = data.get("query_max_length", 256) + (1 + contrast.get("negatives", 1)) * passage
    written = recipe.get("generative", {}).get("batch_size", 32) * 2 * PROMPT
    read = recipe.get("rag", {}).get("batch_size", 16) * 4 * PROMPT
    return (contrast.get("batch_size", 256) * pairs + written + read) / 2
