"""From a file to a `Document`: PDF, text and Markdown, told apart by their bytes and their names."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

import grit_app
from grit_app.documents.document import Document, Limits, Page
from grit_app.documents.read.plain_text import decode, read_text
from grit_app.errors import Cancelled, DocumentError, NoTextFound, PasswordNeeded

__all__ = ["Document", "Limits", "Page", "read_document"]

Progress = Callable[[int, int], None]
_ERRORS = {c.__name__: c for c in (DocumentError, PasswordNeeded, NoTextFound)}
_GRACE_S = 5.0  # the worker sees its own deadline between operators; past this it hangs inside one
_PATIENCE = 10.0  # times the limit, in wall-clock time: a worker that waits for ever spends no processor time
TEXT_SUFFIXES = {".txt", ".text", ".log", ".csv", ".tsv", ".rst", ""}
MARKDOWN_SUFFIXES = {".md", ".markdown"}


def read_document(
    path: Path,
    name: str | None = None,
    password: str | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    *,
    cancel: threading.Event | None = None,
    plain_copy: Path | None = None,
) -> Document:
    """The document in a file.

    name        what messages call it (the file's own name by default); never used as a path
    progress    called with (pages read, pages)
    plain_copy  where an encrypted PDF is written without its encryption
    Raises DocumentError (PasswordNeeded, NoTextFound) with a sentence that names the file; Cancelled.
    """
    limits = limits or Limits()
    path = Path(path)
    name = name or path.name
    data = _bytes(path, name, limits)
    sha256 = hashlib.sha256(data).hexdigest()
    if b"%PDF-" in data[:1024]:  # readers accept rubbish before the header, ISO 32000-2 Annex I
        return _read_in_worker(path, name, sha256, password, limits, progress, cancel, plain_copy)
    suffix = Path(name).suffix.casefold()
    text = decode(data) if suffix in TEXT_SUFFIXES | MARKDOWN_SUFFIXES else None
    if text is None:
        kind = (
            "is not a PDF, although its name ends in .pdf"
            if suffix == ".pdf"
            else "is of a kind that cannot be read here"
        )
        raise DocumentError(f"{name} {kind}. PDF, .txt and .md files can be read.")
    if len(text) > limits.max_characters:
        raise DocumentError(f"{name} holds more than {limits.max_characters:,} characters, the limit. Split it.")
    document = read_text(text, name, sha256, markdown=suffix in MARKDOWN_SUFFIXES)
    if not any(c.isalnum() for c in document.text):
        raise NoTextFound(f"{name} holds no text.")
    if progress:
        progress(len(document.pages), len(document.pages))
    return document


def _bytes(path: Path, name: str, limits: Limits) -> bytes:
    try:
        size = path.stat().st_size
        if size > limits.max_bytes:
            limit, mega = limits.max_bytes / 1e6, size / 1e6
            raise DocumentError(f"{name} has {mega:,.1f} MB; the limit is {limit:,.0f} MB. Split it.")
        data = path.read_bytes()
    except OSError as error:
        raise DocumentError(f"{name} cannot be opened: {error.strerror or error}.") from error
    if not data:
        raise DocumentError(f"{name} is empty (0 bytes). Save or download it anew and try again.")
    return data


def _read_in_worker(
    path: Path,
    name: str,
    sha256: str,
    password: str | None,
    limits: Limits,
    progress: Progress | None,
    cancel: threading.Event | None,
    plain_copy: Path | None,
) -> Document:
    request = {"path": str(path.resolve()), "name": name, "sha256": sha256, "password": password,
               "limits": asdict(limits), "plain_copy": str(plain_copy.resolve()) if plain_copy else None}  # fmt: skip
    root = str(Path(grit_app.__file__).resolve().parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "grit_app.documents.read.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)},
    )
    watch = _Watch(process, limits.seconds + _GRACE_S, cancel)
    last_page, result = 0, None
    with process, watch:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it died at once: told below
        for line in process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "page" in answer:
                last_page = answer["page"]
                if progress:
                    progress(last_page, answer["pages"])
            else:
                result = answer
    if watch.cancelled:
        raise Cancelled(f"Reading {name} was stopped.")
    if result is None and watch.timed_out:
        raise DocumentError(
            f"{name} took longer than {limits.seconds:.0f} seconds to read and was given up after page {last_page}."
        )
    if result is None:
        raise DocumentError(
            f"{name} cannot be read: reading it broke down after page {last_page}. Save it anew and try again."
        )
    if "error" in result:
        raise _ERRORS[result["error"]](result["message"])
    return _document(result["document"])


def _document(fields: dict[str, Any]) -> Document:
    return Document(
        name=fields["name"],
        sha256=fields["sha256"],
        kind=fields["kind"],
        pages=tuple(Page(**page) for page in fields["pages"]),
        text=fields["text"],
        notes=tuple(fields["notes"]),
        headings=tuple((int(at), str(text)) for at, text in fields["headings"]),
    )


class _Watch:
    """Kills a process when it has used up its seconds of processor time or when it is cancelled."""

    def __init__(self, process: "subprocess.Popen[str]", seconds: float, cancel: threading.Event | None) -> None:
        self.process, self.seconds, self.cancel = process, seconds, cancel
        self._give_up = time.monotonic() + _PATIENCE * seconds
        self.timed_out = self.cancelled = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self.process.kill()
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.05):
            self.cancelled = self.cancel is not None and self.cancel.is_set()
            self.timed_out = time.monotonic() > self._give_up or _processor_s(self.process.pid) > self.seconds
            if self.cancelled or self.timed_out:
                self.process.kill()
                return


def _processor_s(pid: int) -> float:
    """Processor time that the process has used so far; 0 if it has ended."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0
