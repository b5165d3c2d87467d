"""The paper's tables with recordings beside: numbers of recordings alone, and every missing cell named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grit_app.benchmark.show.paper import NOT_MEASURED, Section, load_sections, published
from grit_app.errors import GritError

INTERVAL = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 9}


def record(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    body = {"command": f"python -m training.paper {name}", "model": "m-1", "limit": 5, "rows": rows,
            "environment": {"hardware": "Some CPU", "threads": 1, "model": {"dtype": "bfloat16"}}}  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")


def found(folder: Path, name: str) -> Section:
    return next(section for section in load_sections(folder) if section.name == name)


def test_without_recordings_every_own_cell_is_named_missing(tmp_path: Path) -> None:
    for section in load_sections(tmp_path):
        assert not section.is_recorded
        for table in section.tables:
            cells = {cell for row in table.rows for cell in row}
            assert NOT_MEASURED in cells, table.title
            assert all(len(row) == len(table.head) for row in table.rows)


def test_a_measured_set_stands_in_the_published_column_and_the_others_stay_missing(tmp_path: Path) -> None:
    similarity = {"table": "similarity", "task": "STS13", "metric": "spearman", "system": "vectors"} | INTERVAL
    similarity |= {"n": 1500}
    other = {"table": "retrieval", "task": "STS12", "metric": "ndcg_at_10", "system": "vectors"} | INTERVAL
    record(tmp_path, "table1", [similarity, other])
    averages, sts, writing, measured = found(tmp_path, "table1").tables
    ours = dict(zip(sts.head[1:], next(row for row in sts.rows if row[0] == "m-1")[1:], strict=True))
    assert ours["STS13"] == "80.00 (70.0 … 90.0)"
    assert {ours[name] for name in ours if name != "STS13"} == {NOT_MEASURED}
    assert set(averages.rows[-1][1:]) == set(writing.rows[-1][1:]) == {NOT_MEASURED}
    assert len(measured.rows) == 2 and "Some CPU, 1 thread, bfloat16" in measured.notes[0]


def test_a_part_of_a_set_has_no_score_in_its_column(tmp_path: Path) -> None:
    row = {"metric": "spearman", "system": "vectors"} | INTERVAL
    similar = row | {"table": "similarity", "task": "STS12", "n": 2237}
    task = row | {"table": "published tasks", "task": "MMLU", "n": 40}
    record(tmp_path, "table1", [similar, task, task | {"task": "GSM8K", "is_whole": True}])
    _, sts, writing, measured = found(tmp_path, "table1").tables
    assert list(sts.rows[-1])[2] == "not in full: 2,237 of 3,108 pairs"
    assert list(writing.rows[-1])[1:3] == ["not in full: 40 rows", "80.00 (70.0 … 90.0)"]
    assert len(measured.rows) == 3


def test_own_sets_are_rows_of_their_own(tmp_path: Path) -> None:
    rows = [{"table": "few-shot", "task": "CISI", "metric": "ndcg_at_10", "system": "1-shot"} | INTERVAL]
    record(tmp_path, "fewshot", rows)
    table = found(tmp_path, "fewshot").tables[0]
    assert list(table.rows[-1]) == ["CISI, m-1", NOT_MEASURED, "80.00 (70.0 … 90.0)"]
    assert [list(row) for row in table.rows[:-1]] == [
        [name, *(f"{value:g}" for value in values)] for name, values in published()["fewshot"]["rows"].items()
    ]


def test_strategies_stand_beside_their_published_match(tmp_path: Path) -> None:
    row = {"table": "answers", "strategy": "doc_cache", "positions": "consecutive", "match": 41.25, "f1": 1.0,
           "f1_minus_rag": 0.5, "ci95": [-1.0, 2.0], "n": 4}  # fmt: skip
    record(tmp_path, "rag", [row, row | {"strategy": "prefix_cache"}, row | {"positions": "colliding", "match": 1.0}])
    table, _, measured = found(tmp_path, "rag").tables
    cells = {line[0]: list(line[1:]) for line in table.rows}
    assert cells["doc_cache"] == ["33.38", "41.2"]
    assert cells["query_cache"] == ["25.46", NOT_MEASURED] and cells["prefix_cache"] == ["not published", "41.2"]
    assert len(measured.rows) == 3


def test_a_damaged_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "rag.json").write_text("{}", encoding="utf-8")
    with pytest.raises(GritError, match=r"rag\.json is not a recording"):
        load_sections(tmp_path)
