"""Folders of browsers that do not come back."""

from __future__ import annotations

import os
import time
from pathlib import Path

from grit_app.documents.keep.departed import DAY_S, remove_abandoned
from grit_app.documents.keep.store import FolderStore


def library(root: Path, name: str, days_ago: float, *, with_document: bool = True) -> FolderStore:
    store = FolderStore(root / name)
    if with_document:
        (root / name / "documents" / "0123").mkdir()
    used = time.time() - days_ago * DAY_S
    os.utime(root / name / "lock", (used, used))
    return store


def test_only_libraries_that_nobody_opened_for_long_are_removed(tmp_path: Path) -> None:
    for name, days in (("old", 40.0), ("young", 20.0), ("from-the-future", -400.0)):
        library(tmp_path, name, days).close()
    library(tmp_path, "empty", 2.0, with_document=False).close()
    library(tmp_path, "empty-today", 0.5, with_document=False).close()
    (tmp_path / "something-else").mkdir()
    assert remove_abandoned(tmp_path, 0) == ["empty"], "documents are kept unless a person sets a limit"
    assert remove_abandoned(tmp_path, 30) == ["old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "empty-today", "from-the-future", "something-else", "young",
    ]  # fmt: skip
    assert remove_abandoned(tmp_path / "missing", 30) == []


def test_a_library_in_use_stays_and_opening_one_makes_it_young(tmp_path: Path) -> None:
    used = library(tmp_path, "used", 90.0)
    assert remove_abandoned(tmp_path, 30) == []
    used.close()
    FolderStore(tmp_path / "used").close()
    assert remove_abandoned(tmp_path, 30) == []


def test_a_clock_that_jumps_forward_and_back_takes_no_documents(tmp_path: Path) -> None:
    """A machine that starts in 1970 or in 2090 until it asks for the time: the limit is of days without a visit."""
    library(tmp_path, "mine", 1.0).close()
    assert remove_abandoned(tmp_path, 30, now_s=0.0) == []
    assert remove_abandoned(tmp_path, 0, now_s=time.time() + 60 * 365 * DAY_S) == []
    assert (tmp_path / "mine").is_dir()
