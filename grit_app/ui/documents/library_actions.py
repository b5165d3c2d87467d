"""What can be done with a visitor's documents, without a word of Gradio: list, add with progress, fill caches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grit_app.documents.document import MOST_OCR_PAGES, Limits
from grit_app.documents.library import FileReport, Library, Progress
from grit_app.documents.read.kinds import KINDS
from grit_app.documents.read.pdf.recognition import can_recognise
from grit_app.gritlm.scheduler import Job
from grit_app.settings import Settings
from grit_app.ui.base.background import Watch
from grit_app.ui.documents.library_view import Row

FILE_KINDS = KINDS


def library_limits(settings: Settings) -> Limits:
    """What a visitor may add, from the settings: shown before an upload and enforced by the library."""
    return Limits(
        max_bytes=settings.max_file_bytes,
        max_pages=settings.max_pages,
        max_documents=settings.max_files,
        ocr_pages=min(settings.ocr_pages, MOST_OCR_PAGES),
    )


def listed(library: Library, unused: Collection[str] = (), leaving: Mapping[str, float] | None = None) -> list[Row]:
    """The documents as rows; those in `unused` are not searched, those in `leaving` go after so many seconds."""
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
            scanned=readable(info.scanned),
            leaves_in_s=(leaving or {}).get(info.id),
            encoding=None if info.encoding_by == "bytes" else info.encoding,
        )
        for info in library.documents()
    ] + [Row(one.name, "damaged", detail=one.reason, document_id=one.id) for one in library.damaged()]


def source_copy(library: Library, document_id: str, folder: Path) -> Path:
    """A copy of a document's file under the name that people know. Raises DocumentError if it is not here any more."""
    source = library.source(document_id)
    copy = folder / (Path(library.document(document_id).name).name or "document.pdf")
    copy.write_bytes(source if isinstance(source, bytes) else source.read_bytes())
    return copy


def searched(library: Library, unused: Collection[str]) -> list[str] | None:
    """Ids of the documents to search; None: all."""
    ids = [info.id for info in library.documents()]
    chosen = [one for one in ids if one not in unused]
    return None if len(chosen) == len(ids) else chosen


@dataclass(frozen=True)
class Held:
    """A file that did not become a document: its row stays until it is dismissed or opened."""

    number: int
    name: str
    state: str
    reason: str
    path: Path | None = None
    """The upload, while a password or another encoding may still open it, or OCR read it."""
    scanned: int = 0
    """Pages that are pictures, which OCR may read."""
    needs_encoding: bool = False

    def row(self) -> Row:
        encoding = "" if self.needs_encoding and self.path is not None else None
        return Row(self.name, self.state, detail=self.reason, held=self.number, scanned=self.scanned, encoding=encoding)


def readable(scanned: int) -> int:
    """How many of so many scanned pages a person may have read by OCR."""
    return min(scanned, MOST_OCR_PAGES) if can_recognise() else 0


