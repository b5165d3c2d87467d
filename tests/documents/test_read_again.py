"""Documents that take their own place: read in another encoding, or cut by another setting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grit_app.documents import keeping
from grit_app.documents.chunking import chunk_document
from grit_app.documents.keep.store import FolderStore
from grit_app.documents.library import Library, Progress
from grit_app.documents.read.text.encodings import decode
from grit_app.documents.read.text.languages import ENCODINGS, LANGUAGES, encoding_name, known_encoding
from grit_app.errors import DocumentError, InputError
from grit_app.gritlm import GritLM
from grit_app.gritlm.budget import Budget
from tests.documents.conftest import HONEY, RIVER

MARKDOWN = f"# Water\n\n{RIVER}\n\n## Bees\n\n{HONEY}\n"


@pytest.fixture
def model(load_tiny: Callable[..., GritLM]) -> GritLM:
    return load_tiny()


@pytest.fixture(params=[True, False], ids=["on disk", "in memory"])
def library(model: GritLM, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    made = Library(model, tmp_path / "data" if request.param else None, chunk_tokens=60)
    yield made
    made.close()


def written(tmp_path: Path, encoding: str, text: str, name: str = "letter.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def texts(library: Library) -> list[str]:
    return [chunk.text for info in library.documents() for chunk in library.chunks(info.id)]


@pytest.mark.parametrize(
    ("encoding", "chosen", "text"),
    [("cp1251", "windows-1251", "Wall 7: ЙШЩ"), ("shift_jis", "Shift-JIS", "Plan B 橘 巽")],
)
def test_a_wrong_guess_is_put_right(library: Library, tmp_path: Path, encoding: str, chosen: str, text: str) -> None:
    """The guess was told in a note, and nothing could be done about it."""
    path = written(tmp_path, encoding, f"{text} " * 30)
    (guessed,) = library.add([path])
    assert guessed.document_id is None or text not in library.document(guessed.document_id).text
    assert guessed.needs_encoding or "guess" in guessed.reason
    (right,) = library.add([path], encoding=chosen)
    assert (right.state, right.reason) == ("ready", "")
    (info,) = library.documents()
    assert (info.id, info.encoding_by) == (right.document_id, "person") and info.encoding == known_encoding(chosen)
    assert text in texts(library)[0]
    hits = library.search(library.model.encode(["x"])[0], text, 1, mode="keywords")
    assert hits and text in hits[0].chunk.text
    assert library.add([path])[0].state == library.add([path], encoding=chosen)[0].state == "duplicate", "it is kept"


@pytest.mark.parametrize("chosen", ["utf-8", "utf-32", "no-such", "rot13", "undefined", "idna", ""])
def test_the_earlier_reading_stays_where_the_new_one_fails(library: Library, tmp_path: Path, chosen: str) -> None:
    path = written(tmp_path, "cp1251", "Управляющим был назначен Пётр Лаврентьев. " * 20)
    library.add([path])
    before = library.documents(), texts(library)
    (report,) = library.add([path], encoding=chosen)
    assert report.state == "failed" and report.needs_encoding and "letter.txt" in report.reason
    assert (library.documents(), texts(library)) == before
    hit = library.search(library.model.encode(["x"])[0], "Лаврентьев", 1, mode="keywords")[0]
    library.cache_for(hit.chunk)


def test_the_earlier_reading_stays_where_the_new_one_cannot_be_embedded(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "cp1251", "Управляющим был назначен Пётр Лаврентьев. " * 20)
    library.add([path])
    before = library.documents(), texts(library)

    def full(*_: Any, **__: Any) -> Any:
        raise DocumentError("letter.txt could not be kept: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "embed_chunks", full)
        (report,) = library.add([path], encoding="koi8-r")
    assert report.state == "failed" and not report.needs_encoding
    after = library.documents()
    assert texts(library) == before[1]
    assert [(a.id, a.encoding) for a in after] == [(b.id, b.encoding) for b in before[0]]
    assert library._store.load() == [] or after == before[0], "its caches are known as before"
    assert library.add([path], encoding="koi8-r")[0].state == "ready"


def test_a_document_keeps_its_place_in_the_list(library: Library, tmp_path: Path) -> None:
    paths = [written(tmp_path, "cp1251", f"{n} Управляющим был назначен Пётр. " * 9, f"{n}.txt") for n in range(3)]
    library.add(paths)
    library.add([paths[0]], encoding="koi8-r")
    assert sorted(info.added for info in library.documents()) == sorted({i.added for i in library.documents()})
    assert min(library.documents(), key=lambda info: info.added).name == "0.txt"


def test_memory_for_a_file_that_is_read_again_is_counted_once(model: GritLM, tmp_path: Path) -> None:
    path = written(tmp_path, "cp1251", "Управляющим был назначен Пётр Лаврентьев. " * 20)
    library = Library(model, None, chunk_tokens=60)
    memory = model.memory
    assert isinstance(memory, Budget)
    before = memory.held_bytes
    library.add([path])
    held = memory.held_bytes
    library.add([path], encoding="koi8-r")
    assert memory.held_bytes == held == before + path.stat().st_size
    library.close()
    assert memory.held_bytes == before


def test_a_person_s_choice_survives_a_restart(model: GritLM, tmp_path: Path) -> None:
    path = written(tmp_path, "cp1251", "Управляющим был назначен Пётр Лаврентьев. " * 20)
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add([path], encoding="mac_cyrillic")
    read = texts(library)
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    (info,) = library.documents()
    assert (info.encoding, info.encoding_by, texts(library)) == ("mac_cyrillic", "person", read)
    library.close()


def test_a_kill_between_two_readings_leaves_the_earlier_one(model: GritLM, tmp_path: Path) -> None:
    path = written(tmp_path, "utf-8", RIVER)
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    (report,) = library.add([path])
    library.close()
    folder = tmp_path / "data" / "documents"
    (folder / str(report.document_id)).rename(folder / f".old-{report.document_id}")  # the other had not come yet
    store = FolderStore(tmp_path / "data")
    assert [stored.document.text for stored in store.load()] == [RIVER]
    store.close()


def test_a_reading_that_cannot_take_its_place_leaves_the_earlier_one(
    model: GritLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "cp1251", "Управляющим был назначен Пётр Лаврентьев. " * 20)
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    (report,) = library.add([path])
    before = texts(library)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.startswith(".new-"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        assert library.add([path], encoding="koi8-r")[0].state == "failed"
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    assert texts(library) == before and library.documents()[0].id == report.document_id
    library.close()


def test_every_encoding_that_can_be_guessed_can_be_chosen() -> None:
    offered = [name for names in ENCODINGS.values() for name in names]
    assert {name for names, _ in LANGUAGES.values() for name in names} <= set(offered)
    assert len(set(offered)) == len(offered)
    assert [known_encoding(name) for name in offered] == offered
    assert len({encoding_name(name) for name in offered}) == len(offered)


def test_a_few_broken_letters_do_not_speak_against_a_choice() -> None:
    good = decode("Größe und Maß, überall Öl für Äpfel".encode() + b"\xff", "utf-8")
    assert good is not None and not good.lost and good.text.endswith("\ufffd")
    assert decode(bytes(range(1, 32)) * 9, "cp1252").lost, "a picture is no text in any encoding"  # type: ignore[union-attr]


# ---------------------------------------------------------------- the setting of the passages' length


def test_a_change_of_the_passages_length_cuts_what_is_there(model: GritLM, tmp_path: Path) -> None:
    """It was ignored for documents that were there already."""
    paths = [written(tmp_path, "utf-8", MARKDOWN, "a.md"), written(tmp_path, "utf-8", HONEY, "b.txt")]
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add(paths)
    names = [info.name for info in library.documents()]
    library.close()
    for path in paths:
        path.unlink()
    library = Library(model, tmp_path / "data", chunk_tokens=24)
    assert [info.name for info in library.documents()] == names, "in the order in which they came"
    for info in library.documents():
        chunks = library.chunks(info.id)
        assert list(chunks) == chunk_document(library.document(info.id), model.prompts.count, 24)
        assert library._stored[info.id].vectors == pytest.approx(model.encode([c.text for c in chunks]), abs=1e-5)
    assert any(chunk.heading == "Water › Bees" for chunk in library.chunks(library.documents()[0].id))
    vector = model.encode([HONEY[:60]])[0]
    (hit,) = library.search(vector, "", 1, mode="vectors")
    every = [c.text for info in library.documents() for c in library.chunks(info.id)]
    assert hit.vector_score == pytest.approx(max(model.encode(every) @ vector), abs=1e-5)
    library.cache_for(hit.chunk)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "documents").rglob("text.txt")}
    library.close()
    Library(model, tmp_path / "data", chunk_tokens=24).close()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "documents").rglob("text.txt")}
    assert before == after, "nothing is done twice"


def test_passages_that_a_program_gave_are_never_cut(model: GritLM, tmp_path: Path) -> None:
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add_passages({"given": [RIVER, HONEY]})
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=24)
    assert texts(library) == [RIVER, HONEY]
    library.close()


def test_passages_stay_where_they_cannot_be_cut_anew(
    model: GritLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk does not keep a library from being opened."""
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add([written(tmp_path, "utf-8", RIVER)])
    before = texts(library)
    library.close()

    def full(*_: Any, **__: Any) -> Any:
        raise DocumentError("No space left.")

    monkeypatch.setattr(FolderStore, "write", full)
    library = Library(model, tmp_path / "data", chunk_tokens=24)
    assert texts(library) == before
    library.close()


