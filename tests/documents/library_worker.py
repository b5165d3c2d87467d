"""Adds files to a library until it is killed: `python -m tests.documents.library_worker DATA MODEL FILES`.

As in store_worker: for each line on stdin a child is forked, whose process id is the answer, and `open` once it works.
"""

import os
import sys
from pathlib import Path

from grit_app.documents.library import Library
from grit_app.gritlm import GritLM


def work(model: GritLM, data: Path, files: Path) -> None:
    library = Library(model, data, chunk_tokens=40)
    os.write(1, b"open\n")
    while True:
        library.add(sorted(files.glob("*.txt")))
        library.remove(library.documents()[0].id)


if __name__ == "__main__":
    loaded = GritLM.from_pretrained(sys.argv[2])
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            work(loaded, Path(sys.argv[1]), Path(sys.argv[3]))
        os.write(1, f"{child}\n".encode())
        os.waitpid(child, 0)
