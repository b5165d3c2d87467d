"""The measurement for lent GPUs: rehearsed on the CPU, whole, and honest about what fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grit_app.benchmark.measure import gpu
from grit_app.benchmark.measure.floors import ModelSize


def test_the_rehearsal_measures_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--tiny", "--dtype", "float32", "--repeats", "1", "--device", "cpu", "--json", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["environment"]["tiny"] is True and "cuda" in result["environment"]
    by_part: dict[str, list[Any]] = {}
    for record in result["records"]:
        assert "error" not in record and "left_out" not in record
        by_part.setdefault(record["part"], []).append(record)
    assert set(by_part) == set(gpu.PARTS)
    assert all(record["same_tokens"] for record in by_part["decode"])
    assert all(0 < record["share_of_floor"] < 2 for record in by_part["decode"])
    assert [record["what"] for record in by_part["launches"]] == ["token, plainly", "token", "join, plainly", "join"]
    assert by_part["launches"][0]["launches"] > 10


def test_launches_are_counted_a_token_and_grow_with_layers_alone(load_tiny: Any) -> None:
    """Plainly every layer costs the same; as on a card, layers cost nothing. Waits never grow; a join has none."""
    counts = []
    for layers in (2, 4, 6):
        model = load_tiny("llama", num_hidden_layers=layers)
        setting = gpu.Setting(model, (64,), repeats=1, new_tokens=4, seed=0)
        counts.append({record["what"]: record for record in gpu.launches(setting)})
    plain = [count["token, plainly"]["launches"] for count in counts]
    assert plain[1] - plain[0] == plain[2] - plain[1] > 0
    for what in ("token", "join"):
        assert len({count[what]["launches"] for count in counts}) == 1
        assert len({count[what]["copies"] for count in counts}) == 1
        assert counts[-1][what]["launches"] < counts[-1][f"{what}, plainly"]["launches"] / 4
    assert len({count[what]["questions"] for count in counts for what in ("token", "token, plainly")}) == 1
    assert all(count[what]["questions"] == 0 for count in counts for what in ("join", "join, plainly"))


def test_the_floor_follows_the_best_reading_beside_the_answers(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reading from the start, taken while another program ran, was a floor that answers fell through."""
    readings = iter([1e6, 1e9, 1e7, 1e5])
    monkeypatch.setattr(gpu, "copy_rate", lambda *_: next(readings))
    (record,) = gpu.decode(gpu.Setting(tiny_model, (64,), repeats=1, new_tokens=4, seed=0))
    cache_bytes = 64 * 2 * 2 * 2 * 8 * 4
    expected = 1e9 / (ModelSize.of(tiny_model).weight_bytes + cache_bytes)
    assert record["floor_tokens_per_s"] == pytest.approx(expected, rel=1e-4)


def test_a_part_that_fails_does_not_take_the_others_along(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Any) -> Any:
        yield {"x": 1}
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(gpu, "STEPS", {"first": broken, "second": lambda _: iter([{"y": 2}])})
    records = gpu.measure(None, ["first", "second"], 60.0, lambda _: None)  # type: ignore[arg-type]
    assert [record["part"] for record in records] == ["first", "first", "second"]
    assert records[1]["error"] == "RuntimeError: no such kernel"


def test_no_part_begins_after_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STEPS", {"late": lambda _: iter([{"y": 2}])})
    (record,) = gpu.measure(None, ["late"], -1.0, lambda _: None)  # type: ignore[arg-type]
    assert "left_out" in record
