"""Files as they come: each gives a document or one sentence that names it, and none stops or hangs the program."""

from __future__ import annotations

import gc
import itertools
import math
import re
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pypdfium2
import pytest

from grit_app.documents.document import Document, Limits, page_list
from grit_app.documents.read import process, reading
from grit_app.documents.read.pdf import reader
from grit_app.documents.read.reading import read_document
from grit_app.errors import Cancelled, DocumentError, NoTextFound, PasswordNeeded, SettingsError
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import Pdf, encrypted, wrap


def two_pages() -> Pdf:
    pdf = Pdf()
    pdf.page().lines(72, 700, wrap(RIVER, 460))
    pdf.page().lines(72, 700, wrap(HONEY, 460))
    return pdf


def saved(folder: Path, data: bytes, name: str = "report.pdf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def sentence(error: BaseException, name: str = "report.pdf") -> str:
    """The error's message, after checking that it is one line, names the file and ends like a sentence."""
    text = str(error)
    assert name in text and "\n" not in text and re.search(r"[.!?]$", text), text
    assert "Traceback" not in text and "Error" not in text.replace(name, "")
    return text


def test_a_pdf_is_read_in_a_process_of_its_own_with_progress(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    document = read_document(
        saved(tmp_path, two_pages().bytes()), progress=lambda stage, done, total: steps.append((done, total))
    )
    assert document.text == f"{RIVER}\n{HONEY}"
    assert (document.name, document.kind, len(document.pages)) == ("report.pdf", "pdf", 2)
    assert steps == [(1, 2), (2, 2)]


def test_the_same_bytes_have_the_same_identity_under_any_name(tmp_path: Path) -> None:
    first = read_document(saved(tmp_path, two_pages().bytes(), "a.pdf"))
    second = read_document(saved(tmp_path, two_pages().bytes(), "b.pdf"), name="../../etc/passwd")
    assert first.id == second.id and second.name == "../../etc/passwd"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_encrypted_files_ask_for_their_password(tmp_path: Path, algorithm: str) -> None:
    path = saved(tmp_path, encrypted(two_pages().bytes(), "open sesame", algorithm))
    with pytest.raises(PasswordNeeded) as without:
        read_document(path)
    with pytest.raises(PasswordNeeded) as wrong:
        read_document(path, password="open barley")
    assert "Give its password" in sentence(without.value)
    assert "does not open" in sentence(wrong.value)
    plain = tmp_path / "plain.pdf"
    assert read_document(path, password="open sesame", plain_copy=plain).text == f"{RIVER}\n{HONEY}"
    assert read_document(plain).text == f"{RIVER}\n{HONEY}", "the copy for page pictures opens without a password"


@pytest.mark.parametrize("spelled", ["pässwörd", "pässwörd".encode()])
def test_a_password_with_umlauts_opens_however_the_writer_spelled_it(tmp_path: Path, spelled: str | bytes) -> None:
    """Before AES-256 the standard wants one byte for ä; some programs write the two of UTF-8."""
    path = saved(tmp_path, encrypted(two_pages().bytes(), spelled, "RC4-128"))
    assert read_document(path, password="pässwörd").text == f"{RIVER}\n{HONEY}"


def test_an_owner_password_alone_does_not_lock_a_file(tmp_path: Path) -> None:
    """Many published PDFs are encrypted with an empty user password: anyone may read them."""
    assert read_document(saved(tmp_path, encrypted(two_pages().bytes(), ""))).text == f"{RIVER}\n{HONEY}"


def test_scanned_files_say_which_pages_are_pictures(tmp_path: Path) -> None:
    scanned, partly = Pdf(), Pdf()
    for _ in range(3):
        scanned.page().picture(0, 0, 612, 792)
    partly.page().lines(72, 700, wrap(RIVER, 460))
    partly.page().picture(0, 0, 612, 792)
    partly.page().lines(72, 700, wrap(HONEY, 460))
    partly.page().picture(20, 20, 570, 750)
    partly.page()  # blank: nothing to tell
    with pytest.raises(NoTextFound) as error:
        read_document(saved(tmp_path, scanned.bytes()))
    assert "pages 1–3 are pictures" in sentence(error.value)
    document = read_document(saved(tmp_path, partly.bytes()))
    assert document.text == f"{RIVER}\n{HONEY}"
    assert [note for note in document.notes if "2 and 4" in note] == list(document.notes)


def test_what_a_scanner_stamps_on_each_page_is_no_text(tmp_path: Path) -> None:
    """A library's stamp below each picture was dropped as a footer, and the file then called empty."""
    pdf = Pdf()
    for number in range(4):
        page = pdf.page()
        page.picture(0, 0, 612, 792)
        page.text(72, 20, f"Scanned by the library of the river authority, page {number + 1}", size=7)
    with pytest.raises(NoTextFound) as error:
        read_document(saved(tmp_path, pdf.bytes()))
    assert "pages 1–4 are pictures" in sentence(error.value)


def test_a_pdf_of_empty_pages_holds_no_text(tmp_path: Path) -> None:
    pdf = Pdf()
    pdf.page()
    with pytest.raises(NoTextFound) as error:
        read_document(saved(tmp_path, pdf.bytes()))
    sentence(error.value)


def test_fonts_that_hide_their_letters_give_no_noise(tmp_path: Path) -> None:
    """Without a map from codes to characters an extractor returns rubbish, which would be embedded and quoted."""
    pdf = Pdf(["\ufffd"] * 9)
    pdf.page().codes(72, 700, [1, 2, 3, 4, 5, 6, 7, 8, 9] * 5)
    with pytest.raises(NoTextFound) as error:
        read_document(saved(tmp_path, pdf.bytes()))
    assert "fonts" in sentence(error.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files_give_what_is_left_or_a_sentence(tmp_path: Path, share: float) -> None:
    data = two_pages().bytes()
    try:
        text = read_document(saved(tmp_path, data[: int(share * len(data))])).text
    except DocumentError as error:
        sentence(error)
    else:
        assert text in (RIVER, HONEY, f"{RIVER}\n{HONEY}")


def test_damage_anywhere_never_gives_another_error(tmp_path: Path) -> None:
    """A parser of foreign bytes may raise anything; people must get a sentence. 40 files with changed bytes."""
    import random

    from grit_app.documents.read.pdf.reader import read_pdf

    random_bytes = random.Random(7)
    data = two_pages().bytes()
    outcomes = set()
    for _ in range(40):
        broken = bytearray(data)
        for _ in range(random_bytes.choice([3, 30, 300])):
            broken[random_bytes.randrange(9, len(broken))] = random_bytes.randrange(256)
        try:
            read_pdf(saved(tmp_path, bytes(broken)), "report.pdf", "0" * 64, limits=Limits(seconds=20))
            outcomes.add("read")
        except DocumentError as error:
            sentence(error)
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}, "both must occur for the test to mean anything"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("empty.pdf", b"", "empty"),
        ("letter.pdf", b"Dear reader, this is no PDF at all.", "is not a PDF"),
        ("photo.jpg", b"\xff\xd8\xff\xe0" + bytes(100), "kind that cannot be read"),
        ("letter.docx", b"PK\x03\x04" + bytes(100), "damaged and cannot be read"),
        ("binary.txt", b"abc\x00\x01\x02def", "binary data"),
        ("blank.txt", b" \n\n  \t\n", "no text"),
    ],
)
def test_files_that_are_no_documents(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    with pytest.raises(DocumentError) as error:
        read_document(saved(tmp_path, data, name))
    assert words in sentence(error.value, name)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as error:
        read_document(tmp_path / "gone.pdf")
    assert "cannot be opened" in sentence(error.value, "gone.pdf")


def test_a_limit_of_bytes_is_told(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as error:
        read_document(saved(tmp_path, two_pages().bytes()), limits=Limits(max_bytes=500))
    assert "the limit is 0 MB" in sentence(error.value)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(max_pages=1), "the limit is 1 pages"),
        (Limits(max_characters=len(RIVER) + 10), "the limit is 3"),
        (Limits(seconds=1e-9), "the time for reading was over"),
    ],
)
def test_what_lies_before_a_limit_is_kept_and_the_rest_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits, words: str
) -> None:
    """A report of 10,000 pages was refused whole."""
    monkeypatch.setattr(reader, "PAGE_SECONDS", 0.0)
    document = reader.read_pdf(saved(tmp_path, two_pages().bytes()), "report.pdf", "0" * 64, limits=limits)
    assert document.text == RIVER and len(document.pages) == 1
    [note] = document.notes
    assert note.startswith("Page 2 of report.pdf: not read, ") and words in note


