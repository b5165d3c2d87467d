"""What disks do to files that can be made again, and what clocks do that jump."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from grit_app.documents.keep import kv_store, store
from grit_app.documents.library import Library
from grit_app.gritlm import GritLM
from grit_app.ui.documents.answers import Asking, source_picture

SAMPLE = Path(__file__).resolve().parents[2] / "assets" / "samples" / "field_guide.pdf"
TEXT = "The river rises in the mountains and reaches the sea. Bees make honey from nectar and keep it in combs. " * 4


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_a_byte_that_flips_anywhere_in_a_cache_file_never_reaches_an_answer(
    tiny_model: GritLM, text_file: Path, tmp_path: Path
) -> None:
    """Served, one wrong key changes answers silently: the file must be refused, or give the numbers that it had."""
    library = Library(tiny_model, tmp_path / "data", chunk_tokens=60)
    library.add([text_file])
    (document,) = library.documents()
    chunk = library.chunks(document.id)[0]
    (path,) = (p for key, p in library.caches.files(document.id).items() if key[0] == chunk.id)
    right, whole = library.cache_for(chunk)[0].clone(), path.read_bytes()
    states = set()
    for position in range(0, len(whole), max(1, len(whole) // 60)):
        library.caches.cool(document.id)
        damaged = bytearray(whole)
        damaged[position] ^= 0x40
        path.write_bytes(bytes(damaged))
        found, state = library.cache_for(chunk)
        states.add(state)
        assert torch.allclose(found.keys, right.keys, atol=1e-5), f"byte {position} of {len(whole)}, {state}"
        assert torch.allclose(found.values, right.values, atol=1e-5), f"byte {position} of {len(whole)}, {state}"
    assert "built" in states
    library.close()


def test_a_damaged_original_costs_the_picture_and_not_the_answer(tiny_model: GritLM, tmp_path: Path) -> None:
    library = Library(tiny_model, tmp_path / "data")
    library.add([SAMPLE])
    (document,) = library.documents()
    original = library.source(document.id)
    assert isinstance(original, Path)
    for content in (b"", b"%PDF-1.7 damaged", original.read_bytes()[:2000]):
        original.write_bytes(content)
        asking = Asking(1, "What is a tail?", strategy="rag_doc_query", k=1, mode="quote")
        list(asking.frames(library, tiny_model, None, threading.Event()))
        assert asking.turn.hits
        told = source_picture(library, asking.turn, 0)
        assert told.startswith('<p class="quiet">') and "Traceback" not in told
    original.unlink()
    assert source_picture(library, asking.turn, 0).startswith('<p class="quiet">')
    library.close()


def test_clocks_that_jump_lose_no_document_and_overrun_no_budget(
    tiny_model: GritLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine wakes in 1970 or 2090 until it asks for the time; files keep the times that it had then."""
    now = [time.time()]
    for module in (store, kv_store):
        monkeypatch.setattr(module.time, "time", lambda: now[0])
    names = []
    library = Library(tiny_model, tmp_path / "data", cache_budget_bytes=40_000, chunk_tokens=60)
    for number, jump_s in enumerate((0.0, -50 * 365 * 86_400.0, 64 * 365 * 86_400.0, 0.0)):
        now[0] += jump_s
        path = tmp_path / f"{number}.txt"
        path.write_text(f"Part {number}. {TEXT}")
        (report,) = library.add([path])
        assert report.state == "ready"
        names.append(path.name)
        assert library.cache_bytes() <= 40_000
        for chunk in library.chunks(library.documents()[-1].id):
            library.cache_for(chunk)
        assert library.cache_bytes() <= 40_000
    library.close()
    os.utime(next((tmp_path / "data" / "documents").glob("*/kv")), (0, 0))
    again = Library(tiny_model, tmp_path / "data", cache_budget_bytes=40_000, chunk_tokens=60)
    assert sorted(info.name for info in again.documents()) == names
    vector = tiny_model.encode(["river"])[0]
    assert again.search(vector, "river", 2)
    again.close()
