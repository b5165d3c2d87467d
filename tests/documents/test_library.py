"""One visitor's documents, with a real (tiny, random) model, a real index and real files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grit_app.documents.document import Limits
from grit_app.documents.keep.keywords import KeywordIndex, tokens
from grit_app.documents.library import FileReport, Library, Progress
from grit_app.documents.read.pdf.recognition import can_recognise
from grit_app.errors import DocumentError
from grit_app.gritlm import GritLM, scheduler
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import Pdf, encrypted, wrap
from tests.documents.scan_maker import scan, text_page

ROOT = Path(__file__).resolve().parents[2]
LONGEST_S = 120.0
"""What a busy machine may take for one step of another process."""
QUESTION = "How much honey can a strong colony make?"


@pytest.fixture
def model(load_tiny: Callable[..., GritLM]) -> GritLM:
    return load_tiny()


@pytest.fixture
def library(model: GritLM) -> Iterator[Library]:
    made = Library(model, chunk_tokens=60)
    yield made
    made.close()


def report_pdf() -> bytes:
    pdf = Pdf()
    pdf.page().lines(72, 700, wrap(RIVER, 460))
    pdf.page().lines(72, 700, wrap(HONEY, 460))
    return pdf.bytes()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "report.pdf").write_bytes(report_pdf())
    (folder / "mills.txt").write_text("The mill at the weir ground grain for two hundred years.\n\nIts wheel is gone.")
    return [folder / "report.pdf", folder / "mills.txt"]


def ask(library: Library, question: str = QUESTION, k: int = 3, **options: Any) -> list[tuple[str, float]]:
    vector = library.model.encode([question])[0]
    return [(hit.chunk.id, hit.score) for hit in library.search(vector, question, k, **options)]


def test_files_become_documents_with_progress(library: Library, files: list[Path]) -> None:
    steps: list[Progress] = []
    reports = library.add(files, progress=steps.append)
    assert [(r.name, r.state, r.pages) for r in reports] == [("report.pdf", "ready", 2), ("mills.txt", "ready", 1)]
    assert [(d.name, d.kind, d.pages, d.chunks) for d in library.documents()] == [
        ("report.pdf", "pdf", 2, reports[0].chunks), ("mills.txt", "text", 1, reports[1].chunks)
    ]  # fmt: skip
    assert reports[0].chunks > 2
    reading = [s for s in steps if s.file == 0 and s.stage == "reading"]
    embedding = [s for s in steps if s.file == 0 and s.stage == "embedding"]
    assert [(s.done, s.total) for s in reading] == [(1, 2), (2, 2)]
    assert [s.done for s in embedding] == list(range(1, reports[0].chunks + 1))
    assert {s.name for s in steps} == {"report.pdf", "mills.txt"} and {s.files for s in steps} == {2}


def test_one_bad_file_does_not_stop_the_others(library: Library, files: list[Path], tmp_path: Path) -> None:
    empty, locked, scan = tmp_path / "empty.pdf", tmp_path / "locked.pdf", tmp_path / "scan.pdf"
    empty.write_bytes(b"")
    locked.write_bytes(encrypted(report_pdf(), "secret"))
    picture = Pdf()
    picture.page().picture(0, 0, 612, 792)
    scan.write_bytes(picture.bytes())
    reports = library.add([empty, files[0], locked, scan, tmp_path / "gone.pdf", files[1]])
    assert [r.state for r in reports] == ["failed", "ready", "failed", "failed", "failed", "ready"]
    assert [r.needs_password for r in reports] == [False, False, True, False, False, False]
    for report in reports:
        assert report.state == "ready" or report.name in report.reason


def test_the_same_bytes_are_indexed_once(library: Library, files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.pdf"
    copy.write_bytes(files[0].read_bytes())
    first, second, third = library.add([files[0], files[0], copy])
    assert (second.state, third.state) == ("duplicate", "duplicate")
    assert first.document_id == second.document_id == third.document_id
    assert "as report.pdf" in third.reason and len(library.documents()) == 1


def test_an_encrypted_file_is_kept_so_that_its_pages_can_be_shown(model: GritLM, tmp_path: Path) -> None:
    path = tmp_path / "locked.pdf"
    path.write_bytes(encrypted(report_pdf(), "secret"))
    library = Library(model, tmp_path / "data")
    (report,) = library.add([path], password="secret")
    from grit_app.documents.read.pictures import page_picture

    assert report.document_id is not None
    assert page_picture(library.source(report.document_id), 1, HONEY).boxes
    library.close()


@pytest.mark.skipif(not can_recognise(), reason="the extra ocr is not installed")
@pytest.mark.parametrize("on_disk", [True, False])
def test_scanned_pages_are_read_when_they_are_wanted(model: GritLM, tmp_path: Path, on_disk: bool) -> None:
    """The document takes its own place once more of its pages are read; nothing of the earlier reading stays."""
    path = tmp_path / "scan.pdf"
    path.write_bytes(scan([text_page([RIVER[:60]]), text_page([HONEY[:40]])], 100))
    library = Library(model, tmp_path / "data" if on_disk else None, chunk_tokens=60)
    (none,) = library.add([path])
    (one,) = library.add([path], ocr_pages=1)
    (both,) = library.add([path], ocr_pages=2)
    assert (none.state, none.scanned, one.state, one.scanned, both.state, both.scanned) == (
        *("failed", 2, "ready", 1, "ready", 0),
    )
    (info,) = library.documents()
    assert info.id == one.document_id == both.document_id and info.scanned == 0
    hits = library.search(model.encode(["nectar"])[0], "Bees nectar", 4)
    assert "Bees" in " ".join(hit.chunk.text for hit in hits) and all(hit.chunk.by_ocr for hit in hits)
    assert library.add([path])[0].state == "duplicate"
    library.close()


def test_names_come_from_people(library: Library, files: list[Path]) -> None:
    (report,) = library.add([files[0]], names=["Honey <b>report</b>.pdf"])
    assert report.name == library.documents()[0].name == "Honey <b>report</b>.pdf"


def test_adding_can_be_stopped(library: Library, files: list[Path]) -> None:
    cancel = threading.Event()

    def stop(step: Progress) -> None:
        if step.stage == "embedding":
            cancel.set()

    big = files[0].parent / "big.txt"
    big.write_text("\n\n".join(f"Paragraph {i}. {RIVER} {HONEY}" for i in range(80)))
    reports = library.add([big, files[1]], progress=stop, cancel=cancel)
    assert [r.state for r in reports] == ["cancelled", "cancelled"]
    assert library.documents() == [] and ask(library) == []


def test_the_number_of_documents_is_limited(model: GritLM, files: list[Path]) -> None:
    library = Library(model, limits=Limits(max_documents=1))
    reports = library.add(files)
    assert [r.state for r in reports] == ["ready", "failed"] and "1 documents are the limit" in reports[1].reason
    library.close()


# ---------------------------------------------------------------- search


@pytest.mark.parametrize("mode", ["vectors", "keywords", "hybrid"])
def test_search_is_what_brute_force_finds(load_tiny: Callable[..., GritLM], files: list[Path], mode: str) -> None:
    """Every passage scored by hand in float64, sorted, cut at k."""
    model = load_tiny()
    library = Library(model, chunk_tokens=40)
    library.add(files)
    chunks = [c for d in library.documents() for c in library.chunks(d.id)]
    vector = model.encode([QUESTION])[0]
    rows = model.encode([c.text for c in chunks]).astype(np.float64)
    cosines = rows @ vector.astype(np.float64) / np.linalg.norm(rows, axis=1) / np.linalg.norm(vector)
    words = KeywordIndex([tokens(f"{c.heading}\n{c.text}") for c in chunks]).scores(QUESTION)
    weight = {"vectors": 1.0, "keywords": 0.0, "hybrid": model.config.vector_weight}[mode]
    scores = weight * np.maximum(cosines, 0) + (1 - weight) * words
    order = sorted(range(len(chunks)), key=lambda i: (-scores[i], i))
    if mode == "keywords":
        order = [i for i in order if words[i] > 0]
    hits = library.search(vector, QUESTION, 4, mode=mode)  # type: ignore[arg-type]
    assert [h.chunk.id for h in hits] == [chunks[i].id for i in order[:4]]
    assert [h.score for h in hits] == pytest.approx([scores[i] for i in order[:4]], abs=1e-5)
    assert all(0 <= h.score <= 1 for h in hits)
    library.close()


def test_fusion_is_the_weighted_mean_and_says_who_found_it() -> None:
    from grit_app.documents.keep.fusion import fuse

    cosines, words = {0: 0.9, 1: 0.2, 2: 0.5, 3: -0.4}, {0: 0.0, 1: 0.8, 2: 0.5, 3: 0.0}
    fused = fuse(cosines, words, 2, "hybrid", 0.25)
    assert [(row, s.found_by) for row, s in fused] == [(1, "keywords"), (2, "both")]
    assert [s.score for _, s in fused] == pytest.approx([0.25 * 0.2 + 0.75 * 0.8, 0.5])
    assert [row for row, _ in fuse(cosines, words, 4, "vectors", 0.25)] == [0, 2, 1, 3]
    assert fuse({3: 0.5, 1: 0.5, 2: 0.5}, {1: 0, 2: 0, 3: 0}, 2, "hybrid", 0.5)[0][0] == 1, "ties by place"


def test_search_in_some_documents_only(library: Library, files: list[Path]) -> None:
    pdf, mills = (r.document_id or "" for r in library.add(files))
    for mode in ("vectors", "keywords", "hybrid"):
        found = {
            i.partition(":")[0] for i, _ in ask(library, "the mill and the river", 10, documents=[mills], mode=mode)
        }
        assert found == {mills}
    assert ask(library, documents=[]) == [] and ask(library, documents=["unknown"]) == []
    assert {i.partition(":")[0] for i, _ in ask(library, k=50)} == {pdf, mills}


def test_the_same_question_has_the_same_answer(library: Library, files: list[Path]) -> None:
    library.add(files)
    assert ask(library) == ask(library)


def test_a_table_is_found_by_its_caption(library: Library, tmp_path: Path) -> None:
    """The rows are in a chunk of their own; the words of the question stand in the caption above."""
    pdf = Pdf()
    page = pdf.page()
    page.lines(72, 740, wrap(RIVER, 460))
    page.text(72, 660, "Table 7. Zeppelins by harbour")
    for i in range(24):
        page.row(640 - 12 * i, [(72, f"Harbour {i}"), (250, str(100 + i)), (350, str(200 + i))])
    path = tmp_path / "t.pdf"
    path.write_bytes(pdf.bytes())
    library.add([path])
    hits = library.search(library.model.encode(["x"])[0], "zeppelins", 10, mode="keywords")
    assert len(hits) > 1 and any("Zeppelins" not in h.chunk.text for h in hits)


def test_removing_and_clearing(library: Library, files: list[Path]) -> None:
    pdf, mills = (r.document_id or "" for r in library.add(files))
    library.remove(pdf)
    assert [d.id for d in library.documents()] == [mills]
    assert {i.partition(":")[0] for i, _ in ask(library, k=50)} == {mills}
    with pytest.raises(DocumentError, match="not in the library any more"):
        library.document(pdf)
    library.remove(pdf)
    assert library.add([files[0]])[0].state == "ready", "a removed file may come again"
    library.clear()
    assert library.documents() == [] and ask(library) == [] and library.cache_bytes() == 0


def test_libraries_in_memory_do_not_see_each_other(model: GritLM, files: list[Path]) -> None:
    first, second = Library(model), Library(model)
    first.add([files[0]])
    assert second.documents() == [] and ask(second, k=50) == []
    second.add([files[1]])
    first.close()
    assert len(ask(second, k=50)) == second.documents()[0].chunks
    second.close()


# ---------------------------------------------------------------- restart


def test_a_library_survives_a_restart(model: GritLM, files: list[Path], tmp_path: Path) -> None:
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add(files)
    before = (library.documents(), ask(library), library.cache_bytes())
    library.close()
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    assert (library.documents(), ask(library), library.cache_bytes()) == before
    assert library.add([files[0]])[0].state == "duplicate"
    library.close()


def test_an_unclean_stop_rebuilds_the_index_from_the_store(model: GritLM, files: list[Path], tmp_path: Path) -> None:
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add(files)
    before = ask(library)
    library.close()
    (tmp_path / "data" / "index-in-use").touch()
    for path in (tmp_path / "data" / "index").rglob("*"):
        if path.is_file():
            path.write_bytes(b"rubbish")
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    assert ask(library) == before
    library.close()


def test_documents_that_the_index_missed_are_added(model: GritLM, files: list[Path], tmp_path: Path) -> None:
    """Killed between the rename of a document and its entry into the index: the store is right."""
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add(files)
    before = ask(library)
    library._index.remove(library.documents()[0].id)
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    assert ask(library) == before
    library.close()


def test_a_change_of_model_embeds_anew_without_the_files(
    model: GritLM, load_tiny: Callable[..., GritLM], files: list[Path], tmp_path: Path
) -> None:
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add(files)
    texts = [c.text for d in library.documents() for c in library.chunks(d.id)]
    library.close()
    for path in files:
        path.unlink()
    other = load_tiny(hidden_size=48)
    assert other.hidden_size != model.hidden_size
    library = Library(other, tmp_path / "data", chunk_tokens=60)
    chunks = [c for d in library.documents() for c in library.chunks(d.id)]
    assert [c.text for c in chunks] == texts
    vector = other.encode([QUESTION])[0]
    cosines = other.encode(texts) @ vector
    hits = library.search(vector, QUESTION, 3, mode="vectors")
    assert [h.vector_score for h in hits] == pytest.approx(sorted(cosines.tolist(), reverse=True)[:3], abs=1e-5)
    library.close()


def test_a_library_killed_while_it_indexes_opens_whole(
    model: GritLM, tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Five processes killed (SIGKILL) while they read, embed, write, index and remove."""
    files = tmp_path / "files"
    files.mkdir()
    for number in range(12):
        (files / f"{number}.txt").write_text(f"Report number {number}. {RIVER} {HONEY}")
    command = [sys.executable, "-m", "tests.documents.library_worker", tmp_path / "data", tiny_model_folder(), files]
    moments = random.Random(5)
    seen, child = 0, 0
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        try:
            for _ in range(5):
                worker.stdin.write("go\n")
                worker.stdin.flush()
                child = int(({worker.stdout.readline().strip() for _ in range(2)} - {"open"}).pop())
                await_changes(tmp_path / "data" / "documents", moments.randint(1, 3))
                time.sleep(moments.uniform(0.0, 0.3))
                os.kill(child, signal.SIGKILL)
                child = 0
                library = opened(model, tmp_path / "data")
                documents = library.documents()
                chunks = {c.id for d in documents for c in library.chunks(d.id)}
                assert {i for i, _ in ask(library, k=500)} == chunks, "the index holds what the store holds"
                for document in documents:
                    assert library.document(document.id).text.endswith("the winter months.")
                seen = max(seen, len(documents))
                library.close()
        finally:
            worker.kill()
            if child:
                os.kill(child, signal.SIGKILL)
    assert seen >= 2, "the killed processes must have kept something"


