"""The load command: real server processes, a tiny model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grit_app.benchmark.__main__ import main
from grit_app.benchmark.measure.serve import Load, Plan, overhead, with_p95
from grit_app.settings import Settings
from tests.serve.conftest import serving


def test_a_point_counts_what_its_clients_got(load_tiny: Callable[..., Any], tmp_path: Path) -> None:
    """In this process: requests, tokens, times and errors; a client that fails is told of, not timed."""
    model, plan = load_tiny("llama"), Plan(clients=[3], seconds=0.3, text_tokens=12, new_tokens=4)
    numbers = itertools.count()
    load = Load(plan, lambda: f"Bees number {next(numbers)}")
    with serving(model, Settings(data_dir=tmp_path)) as running:
        point = load.run("mixed", 3, running.url, running.url)
        beside = overhead(model, running.url, plan, lambda: f"Wax number {next(numbers)}", repeats=2)
    assert point["errors"] == 0 and point["ttft_ms"]["n"] == point["answer_ms"]["n"] >= 3
    assert point["tokens_per_s"] == pytest.approx(4 * point["answer_ms"]["n"] / point["seconds"], rel=0.01)
    assert beside[1]["same_text_last"] and beside[0]["server_ms"]["n"] == 2
    failed = load.run("embeddings", 1, running.url, running.url)
    assert failed["errors"] > 0 and "ConnectError" in failed["first_error"] and "embed_ms" not in failed


@pytest.mark.long
def test_one_server_and_two_are_measured_under_the_same_load(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    folder = str(tiny_model_folder("llama"))
    flags = "--clients 1,3 --seconds 0.4 --text_tokens 12 --new_tokens 4 --repeats 2 --threads 1 --device cpu"
    assert main(["serve", "--model", folder, *flags.split(), "--json", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    points = [record for record in result["records"] if record["load"] != "overhead"]
    assert [(one["load"], one["processes"], one["clients"]) for one in points] == [
        (load, processes, clients)
        for load, processes in (("chat", 1), ("embeddings", 1), ("mixed", 1), ("mixed", 2))
        for clients in (1, 3)
    ]
    for point in points:
        assert (point["errors"], point["first_error"]) == (0, None)
        assert point["requests_per_s"] > 0 and point["memory_bytes"] > 1e7
        if point["load"] != "embeddings":
            assert 0 < point["ttft_ms"]["min"] <= point["ttft_ms"]["median"] <= point["ttft_ms"]["p95"]
            assert point["ttft_ms"]["median"] <= point["answer_ms"]["p95"] and point["tokens_per_s"] > 0
        if point["load"] != "chat":
            assert point["embeddings_per_s"] > 0
    for key in ("requests_per_s", "requests_per_cpu_s"):
        assert [one[f"{key}_to_fewest_clients"] for one in points if one["clients"] == 1] == [1.0] * 4
    assert all(one["server_cpu_s"] > 0 for one in points)
    beside = [record for record in result["records"] if record["load"] == "overhead"]
    assert [one["what"] for one in beside] == ["embed", "chat"]
    assert all(one["ratio"] > 0 and one["server_ms"]["n"] == 2 for one in beside)
    assert beside[1]["same_text_last"], "the two sides wrote different answers"
    assert result["environment"]["hardware"] and result["environment"]["plan"]["new_tokens"] == 4


def test_what_cannot_be_measured_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--dtype", "float32"]) == 2
    assert "has no --dtype" in capsys.readouterr().err
    assert main(["serve", "--clients", "0"]) == 2


def test_nineteen_of_twenty_stay_below_p95() -> None:
    assert with_p95([float(number) for number in range(100)])["p95"] == 95.0
    assert with_p95([7.0])["p95"] == 7.0
