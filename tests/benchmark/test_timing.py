"""Summaries of clock readings."""

from __future__ import annotations

from grit_app.benchmark.timing import summarize


def test_summary_of_known_samples() -> None:
    """Eleven samples 0 … 10: the deciles are the samples themselves, whatever their order."""
    assert summarize([7, 3, 10, 0, 5, 1, 9, 4, 2, 8, 6]) == {"median": 5, "p10": 1, "p90": 9, "min": 0, "n": 11}


def test_summary_of_one_sample_is_that_sample() -> None:
    assert summarize([3.25]) == {"median": 3.25, "p10": 3.25, "p90": 3.25, "min": 3.25, "n": 1}


def test_median_ignores_one_slow_run_and_the_minimum_tells_the_best() -> None:
    told = summarize([10, 11, 12, 13, 900])
    assert (told["median"], told["min"]) == (12, 10)
