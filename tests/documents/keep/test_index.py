"""The Chroma index: right neighbours, and never trusted after an unclean stop or a change of model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grit_app.documents.keep.index import VectorIndex


def unit_rows(count: int, seed: int, size: int = 16) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def ids(document: str, count: int) -> list[str]:
    return [f"{document}:{i:05d}" for i in range(count)]


def test_nearest_are_those_of_brute_force() -> None:
    index = VectorIndex(None, "model")
    rows = unit_rows(60, 1)
    index.add("a", ids("a", 30), rows[:30])
    index.add("b", ids("b", 30), rows[30:])
    query = unit_rows(1, 2)[0]
    names = np.array(ids("a", 30) + ids("b", 30))
    assert index.nearest(query, 7) == names[np.argsort(-rows @ query)[:7]].tolist()
    only_b = names[30:][np.argsort(-rows[30:] @ query)[:7]].tolist()
    assert index.nearest(query, 7, ["b"]) == only_b
    assert index.nearest(query, 7, []) == []
    index.remove("a")
    assert index.nearest(query, 7) == only_b
    index.close()


def test_in_memory_indices_of_one_process_do_not_mix() -> None:
    """Chroma's in-memory clients share one database: two visitors must not see each other's passages."""
    first, second = VectorIndex(None, "model"), VectorIndex(None, "model")
    first.add("a", ids("a", 3), unit_rows(3, 1))
    assert second.nearest(unit_rows(1, 2)[0], 5) == []
    second.add("b", ids("b", 3), unit_rows(3, 3))
    first.close()
    assert len(second.nearest(unit_rows(1, 2)[0], 5)) == 3
    second.close()


def test_an_empty_index_finds_nothing() -> None:
    index = VectorIndex(None, "model")
    assert index.nearest(unit_rows(1, 1)[0], 5) == []
    assert index.matches([])
    index.close()


def test_a_clean_stop_keeps_the_index(tmp_path: Path) -> None:
    index = VectorIndex(tmp_path / "index", "model")
    index.add("a", ids("a", 5), unit_rows(5, 1))
    index.close()
    again = VectorIndex(tmp_path / "index", "model")
    assert again.matches(ids("a", 5))
    again.close()


def test_an_unclean_stop_drops_the_index(tmp_path: Path) -> None:
    """The mark that a killed process leaves behind: what Chroma left may be unreadable, or crash the process."""
    index = VectorIndex(tmp_path / "index", "model")
    index.add("a", ids("a", 5), unit_rows(5, 1))
    index.close()
    (tmp_path / "index-in-use").touch()
    (tmp_path / "index" / "chroma.sqlite3").write_bytes(b"not a database")
    again = VectorIndex(tmp_path / "index", "model")
    assert again.matches([])
    again.rebuild([("a", ids("a", 5), unit_rows(5, 1))])
    assert again.matches(ids("a", 5))
    again.close()
    assert not (tmp_path / "index-in-use").exists()


@pytest.mark.parametrize("size", [16, 24])
def test_another_model_drops_the_index(tmp_path: Path, size: int) -> None:
    """Vectors of two models, also of one length, must never be compared."""
    index = VectorIndex(tmp_path / "index", "model")
    index.add("a", ids("a", 5), unit_rows(5, 1))
    index.close()
    again = VectorIndex(tmp_path / "index", "another model")
    assert again.matches([])
    again.add("a", ids("a", 5), unit_rows(5, 1, size))
    assert len(again.nearest(unit_rows(1, 2, size)[0], 5)) == 5
    again.close()