def test_another_length_of_passages_cuts_what_is_there_and_what_comes(
    library: Library, model: GritLM, tmp_path: Path
) -> None:
    """It could only be said when the program was started."""
    library.add([written(tmp_path, "utf-8", MARKDOWN, "a.md"), written(tmp_path, "utf-8", HONEY, "b.txt")])
    before, steps = [info.id for info in library.documents()], []
    reports = library.cut_anew(24, steps.append)
    assert [(one.name, one.state) for one in reports] == [("a.md", "ready"), ("b.txt", "ready")]
    assert {step.name for step in steps} == {"a.md", "b.txt"} and steps[-1].done == steps[-1].total
    library.add([written(tmp_path, "utf-8", RIVER, "c.txt")])
    assert [info.id for info in library.documents()][:2] == before, "in the order in which they came"
    for info in library.documents():
        chunks = library.chunks(info.id)
        assert list(chunks) == chunk_document(library.document(info.id), model.prompts.count, 24)
        assert library._stored[info.id].vectors == pytest.approx(model.encode([c.text for c in chunks]), abs=1e-5)
        assert library.cache_for(chunks[-1])[1] != "built", "caches come with the passages, as when a file is added"
    every = texts(library)
    (hit,) = library.search(model.encode([every[-1]])[0], "", 1, mode="vectors")
    assert hit.chunk.text == every[-1]
    assert library.cut_anew(24) == [], "nothing is done twice"
    with pytest.raises(InputError, match="at least 16"):
        library.cut_anew(3)


