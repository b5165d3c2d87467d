"""Libraries of browsers that do not come back: every private window leaves a folder behind."""

from __future__ import annotations

import logging
import os
import shutil
import time
from pathlib import Path
from typing import Final

from grit_app.documents.keep.store import lock_folder
from grit_app.errors import DocumentError

log = logging.getLogger(__name__)

DAY_S: Final = 86_400.0


def remove_abandoned(root: Path, days: int, now_s: float | None = None) -> list[str]:
    """Removes libraries below `root` that were not opened for so many days, and gives their names.

    days   0: only those without a document, after one day

    A folder in use stays, and so does one that was last opened in the future: then a clock was wrong, and nobody knows
    for how long nobody came.
    """
    now = time.time() if now_s is None else now_s
    removed = []
    for folder in sorted(path for path in root.glob("[!.]*") if path.is_dir()) if root.is_dir() else []:
        lock = folder / "lock"
        if not lock.is_file():  # no library of ours
            continue
        idle_days = (now - lock.stat().st_mtime) / DAY_S
        is_empty = not any((folder / "documents").glob("*"))
        if idle_days < 1 or not (is_empty or (days and idle_days >= days)):
            continue
        try:
            descriptor = lock_folder(lock)
        except (DocumentError, OSError):
            continue
        gone = folder.with_name(f".gone-{folder.name}")
        try:
            folder.rename(gone)  # so that a process that is killed now leaves no half of a library
        finally:
            if descriptor is not None:
                os.close(descriptor)
        shutil.rmtree(gone, ignore_errors=True)
        removed.append(folder.name)
    for leftover in root.glob(".gone-*") if root.is_dir() else []:
        shutil.rmtree(leftover, ignore_errors=True)
    if removed:
        log.info("%d libraries that nobody opened any more were removed", len(removed))
    return removed
