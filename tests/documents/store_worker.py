"""Writes documents into a store until it is killed: `python -m tests.documents.store_worker FOLDER`.

Each line on stdin is the number to start from; a child is forked for it, whose process id is the answer, and `open`
once it works. Forking spares the tests as many starts of Python.
"""

import os
import sys
from itertools import count
from pathlib import Path

import numpy as np

from grit_app.documents.chunking import chunk_document
from grit_app.documents.keep.store import FolderStore, Stored
from grit_app.documents.read.text.plain import read_text

PASSAGE = "The river crosses three provinces and the mills on its banks were sold when the railway came. "


def add(store: FolderStore, folder: Path, number: int) -> Stored:
    """Writes a document whose text, vectors and caches all tell its number."""
    text = f"Document {number}. {PASSAGE * 6}"
    source = folder / f"source-{number}.txt"
    source.write_text(text)
    document = read_text(text, f"{number}.txt", f"{number:064d}"[::-1])
    chunks = chunk_document(document, lambda t: len(t.split()), 40)

    def embed(caches: Path | None) -> np.ndarray:
        assert caches is not None
        (caches / "00000.bidirectional.safetensors").write_bytes(bytes(2000))
        return np.full((len(chunks), 8), number, dtype=np.float32)

    return store.write(document, chunks, "model", source, embed)


def work(folder: Path, start: int) -> None:
    store = FolderStore(folder / "data")
    os.write(1, b"open\n")  # in one piece: two processes write here
    for number in count(start):
        stored = add(store, folder, number)
        if number % 3 == 0:
            store.remove(stored.document.id)
        if number % 3 == 1:
            store.replace_vectors(stored, np.full((len(stored.chunks), 8), number, dtype=np.float32), "model")


if __name__ == "__main__":
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            work(Path(sys.argv[1]), int(line))
        os.write(1, f"{child}\n".encode())
        os.waitpid(child, 0)
