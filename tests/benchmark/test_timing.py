"""Summaries and stage clocks."""

from __future__ import annotations

import time

import pytest
import torch

from grit_app.benchmark.timing import StageClock, summarize


def test_summary_of_known_samples() -> None:
    """Eleven samples 0 … 10: the deciles are the samples themselves, whatever their order."""
    assert summarize([7, 3, 10, 0, 5, 1, 9, 4, 2, 8, 6]) == {"median": 5, "p10": 1, "p90": 9, "min": 0, "n": 11}


def test_summary_of_one_sample_is_that_sample() -> None:
    assert summarize([3.25]) == {"median": 3.25, "p10": 3.25, "p90": 3.25, "min": 3.25, "n": 1}


def test_median_ignores_one_slow_run_and_the_minimum_tells_the_best() -> None:
    told = summarize([10, 11, 12, 13, 900])
    assert (told["median"], told["min"]) == (12, 10)


def test_stages_are_read_apart_and_add_up() -> None:
    """A stage entered twice holds both times; time between stages belongs to none."""
    clock = StageClock(torch.device("cpu"))
    with clock.stage("load"):
        time.sleep(0.02)
    time.sleep(0.05)
    with clock.stage("load"):
        time.sleep(0.02)
    clock.add("tail", 7.0)
    assert list(clock.stages) == ["load", "tail"]
    assert (
        clock.stages["load"] == pytest.approx(40, abs=8) or 40 <= clock.stages["load"] < 2000
    )  # a busy machine sleeps long
    assert clock.stages["tail"] == 7.0
