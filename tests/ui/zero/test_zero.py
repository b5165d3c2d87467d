"""The model as ZeroGPU lends its GPU: the same numbers through a process that keeps nothing and ends in time."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grit_app.gritlm import GritLM
from grit_app.ui import zero

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def said(tiny_model_folder: Callable[..., Path]) -> Any:
    environment = os.environ | {
        "SPACES_ZERO_GPU": "true",
        "OMP_NUM_THREADS": "1",  # threads do not survive a fork
        "PYTHONPATH": os.pathsep.join([str(HERE / "stand_in"), str(HERE.parents[2])]),
    }
    command = [sys.executable, str(HERE / "script.py"), str(tiny_model_folder())]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_jobs_give_the_numbers_of_the_model_itself(said: Any) -> None:
    assert said["vectors"] < 1e-5 and said["caches"] < 1e-5
    assert said["same_answer"] and said["same_ids"] and said["same_chat"]
    assert said["finish"][0] == said["finish"][1]
    assert said["scores"][0] == pytest.approx(said["scores"][1], abs=1e-4)


def test_a_race_is_one_call(said: Any) -> None:
    """Between two calls a lane's clock would wait for a GPU."""
    assert said["lanes"] == ["rag_doc_query", "docs_cache"]
    assert said["race_calls"] == ["race_job"]


def test_more_work_asks_for_more_time_within_the_limit(said: Any) -> None:
    short, long = said["asked_s"]
    assert 10 <= short <= long <= zero.LONGEST_S


def test_an_error_of_a_job_stays_a_sentence(said: Any) -> None:
    assert "at least one visible character" in said["error"]


def test_elsewhere_nothing_is_decorated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)

    def job() -> None: ...

    assert zero.on_gpu(lambda: 10)(job) is job


def test_time_grows_with_the_model_and_the_work() -> None:
    """A 7B that reads 8,000 tokens and writes 400."""
    assert zero.seconds(100) < zero.seconds(8000, 400) < zero.LONGEST_S
    assert zero.seconds(1e9, 1e9) == zero.LONGEST_S


def test_the_lent_model_is_called_as_the_model_is() -> None:
    """Positional arguments reach the method of the same name: a parameter more there must be one more here."""
    for name in ("stream", "stream_ids", "encode_iter"):
        ours, theirs = (list(inspect.signature(getattr(kind, name)).parameters) for kind in (zero.ZeroGritLM, GritLM))
        assert ours == theirs, name
