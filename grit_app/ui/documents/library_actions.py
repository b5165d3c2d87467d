"""What can be done with a visitor's documents, without a word of Gradio: list, add with progress, fill caches."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grit_app.documents.document import Limits
from grit_app.documents.library import FileReport, Library, Progress
from grit_app.settings import Settings
from grit_app.ui.base.background import Watch
from grit_app.ui.documents.library_view import Row

FILE_KINDS = (".pdf", ".txt", ".md")


def library_limits(settings: Settings) -> Limits:
    """What a visitor may add, from the settings: shown before an upload and enforced by the library."""
    return Limits(max_bytes=settings.max_file_bytes, max_pages=settings.max_pages, max_documents=settings.max_files)


def listed(library: Library, unused: Collection[str] = ()) -> list[Row]:
    """The documents as rows; those in `unused` are not searched."""
    return [
        Row(
            name=info.name,
            state="ready",
            document_id=info.id,
            pages=info.pages,
            chunks=info.chunks,
            cache_bytes=info.cache_bytes,
            is_used=info.id not in unused,
            detail=" ".join(info.notes),
        )
        for info in library.documents()
    ]


def searched(library: Library, unused: Collection[str]) -> list[str] | None:
    """Ids of the documents to search; None: all."""
    ids = [info.id for info in library.documents()]
    chosen = [one for one in ids if one not in unused]
    return None if len(chosen) == len(ids) else chosen


@dataclass
class Adding:
    """Files on their way into a library. Iterate for the rows as they change; then `reports` is there."""

    library: Library
    paths: Sequence[Path]
    cancel: threading.Event
    password: str | None = None
    unused: Collection[str] = ()
    reports: list[FileReport] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[Row]]:
        names = [path.name for path in self.paths]
        last: Progress | None = None
        watch: Watch[Progress, list[FileReport]] = Watch(
            lambda report: self.library.add(self.paths, self.password or None, progress=report, cancel=self.cancel),
            self.cancel,
        )
        yield listed(self.library, self.unused) + [Row(name, "queued") for name in names]
        for news in watch:
            if news:
                last = news[-1]
                yield listed(self.library, self.unused) + working(names, last)
        self.reports = watch.result
        yield listed(self.library, self.unused) + refused(self.reports)


def working(names: Sequence[str], now: Progress) -> list[Row]:
    """Rows of the files that are not finished: the one at work with its progress, those behind it queued."""
    words = {"reading": f"page {now.done:,} of {now.total:,}", "embedding": f"passage {now.done:,} of {now.total:,}"}
    fraction = now.done / now.total if now.total else 0.0
    current = Row(now.name, now.stage, detail=words[now.stage], fraction=fraction)
    return [current, *(Row(name, "queued") for name in names[now.file + 1 :])]


def refused(reports: Sequence[FileReport]) -> list[Row]:
    """Rows of the files that did not become documents, each with its sentence."""
    states = {"failed": "failed", "cancelled": "stopped", "duplicate": "duplicate"}
    return [
        Row(r.name, "locked" if r.needs_password else states[r.state], detail=r.reason)
        for r in reports
        if r.state in states
    ]


def locked_paths(paths: Sequence[Path], reports: Sequence[FileReport]) -> list[str]:
    """Files that wait for a password."""
    return [str(path) for path, report in zip(paths, reports, strict=True) if report.needs_password]


class CacheFilling:
    """The caches that embedding could not keep, made now. Iterate for (done, total) as it goes on."""

    def __init__(self, library: Library, cancel: threading.Event) -> None:
        self._library = library
        self._cancel = cancel

    def __iter__(self) -> Iterator[tuple[int, int]]:
        watch: Watch[tuple[int, int], int] = Watch(
            lambda report: self._library.build_caches(lambda done, total: report((done, total)), self._cancel),
            self._cancel,
            tick_s=0.5,
        )
        for news in watch:
            if news:
                yield news[-1]