@dataclass
class Adding:
    """Files on their way into a library. Iterate for the rows as they change; then `reports` and `held` are there.

    earlier   files of earlier uploads that are still held; their rows stay
    """

    library: Library
    paths: Sequence[Path]
    cancel: threading.Event
    password: str | None = None
    unused: Collection[str] = ()
    earlier: Sequence[Held] = ()
    reports: list[FileReport] = field(default_factory=list)
    ocr_pages: int | None = None
    """Scanned pages of each file that OCR may read; None: as the library's limits say."""
    encoding: str | None = None
    """Of text files, where a person chose it."""
    are_kept: bool = False
    """Whether the files are those of documents that are in the library, where they may be chosen again."""
    clock: Callable[[], float] = time.monotonic
    _began: tuple[tuple[str, str], float] = (("", ""), 0.0)
    """The file and what is done with it, and since when."""
    _told_of: set[str | None] = field(default_factory=set)
    """Ids of documents that were there before, or whose file has its report."""

    def __iter__(self) -> Iterator[list[Row]]:
        last: Progress | None = None
        self._told_of = {info.id for info in self.library.documents()}
        watch: Watch[Progress | FileReport, None] = Watch(self._work, self.cancel)
        yield self._rows(None)
        for news in watch:
            for one in news:
                if isinstance(one, FileReport):
                    self.reports.append(one)
                    self._told_of.add(one.document_id)
                    last = None
                else:
                    last = one
            if news:
                yield self._rows(last)

    def _work(self, report: Callable[[Progress | FileReport], None]) -> None:
        for path in self.paths:
            (made,) = self.library.add(
                [path],
                self.password or None,
                progress=report,
                cancel=self.cancel,
                ocr_pages=self.ocr_pages,
                encoding=self.encoding,
            )
            report(made)

    @property
    def held(self) -> list[Held]:
        """What stands in the list beside the documents: earlier files, and those of this upload that were refused."""
        count = max((one.number for one in self.earlier), default=0)
        return [*self.earlier, *refused(self.paths, self.reports, count, are_kept=self.are_kept)]

    def _rows(self, now: Progress | None) -> list[Row]:
        names = [path.name for path in self.paths[len(self.reports) :]]
        # The library has a document a moment before its file has a report: until then the file is one row, at work.
        there = [
            row
            for row in listed(self.library, self.unused)
            if row.name not in names[:1] or row.document_id in self._told_of
        ]
        rows = there + [one.row() for one in self.held]
        return rows + (
            working(names, now, self._told(now)) if now and names else [Row(name, "queued") for name in names]
        )

    def _told(self, now: Progress) -> str:
        """How long the file still takes, by how long its passages took until now, and whether others come first."""
        if now.stage == "reading":
            return ""
        if self._began[0] != (now.name, now.stage):
            self._began = ((now.name, now.stage), self.clock())
        left_s = (self.clock() - self._began[1]) / now.done * (now.total - now.done) if now.done else 0.0
        job = self.cancel
        before = self.library.model.scheduler.place(job).before if isinstance(job, Job) else 0
        told = [f"about {left_s:.0f} s left"] if left_s >= 1 else []
        return " · ".join([*told, *([f"{before} before you"] if before else [])])


@dataclass
class Cutting:
    """A library's documents on their way to passages of another length. Iterate for the rows; then `reports` is there.

    held   refused files, whose rows stay
    """

    library: Library
    chunk_tokens: int
    cancel: threading.Event
    unused: Collection[str] = ()
    held: Sequence[Held] = ()
    reports: list[FileReport] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[Row]]:
        watch: Watch[Progress, list[FileReport]] = Watch(
            lambda report: self.library.cut_anew(self.chunk_tokens, report, self.cancel), self.cancel
        )
        for news in watch:
            if news:
                yield self._rows(news[-1])
        self.reports = watch.result

    def _rows(self, now: Progress) -> list[Row]:
        documents = [at_work(now) if row.name == now.name else row for row in listed(self.library, self.unused)]
        return documents + [one.row() for one in self.held]


def at_work(now: Progress, told: str = "") -> Row:
    """The row of the file that is read or embedded now."""
    unit = {"reading": "page", "ocr": "scanned page", "embedding": "passage"}[now.stage]
    fraction = now.done / now.total if now.total else 0.0
    detail = " · ".join([f"{unit} {now.done:,} of {now.total:,}", *([told] if told else [])])
    return Row(now.name, "reading" if now.stage == "ocr" else now.stage, detail=detail, fraction=fraction)


def working(names: Sequence[str], now: Progress, told: str = "") -> list[Row]:
    """Rows of the files that are not finished: the first is at work with its progress, those behind it queued."""
    return [at_work(now, told), *(Row(name, "queued") for name in names[1:])]


def refused(
    paths: Sequence[Path], reports: Sequence[FileReport], count: int = 0, *, are_kept: bool = False
) -> list[Held]:
    """The files that did not become documents, each with its sentence; numbered from `count` + 1.

    are_kept   they are files of documents, whose own rows offer what can be done with them
    """
    states = {"failed": "failed", "cancelled": "stopped", "duplicate": "duplicate"}
    held: list[Held] = []
    for path, report in zip(paths, reports, strict=False):  # a report comes when its file is done
        if report.state in states:
            state = "locked" if report.needs_password else states[report.state]
            scanned = 0 if are_kept else readable(report.scanned)
            is_wanted = not are_kept and (report.needs_password or report.needs_encoding or scanned)
            kept, number = path if is_wanted else None, count + len(held) + 1
            held.append(Held(number, report.name, state, report.reason, kept, scanned, report.needs_encoding))
    return held


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
