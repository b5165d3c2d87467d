"""Adds a document to a store and dies before its N-th change of the disk: `python -m tests.adversary.cut_worker DIR`.

Each line on stdin is an N; the answer is the child's exit status, 0 where the work was done before the N-th change.
"""

import os
import sys
from pathlib import Path
from typing import Any

from grit_app.documents.keep.store import FolderStore
from tests.documents.store_worker import add

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "shutil.copyfile")


def is_change(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        return (isinstance(mode, str) and mode.strip("rbtU") != "") or bool(flags & (os.O_WRONLY | os.O_RDWR))
    return event in CHANGES


def die_before(number: int) -> None:
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if is_change(event, arguments):
            left -= 1
            if left == 0:
                os._exit(9)

    sys.addaudithook(hook)


def work(folder: Path, number: int) -> None:
    store = FolderStore(folder / "data")
    die_before(number)
    store.load()
    add(store, folder, 2)  # new
    add(store, folder, 3)  # in the place of a damaged one
    store.remove(add(store, folder, 4).document.id)


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            work(Path(sys.argv[1]), int(line))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.write(1, f"{status}\n".encode())
