"""Vectors in a real Chroma server process: the neighbours of the local index, and the store stays the truth."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from grit_app.documents.keep.index import VectorIndex
from grit_app.documents.keep.server_index import ServerIndex
from grit_app.documents.library import Library
from grit_app.errors import DocumentError
from tests.documents.keep.test_index import ids, unit_rows


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("chroma")
    command = [str(Path(sys.executable).parent / "chroma"), "run", "--path", str(folder), "--port", str(port)]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        try:
            while True:
                try:
                    httpx.get(f"{url}/api/v2/heartbeat").raise_for_status()
                    break
                except httpx.HTTPError:
                    assert running.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.1)
            yield url
        finally:
            running.terminate()
            running.wait(20)


def test_the_server_gives_the_neighbours_of_the_local_index(chroma: str, tmp_path: Path) -> None:
    rows, query = unit_rows(40, 1), unit_rows(1, 2)[0]
    indices = [VectorIndex(None, "model"), ServerIndex(chroma, tmp_path, "model"), ServerIndex(chroma, None, "model")]
    for index in indices:
        index.add("a", ids("a", 20), rows[:20])
        index.add("b", ids("b", 20), rows[20:])
    for documents in (None, ["b"], []):
        found = [index.nearest(query, 5, documents) for index in indices]
        assert found[0] == found[1] == found[2]
    for index in indices:
        index.remove("a")
        assert index.matches(ids("b", 20))
        index.close()
    again = ServerIndex(chroma, tmp_path, "model")
    assert again.matches(ids("b", 20)), "a kept library's collection stays"
    assert not ServerIndex(chroma, tmp_path, "another model").matches(ids("b", 20)), "other vectors are dropped"
    assert not ServerIndex(chroma, tmp_path / "other", "model").matches(ids("b", 20))


def test_a_library_searches_there_and_makes_it_anew_from_its_store(
    chroma: str, tiny_model: Any, tmp_path: Path
) -> None:
    text = tmp_path / "bees.txt"
    text.write_text("Bees make honey from nectar.\n\nThe river reaches the sea.\n", encoding="utf-8")
    vector = tiny_model.encode(["honey"])[0]
    library = Library(tiny_model, tmp_path / "library", vectors=chroma)
    library.add([text])
    found = [hit.chunk.id for hit in library.search(vector, "honey", 2)]
    library._index.remove(library.documents()[0].id)  # as if the server had lost it
    assert library._index.nearest(vector, 2) == []
    library.close()
    assert not (tmp_path / "library" / "index").exists()
    again = Library(tiny_model, tmp_path / "library", vectors=chroma)
    assert [hit.chunk.id for hit in again.search(vector, "honey", 2)] == found != []
    again.close()


def test_a_server_that_is_gone_is_a_sentence(load_tiny: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"http://127\.0\.0\.1:9 did not do what it was asked"):
        Library(load_tiny("llama"), tmp_path, vectors="http://127.0.0.1:9")