def test_a_first_page_over_the_limit_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DocumentError) as error:
        read_document(saved(tmp_path, two_pages().bytes()), limits=Limits(max_characters=100))
    assert "the limit is 100 characters" in sentence(error.value)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(SettingsError):
        Limits(max_pages=0)


def test_a_reader_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page can be made so that its parser never returns; then nothing inside the process can see the deadline."""
    monkeypatch.setattr(process, "_GRACE_S", -1000.0)
    with pytest.raises(DocumentError) as error:
        read_document(saved(tmp_path, two_pages().bytes()))
    assert "took longer" in sentence(error.value)


def three_pages() -> Pdf:
    pdf = two_pages()
    pdf.page().lines(72, 700, wrap("The toll is twelve crowns.", 460))
    return pdf


@pytest.mark.parametrize("fault", [process.OutOfTime, process.BrokeDown])
def test_a_page_on_which_the_reader_hangs_or_dies_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: type[process.GaveUp]
) -> None:
    """One such page lost a book."""
    run = process.run
    asked = []

    def faulty(task: str, request: dict[str, Any], *others: Any, **named: Any) -> dict[str, Any]:
        asked.append(list(request["left_out"]))
        if 1 not in request["left_out"]:
            raise fault(1, 3)
        return run(task, request, *others, **named)

    monkeypatch.setattr(reading, "run", faulty)
    document = read_document(saved(tmp_path, three_pages().bytes()))
    assert document.text == f"{RIVER}\nThe toll is twelve crowns." and asked == [[], [1]]
    assert document.notes == ("Page 2 of report.pdf: reading broke down; not searched.",)


def test_pages_are_not_left_out_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def faulty(task: str, request: dict[str, Any], *others: Any, **named: Any) -> dict[str, Any]:
        asked.append(len(request["left_out"]))
        raise process.BrokeDown(len(request["left_out"]), 100)

    monkeypatch.setattr(reading, "run", faulty)
    with pytest.raises(DocumentError) as error:
        read_document(saved(tmp_path, three_pages().bytes()))
    assert "broke down after page 2" in sentence(error.value) and asked == [0, 1, 2]


def test_a_reader_that_shows_progress_is_not_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file took longer than all of its time and was given up, with each of its pages read in a moment."""
    spent = 0.0
    process_of = SimpleNamespace(pid=0, kill=lambda: None)
    monkeypatch.setattr(process, "_processor_s", lambda pid: spent)
    with process._Watch(process_of, 10.0, None) as watch:  # type: ignore[arg-type]
        for _ in range(4):
            spent += 8.0
            watch.signs += 1
            time.sleep(0.15)
        assert not watch.timed_out
        spent += 11.0
        time.sleep(0.15)
        assert watch.timed_out


