"""From a file to a `Document`, told apart by its bytes and its name, and read in a process of its own."""

import base64
import hashlib
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grit_app.documents.document import ID_LENGTH, Document, Limits, Page, Section, Table
from grit_app.documents.read.kinds import KINDS, OFFICE_SUFFIXES
from grit_app.documents.read.process import BrokeDown, GaveUp, OutOfTime, Progress, run
from grit_app.documents.read.text.files import MARKDOWN_SUFFIXES, TEXT_SUFFIXES
from grit_app.errors import Cancelled, DocumentError

__all__ = ["Document", "Limits", "Page", "read_document"]

MOST_LEFT_OUT = 2
"""Pages of a PDF that are left out because their reader hangs or dies; each costs another reading of the file."""


def read_document(
    path: Path,
    name: str | None = None,
    password: str | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    *,
    cancel: threading.Event | None = None,
    plain_copy: Path | None = None,
    encoding: str | None = None,
) -> Document:
    """The document in a file.

    name        what messages call it (the file's own name by default); never used as a path
    progress    called with (stage, pages read, pages); pages that OCR reads are counted by themselves
    plain_copy  where an encrypted PDF is written without its encryption
    encoding    of a text file, where a person chose it; None: found from its bytes
    Raises DocumentError (PasswordNeeded, EncodingNeeded, NoTextFound) with a sentence that names the file; Cancelled.
    """
    limits = limits or Limits()
    path = Path(path)
    name = shown_name(name or path.name)
    data = _bytes(path, name, limits)
    request = {
        "path": str(path.resolve()),
        "name": name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "password": password,
        "limits": asdict(limits),
        "plain_copy": str(plain_copy.resolve()) if plain_copy else None,
        "encoding": encoding,
    }
    try:
        answer = _answered(_task(data, name), request, limits, progress, cancel)
    except Cancelled:
        raise Cancelled(f"Reading {name} was stopped.") from None
    except OutOfTime as error:
        raise DocumentError(
            f"{name} took longer than {limits.seconds:.0f} seconds to read and was given up {_where(error)}."
        ) from None
    except BrokeDown as error:
        raise DocumentError(
            f"{name} cannot be read: reading it broke down {_where(error)}. Save it anew and try again."
        ) from None
    document = _document(answer["document"])
    if progress and document.kind != "pdf":
        progress("reading", len(document.pages), len(document.pages))
    return document


def _answered(
    task: str, request: dict[str, Any], limits: Limits, progress: Progress | None, cancel: threading.Event | None
) -> dict[str, Any]:
    """What the worker answers. It is asked again without a page on which it hung or died, while others are left."""
    left_out: list[int] = []
    while True:
        try:
            return run(task, {**request, "left_out": left_out}, limits.seconds, progress=progress, cancel=cancel)
        except GaveUp as error:
            is_in_page = 0 <= error.page < error.pages and error.page not in left_out
            if not is_in_page or len(left_out) == MOST_LEFT_OUT or len(left_out) + 1 == error.pages:
                raise
            left_out.append(error.page)


def _where(error: GaveUp) -> str:
    return f"after page {error.page}" if error.page > 0 else "before its first page was read"


def id_of_file(path: Path, limits: Limits) -> str:
    """The id of the document in a file, unread; empty where the file cannot be opened or is too large."""
    try:
        data = path.read_bytes() if path.stat().st_size <= limits.max_bytes else b""
    except OSError:
        return ""
    return hashlib.sha256(data).hexdigest()[:ID_LENGTH] if data else ""


def shown_name(name: str) -> str:
    """The name with a replacement sign for bytes that are no letters: on Linux a file's name is bytes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _task(data: bytes, name: str) -> str:
    """The worker's task for a file. Raises DocumentError if it is of no kind that can be read."""
    if b"%PDF-" in data[:1024]:  # readers accept rubbish before the header, ISO 32000-2 Annex I
        return "read_pdf"
    suffix = Path(name).suffix.casefold()
    if suffix in TEXT_SUFFIXES | MARKDOWN_SUFFIXES:
        return "read_text"
    if suffix in OFFICE_SUFFIXES:
        return "read_office"
    if suffix == ".pdf":
        raise DocumentError(f"{name} is not a PDF, although its name ends in .pdf. Open it and save it as one.")
    raise DocumentError(f"{name} is of a kind that cannot be read here. {', '.join(KINDS)} files can be read.")


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


def _document(fields: dict[str, Any]) -> Document:
    return Document(
        name=fields["name"],
        sha256=fields["sha256"],
        kind=fields["kind"],
        pages=tuple(Page(**page) for page in fields["pages"]),
        text=fields["text"],
        notes=tuple(fields["notes"]),
        headings=tuple((int(at), str(text)) for at, text in fields["headings"]),
        sections=tuple(Section(**section) for section in fields["sections"]),
        tables=tuple(map(Table.of, fields["tables"])),
        code=tuple((int(start), int(stop)) for start, stop in fields["code"]),
        words=base64.b64decode(fields["words"]),
        encoding=fields["encoding"],
        encoding_by=fields["encoding_by"],
    )
