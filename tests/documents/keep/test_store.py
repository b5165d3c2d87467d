"""The durable truth: whole documents or none, whatever happens to the process."""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from grit_app.documents.chunking import chunk_document
from grit_app.documents.keep.store import FolderStore, Stored
from grit_app.documents.read.text.plain import read_text
from grit_app.errors import DocumentError
from tests.documents.conftest import RIVER
from tests.documents.store_worker import add

ROOT = Path(__file__).resolve().parents[3]


def check_whole(stored: Stored) -> None:
    number = int(stored.document.name.removesuffix(".txt"))
    assert stored.document.text.startswith(f"Document {number}. ")
    assert isinstance(stored.source, Path) and stored.source.read_text().startswith(f"Document {number}. ")
    assert len(stored.chunks) > 2 and stored.vectors.shape == (len(stored.chunks), 8)
    assert (stored.vectors == number).all()
    for chunk in stored.chunks:
        assert chunk.text == stored.document.text[chunk.start : chunk.stop]
    assert stored.caches is not None and len(list(stored.caches.iterdir())) == 1


def test_what_is_written_is_loaded(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "data")
    written = [add(store, tmp_path, n) for n in (3, 1, 2)]
    store.close()
    store = FolderStore(tmp_path / "data")
    loaded = store.load()
    assert [s.document for s in loaded] == [s.document for s in written], "in the order of coming"
    assert [s.chunks for s in loaded] == [s.chunks for s in written]
    for stored in loaded:
        check_whole(stored)
    store.close()


def test_names_are_never_paths(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "data")
    source = tmp_path / "s.txt"
    source.write_text(RIVER)
    document = read_text(RIVER, "../../../evil.txt", "e" * 64)
    chunks = chunk_document(document, lambda t: len(t.split()), 50)
    store.write(document, chunks, "model", source, lambda caches: np.zeros((len(chunks), 8), dtype=np.float32))
    assert [s.document.name for s in store.load()] == ["../../../evil.txt"]
    assert not list(tmp_path.rglob("evil*"))
    store.close()


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "data")
    add(store, tmp_path, 1)
    for folder in (p for p in (tmp_path / "data").rglob("*") if p.is_dir()):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0 or folder.parent != tmp_path / "data", folder
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    store.close()


def test_a_second_process_is_told_that_the_folder_is_in_use(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "data")
    with pytest.raises(DocumentError, match="in use by another process"):
        FolderStore(tmp_path / "data")
    store.close()
    FolderStore(tmp_path / "data").close()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DocumentError, match="cannot be used"):
        FolderStore(tmp_path / "file")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "data")
    source = tmp_path / "s.txt"
    source.write_text(RIVER)
    document = read_text(RIVER, "s.txt", "e" * 64)

    def fail(caches: Path | None) -> np.ndarray:
        raise RuntimeError("the model broke down")

    with pytest.raises(RuntimeError):
        store.write(document, chunk_document(document, len, 50), "model", source, fail)
    assert store.load() == [] and not list((tmp_path / "data" / "documents").iterdir())
    store.close()


@pytest.mark.parametrize("damage", ["meta.json", "text.txt", "chunks.json", "pages.json", "vectors", "empty meta"])
def test_a_damaged_document_does_not_take_the_others_with_it(tmp_path: Path, damage: str) -> None:
    store = FolderStore(tmp_path / "data")
    broken, whole = add(store, tmp_path, 1), add(store, tmp_path, 2)
    folder = tmp_path / "data" / "documents" / broken.document.id
    if damage == "vectors":
        next(folder.glob("vectors*")).write_bytes(b"\x93NUMPY")
    elif damage == "empty meta":
        (folder / "meta.json").write_text("")
    else:
        (folder / damage).unlink()
    assert [s.document.id for s in store.load()] == [whole.document.id]
    store.close()


def test_new_vectors_replace_the_old_as_a_whole(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "data")
    stored = add(store, tmp_path, 1)
    new = np.full((len(stored.chunks), 5), 9, dtype=np.float32)
    replaced = store.replace_vectors(stored, new, "another model")
    assert replaced.identity == "another model" and (replaced.vectors == 9).all()
    assert [s.identity for s in store.load()] == ["another model"]
    assert len(list((tmp_path / "data" / "documents" / stored.document.id).glob("vectors*"))) == 1
    store.close()


def test_removed_documents_leave_no_bytes(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "data")
    stored = add(store, tmp_path, 1)
    store.remove(stored.document.id)
    store.remove(stored.document.id)
    assert store.load() == [] and not list((tmp_path / "data" / "documents").iterdir())
    store.close()


def test_killing_the_process_at_any_moment_leaves_whole_documents(tmp_path: Path) -> None:
    """Twenty-five processes killed (SIGKILL) at random moments of writing, replacing and removing."""
    moments = random.Random(3)
    seen = unfinished = 0
    command = [sys.executable, "-m", "tests.documents.store_worker", str(tmp_path)]
    child = 0
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        try:
            for round_number in range(25):
                worker.stdin.write(f"{1000 * round_number}\n")
                worker.stdin.flush()
                answers = {worker.stdout.readline().strip() for _ in range(2)}
                child = int((answers - {"open"}).pop())
                time.sleep(moments.uniform(0.0, 0.25))
                os.kill(child, signal.SIGKILL)
                child = 0
                unfinished += len(list((tmp_path / "data" / "documents").glob(".new-*")))
                seen += check_after_kill(tmp_path)
        finally:
            worker.kill()
            if child:
                os.kill(child, signal.SIGKILL)
    assert seen > 4 and unfinished > 4, "some must have been killed after and some in the middle of a document"


def check_after_kill(folder: Path) -> int:
    """Opens the store as the next process would, checks every document, clears it, and returns how many there were."""
    store = opened(folder / "data")
    loaded = store.load()
    kept = [p for p in (folder / "data" / "documents").iterdir() if not p.name.startswith(".")]
    assert len(kept) == len(loaded), "no folder that is not a whole document"
    assert not list((folder / "data" / "documents").glob(".*")), "leftovers are swept at opening"
    for stored in loaded:
        check_whole(stored)
        store.remove(stored.document.id)
    store.close()
    return len(loaded)


def opened(folder: Path) -> FolderStore:
    """The store, once the system has buried the killed process and let go of its lock."""
    for _ in range(100):
        try:
            return FolderStore(folder)
        except DocumentError:
            time.sleep(0.02)
    return FolderStore(folder)
