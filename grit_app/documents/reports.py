"""What a library tells about files and documents."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from grit_app.documents.keep.store import Stored

Stage = Literal["reading", "embedding"]


class Progress(NamedTuple):
    """Where adding files stands."""

    file: int
    """From 0."""
    files: int
    name: str
    stage: Stage
    done: int
    """Pages read, or chunks embedded."""
    total: int


@dataclass(frozen=True)
class FileReport:
    """What became of one file."""

    name: str
    state: Literal["ready", "duplicate", "failed", "cancelled"]
    reason: str = ""
    """One sentence where the file is not ready, or where something in it could not be read."""
    document_id: str | None = None
    pages: int = 0
    chunks: int = 0
    needs_password: bool = False


@dataclass(frozen=True)
class DocumentInfo:
    """A document in a list."""

    id: str
    name: str
    kind: str
    pages: int
    chunks: int
    characters: int
    notes: tuple[str, ...]
    added: float
    """Seconds since 1970."""
    cache_bytes: int


def report_of(stored: Stored, state: Literal["ready", "duplicate"], reason: str, name: str) -> FileReport:
    """The report of a file whose document is kept."""
    return FileReport(name, state, reason, stored.document.id, len(stored.document.pages), len(stored.chunks))


def info_of(stored: Stored, cache_bytes: int) -> DocumentInfo:
    """The line of a kept document in a list."""
    document = stored.document
    return DocumentInfo(
        document.id, document.name, document.kind, len(document.pages), len(stored.chunks), len(document.text),
        document.notes, stored.added, cache_bytes,
    )  # fmt: skip
