"""What disks and power cuts do to a store: cut off at every change, a byte flipped in every file, no space left."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grit_app.documents.keep import kv_store, store
from grit_app.documents.keep.store import FolderStore
from grit_app.documents.library import Library
from grit_app.gritlm import GritLM
from tests.documents.keep.test_store import check_whole
from tests.documents.store_worker import add

ROOT = Path(__file__).resolve().parents[2]
TEXT = "The river rises in the mountains and reaches the sea. Bees make honey from nectar and keep it in combs. " * 4


def test_a_process_that_ends_before_any_of_its_writes_leaves_whole_documents(tmp_path: Path) -> None:
    """Not at random times: between every two changes of the disk, once each."""
    first = FolderStore(tmp_path / "data")
    add(first, tmp_path, 1)
    broken = Path(first._documents / add(first, tmp_path, 3).document.id)
    first.close()
    (broken / "text.txt").write_bytes(b"damaged")
    shutil.copytree(tmp_path / "data", tmp_path / "before")
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.adversary.cut_worker", str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdin is not None and worker.stdout is not None
    cuts, status = 0, 9
    while status == 9:
        shutil.rmtree(tmp_path / "data")
        shutil.copytree(tmp_path / "before", tmp_path / "data")
        cuts += 1
        worker.stdin.write(f"{cuts}\n")
        worker.stdin.flush()
        status = int(worker.stdout.readline())
        opened = FolderStore(tmp_path / "data")
        found = {stored.document.name: stored for stored in opened.load()}
        for stored in found.values():
            check_whole(stored)
        assert "1.txt" in found and set(found) <= {"1.txt", "2.txt", "3.txt", "4.txt"}
        assert [one.name for one in opened.damaged()] in ([], ["3.txt"])
        assert not list((tmp_path / "data" / "documents").glob(".*"))
        opened.close()
    worker.stdin.close()
    worker.wait(10)
    worker.stdout.close()
    assert status == 0 and cuts > 30, "the work was not cut between its writes"
    assert set(found) == {"1.txt", "2.txt", "3.txt"} and not opened.damaged()


@pytest.mark.parametrize("kind", ["meta.json", "text.txt", "pages.json", "chunks.json", "vectors"])
def test_a_flipped_byte_is_noticed_and_the_document_can_be_removed_or_added_again(tmp_path: Path, kind: str) -> None:
    opened = FolderStore(tmp_path / "data")
    kept, other = add(opened, tmp_path, 1), add(opened, tmp_path, 2)
    opened.close()
    folder = tmp_path / "data" / "documents" / kept.document.id
    (path,) = folder.glob(f"{kind}*")
    whole = path.read_bytes()
    for share in (0.0, 0.5, 1.0):
        at = int(share * (len(whole) - 1))  # adding the file again may write a file of another length: the time in it
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        opened = FolderStore(tmp_path / "data")
        assert [stored.document.name for stored in opened.load()] == [other.document.name]
        (damaged,) = opened.damaged()
        assert damaged.id == kept.document.id and "add the file again" in damaged.reason
        check_whole(add(opened, tmp_path, 1))
        assert not opened.damaged()
        opened.close()
        (path,) = folder.glob(f"{kind}*")
        whole = path.read_bytes()
    path.write_bytes(b"")
    opened = FolderStore(tmp_path / "data")
    opened.load()
    opened.remove_damaged(kept.document.id)
    assert not folder.exists() and not opened.damaged()
    opened.close()


def test_documents_of_the_format_before_are_read_and_of_a_later_one_are_listed(tmp_path: Path) -> None:
    opened = FolderStore(tmp_path / "data")
    kept = add(opened, tmp_path, 1)
    opened.close()
    meta_file = tmp_path / "data" / "documents" / kept.document.id / "meta.json"
    meta = json.loads(meta_file.read_text())
    old = {key: value for key, value in meta.items() if key not in ("digests", "seal")}
    for number, is_read in ((1, True), (99, False)):
        meta_file.write_text(json.dumps(old | {"format": number}))
        opened = FolderStore(tmp_path / "data")
        assert [stored.document for stored in opened.load()] == ([kept.document] if is_read else [])
        assert ["another version" in one.reason for one in opened.damaged()] == ([] if is_read else [True])
        opened.close()


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_costs_the_caches_first(
    tmp_path: Path, tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caches can be made again. A document for which there is room without them is kept, and found."""
    write, calls = store._write_vectors, list[Path]()

    def write_vectors(folder: Path, vectors: Any) -> str:
        calls.append(folder)
        return write(folder, vectors) if len(calls) > 1 else no_space()  # type: ignore[return-value]

    monkeypatch.setattr(store, "_write_vectors", write_vectors)
    source = tmp_path / "note.txt"
    source.write_text(TEXT, encoding="utf-8")
    library = Library(tiny_model, tmp_path / "data", chunk_tokens=60)
    (report,) = library.add([source])
    assert report.state == "ready" and len(calls) == 2
    assert library.cache_bytes() == 0
    vector = tiny_model.encode(["bees and honey"])[0]
    assert library.search(vector, "bees and honey", 1)
    library.close()


def test_a_disk_without_room_for_a_document_is_a_sentence_and_leaves_nothing(
    tmp_path: Path, tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_write_vectors", no_space)
    monkeypatch.setattr(kv_store.kv_file, "save", no_space)
    source = tmp_path / "note.txt"
    source.write_text(TEXT, encoding="utf-8")
    library = Library(tiny_model, tmp_path / "data", chunk_tokens=60)
    (report,) = library.add([source])
    assert report.state == "failed" and report.reason == "note.txt could not be kept: No space left on device."
    assert not any((tmp_path / "data" / "documents").iterdir())
    library.close()


def test_a_damaged_document_is_told_by_the_library(tmp_path: Path, tiny_model: GritLM) -> None:
    source = tmp_path / "note.txt"
    source.write_text(TEXT, encoding="utf-8")
    library = Library(tiny_model, tmp_path / "data", chunk_tokens=60)
    (report,) = library.add([source])
    library.close()
    (tmp_path / "data" / "documents" / str(report.document_id) / "text.txt").write_bytes(b"x")
    library = Library(tiny_model, tmp_path / "data", chunk_tokens=60)
    assert not library.documents() and [one.name for one in library.damaged()] == ["note.txt"]
    assert library.add([source])[0].state == "ready" and not library.damaged()
    library.clear()
    assert library.is_empty
    library.close()
