"""What a library tells about files and documents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from grit_app.documents.document import EncodingBy, Stage
from grit_app.documents.keep.store import Stored
from grit_app.errors import EncodingNeeded, GritError, NoTextFound, PasswordNeeded


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


Tell = Callable[[Stage, int, int], None]
"""Called with (stage, done, all)."""


def telling(progress: Callable[[Progress], None] | None, number: int, files: int, name: str) -> Tell:
    """What one file's steps are told to."""

    def tell(stage: Stage, done: int, total: int) -> None:
        if progress:
            progress(Progress(number, files, name, stage, done, total))

    return tell


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
    scanned: int = 0
    """Pages that are pictures and were not read."""
    needs_encoding: bool = False
    """Of a text file that would be read if a person chose its encoding."""

    @classmethod
    def of(cls, stored: Stored, state: Literal["ready", "duplicate"], reason: str, name: str) -> "FileReport":
        """Of a file whose document is kept."""
        document = stored.document
        pages, chunks = len(document.pages), len(stored.chunks)
        return cls(name, state, reason, document.id, pages, chunks, scanned=document.scanned)

    @classmethod
    def duplicate(cls, known: Stored, name: str) -> "FileReport":
        """Of a file that is in the library already."""
        kept_as = known.document.name
        reason = f"{name} is already here." if kept_as == name else f"{name} is already here, as {kept_as}."
        return cls.of(known, "duplicate", reason, name)

    @classmethod
    def failed(cls, name: str, error: GritError) -> "FileReport":
        """Of a file that cannot be used."""
        scanned = error.scanned if isinstance(error, NoTextFound) else 0
        return cls(
            name,
            "failed",
            str(error),
            scanned=scanned,
            needs_password=isinstance(error, PasswordNeeded),
            needs_encoding=isinstance(error, EncodingNeeded),
        )


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
    scanned: int
    """Pages that are pictures and were not read."""
    added: float
    """Seconds since 1970."""
    cache_bytes: int
    encoding: str
    """Of a text file, as Python names it; empty for other files."""
    encoding_by: EncodingBy

    @classmethod
    def of(cls, stored: Stored, cache_bytes: int) -> "DocumentInfo":
        """The line of a kept document."""
        document = stored.document
        return cls(
            document.id,
            document.name,
            document.kind,
            len(document.pages),
            len(stored.chunks),
            len(document.text),
            document.notes,
            document.scanned,
            stored.added,
            cache_bytes,
            document.encoding,
            document.encoding_by,
        )
