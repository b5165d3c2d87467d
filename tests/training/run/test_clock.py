"""A run by the clock: the rate follows the time, and the last checkpoint lies at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.helpers import lora, make_config
from training.average import AverageConfig, average
from training.config import ConfigError, OptimizerConfig, RunConfig, TrainConfig, TrainError
from training.export import ExportConfig, export
from training.run.checkpoint import checkpoints
from training.run.clock import Clock
from training.run.optimizer import rate_factor
from training.step.distributed import Ranks
from training.train import train

HERE = Ranks(0, 1, torch.device("cpu"))


def silent(line: str) -> None:
    pass


@pytest.fixture
def config(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> TrainConfig:
    return make_config(tmp_path, tiny_model_folder("mistral"), streams="g")


def test_the_rate_follows_the_clock() -> None:
    """Ten minutes of steps of any length: up, down, and to the floor at the end; evaluations do not count."""
    for step_s in (1.0, 7.0, 55.0):
        time = {"s": 0.0}
        clock = Clock(RunConfig(minutes=10), HERE, now=lambda time=time: time["s"])  # type: ignore[misc]
        settings = OptimizerConfig(schedule="cosine", warmup_share=0.1, final_share=0.05)
        rates, done = [], 0
        while not clock.is_over(done):
            rates.append(rate_factor(*clock.moment(done), settings))
            time["s"] += step_s
            clock.step_done()
            done += 1
            clock.pause()
            time["s"] += 1000.0
            clock.go_on()
        assert abs(done * step_s - 600) <= step_s / 2 + 1e-6
        assert max(rates) > 0.97 and rates[-1] < 0.2
        peak = rates.index(max(rates))
        assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_steps_and_minutes_together_end_with_the_first() -> None:
    time = {"s": 0.0}
    clock = Clock(RunConfig(minutes=10, steps=3), HERE, now=lambda: time["s"])
    assert not clock.is_over(2) and clock.is_over(3)
    assert clock.moment(0)[0] < clock.moment(1)[0] < clock.moment(2)[0]
    again = Clock(RunConfig(minutes=10), HERE, spent_s=595.0, now=lambda: time["s"])
    assert again.moment(0)[0] > 0.98 * again.moment(0)[1], "a resumed run has spent its time"
    with pytest.raises(ConfigError, match=r"Name run\.steps or run\.minutes"):
        RunConfig()
    with pytest.raises(ConfigError, match="must be above 0"):
        RunConfig(minutes=0)


def test_a_run_by_the_clock_saves_at_its_end(config: TrainConfig) -> None:
    """And its last checkpoints average into one that exports."""
    timed = replace(config, run=RunConfig(minutes=0.05, precision="fp32", save_every=1, keep=3))
    train(timed, silent)
    lines = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    folders = checkpoints(config.output_dir)
    assert folders[-1].name == f"checkpoint-{lines[-1]['step']:06d}" and len(lines) >= 2
    state = torch.load(folders[-1] / "training_state.pt", weights_only=True)
    assert 1.0 < state["seconds"] < 60.0
    if len(folders) < 3:
        return  # a machine that makes two steps in three seconds
    mean = average(AverageConfig(output_dir=config.output_dir, last=3))
    tensors = [load_file(folder / "model.safetensors") for folder in folders]
    for name, tensor in load_file(mean / "model.safetensors").items():
        expected = sum(t[name].double() for t in tensors) / 3
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-8)
    assert not (mean / "training_state.pt").exists()
    export(ExportConfig(output_dir=config.output_dir, export_dir=config.output_dir / "x", checkpoint="average"))


def test_what_cannot_be_averaged_is_a_sentence(config: TrainConfig) -> None:
    train(replace(config, adapter=lora(), run=replace(config.run, steps=2, save_every=1)), silent)
    with pytest.raises(TrainError, match="holds 2 checkpoints, not 3"):
        average(AverageConfig(output_dir=config.output_dir, last=3))
    with pytest.raises(TrainError, match="mean of two adapters"):
        average(AverageConfig(output_dir=config.output_dir, last=2))
    with pytest.raises(ConfigError, match="at least 2"):
        AverageConfig(output_dir=config.output_dir, last=1)