def await_changes(folder: Path, count: int) -> None:
    """Until documents came or went so many times. By the clock alone a busy machine is killed before its first one."""

    def names() -> set[str]:
        return {path.name for path in folder.glob("[!.]*")}

    known, deadline = names(), time.monotonic() + LONGEST_S
    while count:
        assert time.monotonic() < deadline, f"no document came or went in {folder}"
        time.sleep(0.005)
        if (now := names()) != known:
            known, count = now, count - 1


def opened(model: GritLM, folder: Path) -> Library:
    """The library, once the system has buried the killed process and let go of its lock."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        try:
            return Library(model, folder, chunk_tokens=40)
        except DocumentError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def test_text_is_not_given_to_chroma(model: GritLM, files: list[Path], tmp_path: Path) -> None:
    """Chroma leaves deleted rows on the disk; a removed document must be gone."""
    library = Library(model, tmp_path / "data")
    library.add(files)
    library.clear()
    library.close()
    data = b"".join(p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert b"nectar" not in data and b"weir" not in data


def test_a_folder_in_use_is_refused_and_left_alone(model: GritLM, tmp_path: Path) -> None:
    library = Library(model, tmp_path / "data")
    with pytest.raises(DocumentError, match="in use"):
        Library(model, tmp_path / "data")
    assert library.documents() == []
    library.close()


# ---------------------------------------------------------------- threads


def test_questions_are_answered_while_files_are_added(library: Library, files: list[Path], tmp_path: Path) -> None:
    library.add([files[0]])
    expected = ask(library, k=1)
    paths = []
    for i in range(6):
        path = tmp_path / f"{i}.txt"
        path.write_text(f"Zebra number {i} eats grass all day long.")
        paths.append(path)
    reports: list[FileReport] = []
    failures: list[BaseException] = []

    def ask_often() -> None:
        try:
            for _ in range(20):
                assert ask(library, k=1, documents=[expected[0][0].partition(":")[0]])[0][0] == expected[0][0]
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=lambda: reports.extend(library.add(paths[:3]))),
        threading.Thread(target=lambda: reports.extend(library.add(paths[3:]))),
        threading.Thread(target=ask_often),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [r.state for r in reports] == ["ready"] * 6 and len(library.documents()) == 7


def test_a_library_of_another_model_is_embedded_anew_behind_everybody_s_questions(
    load_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that opened after a change of model counted as a question, with hundreds of passages before all others."""
    path = tmp_path / "text.txt"
    path.write_text("Bees make honey from nectar. The river rises in the mountains. " * 8)
    first = Library(load_tiny("mistral"), tmp_path / "data", chunk_tokens=40)
    first.add([path])
    first.close()
    other = load_tiny("llama")
    kinds: list[str] = []
    acquire = other.scheduler.acquire
    monkeypatch.setattr(
        other.scheduler,
        "acquire",
        lambda job=None, *rest, **named: (kinds.append(scheduler._job_of(job).kind), acquire(job, *rest, **named))[1],
    )
    again = Library(other, tmp_path / "data", chunk_tokens=40)
    assert kinds and set(kinds) == {"background"}
    assert again.search(other.encode(["honey"])[0], "honey", 1)
    again.close()