def test_what_is_kept_of_a_page_is_little_more_than_its_text(tmp_path: Path) -> None:
    """Words and their places as objects took 200 kB a page: 10,000 pages did not fit into the reader's memory."""
    pdf = Pdf()
    for _ in range(8):
        pdf.page().lines(72, 740, wrap(f"{RIVER} {HONEY} " * 6, 460))
    path = saved(tmp_path, pdf.bytes())
    with pypdfium2.PdfDocument(str(path)) as document:
        pages = reader._Pages(document, Limits(), ())
        read = pages.all(math.inf)
        for _ in range(3):
            next(read)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for _ in read:
                gc.collect()
            kept = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    characters = 6 * 6 * len(f"{RIVER} {HONEY} ")
    assert kept < 12 * characters


def test_a_reader_that_dies_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system kills a process that eats all memory."""
    monkeypatch.setattr(process.sys, "executable", "/bin/false")
    with pytest.raises(DocumentError) as error:
        read_document(saved(tmp_path, two_pages().bytes()))
    assert "broke down" in sentence(error.value)


def test_reading_can_be_stopped(tmp_path: Path) -> None:
    pdf = Pdf()
    for _ in range(300):
        pdf.page().lines(72, 700, wrap(RIVER + " " + HONEY, 460))
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        read_document(saved(tmp_path, pdf.bytes()), progress=lambda *_: cancel.set(), cancel=cancel)


def test_a_form_that_draws_itself_ends(tmp_path: Path) -> None:
    """Forms may call each other: without a bound a file of one kilobyte draws forever."""
    data = two_pages().bytes().replace(
        b"/Type /XObject /Subtype /Image /Width 1 /Height 1", b"/Type /XObject /Subtype /Form /BBox [0 0 9 9]     "
    ).replace(b"stream\n\x80\nendstream", b"stream\n\x20\nendstream")  # fmt: skip
    started = time.monotonic()
    assert read_document(saved(tmp_path, data), limits=Limits(seconds=30)).text
    assert time.monotonic() - started < 30


def test_a_busy_machine_is_no_reason_to_give_a_file_up(
    read_made: Callable[..., Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every core busy, a manual of 91 pages was given up after 180 s, most of which it had spent waiting."""
    hours = itertools.count(step=3600.0)
    monkeypatch.setattr(time, "monotonic", lambda: next(hours))
    assert read_made(two_pages()).text == f"{RIVER}\n{HONEY}"


def test_nothing_is_written_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """pypdf tells every oddity of a file there; our command line promises one sentence at most."""
    data = two_pages().bytes()
    read_document(saved(tmp_path, data[: data.rindex(b"xref")]))
    assert capfd.readouterr().err == ""


def test_page_lists_in_words() -> None:
    assert page_list([2]) == "page 3"
    assert page_list([0, 1, 2, 6, 8]) == "pages 1–3, 7 and 9"
    assert page_list(list(range(0, 60, 2))).endswith("and 19 more places")