def test_the_length_that_was_chosen_stays_with_the_folder(model: GritLM, tmp_path: Path) -> None:
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add([written(tmp_path, "utf-8", MARKDOWN, "a.md")])
    library.cut_anew(24)
    cut = texts(library)
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    assert library.chunk_tokens == 24 and texts(library) == cut
    library.close()
    (tmp_path / "data" / "choices.json").write_text("{")
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    assert library.chunk_tokens == 60 and texts(library) != cut, "a damaged note is none"
    library.close()


def test_documents_behind_a_stop_keep_their_passages(library: Library, tmp_path: Path) -> None:
    library.add([written(tmp_path, "utf-8", MARKDOWN, "a.md"), written(tmp_path, "utf-8", HONEY, "b.txt")])
    _, second = (info.id for info in library.documents())
    before, cancel = library.chunks(second), threading.Event()
    reports = library.cut_anew(24, lambda step: cancel.set() if step.done == step.total else None, cancel)
    assert [one.state for one in reports][-1] == "cancelled"
    assert library.chunks(second) == before and library.cache_for(before[0])[1] != "built"
    assert [one.state for one in library.cut_anew(24)][-1] == "ready" and library.chunks(second) != before


@pytest.mark.parametrize("how", ["cut", "read"])
def test_a_document_that_is_removed_while_it_is_done_anew_stays_removed(
    library: Library, tmp_path: Path, how: str
) -> None:
    """It came back: what was read anew took the place that was free by then."""
    path = written(tmp_path, "cp1251", "Wall 7: ЙШЩ " * 30)
    library.add([path])
    (info,) = library.documents()

    def remove(step: Progress) -> None:
        if step.stage == "embedding":
            library.remove(info.id)

    (report,) = library.cut_anew(24, remove) if how == "cut" else library.add([path], None, remove, encoding="cp1251")
    assert report.state == "failed" and "was removed" in report.reason
    assert library.documents() == [] and texts(library) == [] and library.cache_bytes() == 0
    assert not list((tmp_path / "data" / "documents").glob("[!.]*"))


def test_what_was_not_reached_is_not_cut_when_the_library_is_opened(model: GritLM, tmp_path: Path) -> None:
    """Opening it would take as long as cutting it, and nobody would be told why."""
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    library.add([written(tmp_path, "utf-8", MARKDOWN, "a.md")])
    before, cancel = texts(library), threading.Event()
    cancel.set()
    library.cut_anew(24, cancel=cancel)
    library.close()
    library = Library(model, tmp_path / "data", chunk_tokens=60)
    assert texts(library) == before and library.chunk_tokens == 24
    library.cut_anew(24)
    assert texts(library) != before
    library.close()
