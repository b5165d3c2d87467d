"""What a visitor does with documents: adding, unlocking, choosing, removing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from grit_app.documents.document import MOST_OCR_PAGES
from grit_app.errors import InputError
from grit_app.settings import Settings
from grit_app.ui.base import texts
from grit_app.ui.base.downloads import save_as
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import QUEUED, afterwards, guarded
from grit_app.ui.base.sessions import Visitor, Visitors, session_of
from grit_app.ui.documents import library_actions as actions
from grit_app.ui.documents import library_view
from grit_app.ui.documents.layout import PASSAGE_LENGTHS, SAMPLES, WAITING, Parts, starters
from grit_app.ui.documents.library_actions import Held
from grit_app.ui.documents.listing import as_json, listing
from grit_app.ui.documents.removals import Removals

CONFIRM = "(key) => confirm('Remove all documents of this library?') ? key : ''"
"""Without the browser's key nothing is removed."""


class LibraryHandlers:
    """Adding, choosing and removing documents."""

    def __init__(self, engine: Engine, visitors: Visitors, settings: Settings, removals: Removals) -> None:
        self._engine = engine
        self._visitors = visitors
        self._settings = settings
        self._removals = removals

    def views(self, visitor: Visitor, unused: Sequence[str], held: Sequence[Held]) -> tuple[str, str]:
        """Table and meter."""
        rows = actions.listed(self._visitors.library(visitor), unused, self._removals.leaving(visitor.owner))
        return library_view.table([*rows, *(one.row() for one in held)]), self._meter(visitor)

    def _meter(self, visitor: Visitor, making: tuple[int, int] | None = None) -> str:
        used = self._visitors.library(visitor).cache_bytes()
        return library_view.meter(used, self._settings.cache_budget_bytes, making)

    def refresh(self, key: str, unused: list[str], held: list[Held], request: gr.Request) -> tuple[Any, ...]:
        visitor = self._visitors.enter(session_of(request), key)
        model = self._engine.ready_model()
        if model is None:
            return WAITING, "", *[gr.skip()] * 5
        config, settings = model.config, self._settings
        low, high = PASSAGE_LENGTHS
        return (
            *self.views(visitor, unused, held),
            self.offer_questions(key, request),
            settings.strategy or config.default_strategy,
            settings.k or config.default_k,
            settings.answer_mode or config.answer_mode,
            min(high, max(low, self._visitors.library(visitor).chunk_tokens)),
        )

    def refresh_table(self, key: str, unused: list[str], held: list[Held], request: gr.Request) -> tuple[Any, ...]:
        """Outputs: table, meter."""
        if self._engine.ready_model() is None:
            return gr.skip(), gr.skip()
        return self.views(self._visitors.enter(session_of(request), key), unused, held)

    def begin(self, request: gr.Request) -> Any:
        self._visitors.join_run(session_of(request), "upload")  # files dropped meanwhile wait for their turn
        return gr.update(visible=True)

    def halt(self, request: gr.Request) -> None:
        self._visitors.stop_run(session_of(request), "upload")

    def add(
        self, files: Sequence[str] | None, key: str, unused: list[str], held: list[Held], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Outputs: table, meter, held files, upload box."""
        yield from self._add([Path(file) for file in files or []], key, unused, held, "", request)

    def unlock(
        self, key: str, unused: list[str], held: list[Held], request: gr.Request, event: gr.EventData
    ) -> Iterator[tuple[Any, ...]]:
        """The password of one locked file was given. Outputs as those of `add`."""
        self._visitors.join_run(session_of(request), "upload")
        chosen = [one for one in held if str(one.number) == str(event.id) and one.path is not None]
        paths = [one.path for one in chosen if one.path is not None]
        others = [one for one in held if one not in chosen]
        yield from self._add(paths, key, unused, others, str(event.password), request)

    def recognise(
        self, key: str, unused: list[str], held: list[Held], request: gr.Request, event: gr.EventData
    ) -> Iterator[tuple[Any, ...]]:
        """The scanned pages of a document, or of a file of nothing else, are wanted. Outputs as those of `add`."""
        chosen = str(event.id)
        yield from self._read_again(chosen, key, unused, held, request, ocr_pages=MOST_OCR_PAGES)
        library = self._visitors.library(self._visitors.enter(session_of(request), key))
        names = {info.id: info.name for info in library.documents()}
        if any(i.id != chosen and i.name == names.get(chosen) and not i.scanned for i in library.documents()):
            library.remove(chosen)  # it was encrypted: read from its plain copy it is another file

    def decode(
        self, key: str, unused: list[str], held: list[Held], request: gr.Request, event: gr.EventData
    ) -> Iterator[tuple[Any, ...]]:
        """Another encoding was chosen for a text file. Outputs as those of `add`."""
        yield from self._read_again(str(event.id), key, unused, held, request, encoding=str(event.encoding))

    def _read_again(
        self, chosen: str, key: str, unused: list[str], held: list[Held], request: gr.Request, **how: Any
    ) -> Iterator[tuple[Any, ...]]:
        """A refused file, given by its number, or the file of a document, given by its id. `how`: as for `_add`."""
        self._visitors.join_run(session_of(request), "upload")
        paths = [one.path for one in held if str(one.number) == chosen and one.path is not None]
        if paths:
            others = [one for one in held if one.path not in paths]
            yield from self._add(paths, key, unused, others, "", request, **how)
            return
        library = self._visitors.library(self._visitors.enter(session_of(request), key))
        with tempfile.TemporaryDirectory(prefix="grit-again-") as folder:
            path = actions.source_copy(library, chosen, Path(folder))
            yield from self._add([path], key, unused, held, "", request, are_kept=True, **how)

    def _add(
        self,
        paths: list[Path],
        key: str,
        unused: list[str],
        held: list[Held],
        password: str,
        request: gr.Request,
        *,
        ocr_pages: int | None = None,
        encoding: str | None = None,
        are_kept: bool = False,
    ) -> Iterator[tuple[Any, ...]]:
        if not paths:
            yield (gr.skip(),) * 4
            return
        session = session_of(request)
        visitor = self._visitors.enter(session, key)
        cancel = self._visitors.current_run(session, "upload")
        with self._engine.using(cancel):
            library = self._visitors.library(visitor)
            adding = actions.Adding(
                library,
                paths,
                cancel,
                password,
                unused,
                held,
                ocr_pages=ocr_pages,
                encoding=encoding,
                are_kept=are_kept,
            )
            for rows in adding:
                yield library_view.table(rows), gr.skip(), gr.skip(), gr.skip()
        for report in adding.reports:
            if report.document_id:  # removed a moment ago and added again: it stays
                self._removals.undo(visitor.owner, report.document_id)
        for path in paths:
            if path not in SAMPLES and all(path != one.path for one in adding.held):
                path.unlink(missing_ok=True)  # Gradio's copy: the library has its own
        yield *self.views(visitor, unused, adding.held), adding.held, None

    def cut(
        self, length: float, key: str, unused: list[str], held: list[Held], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Another length of passages was chosen. Outputs as those of `add`."""
        session = session_of(request)
        visitor = self._visitors.enter(session, key)
        cancel = self._visitors.current_run(session, "upload")
        with self._engine.using(cancel):
            cutting = actions.Cutting(self._visitors.library(visitor), int(length), cancel, unused, held)
            for rows in cutting:
                yield library_view.table(rows), gr.skip(), gr.skip(), gr.skip()
        yield *self.views(visitor, unused, held), gr.skip(), gr.skip()
        states = [report.state for report in cutting.reports]
        for report in cutting.reports:
            if report.state == "failed":
                gr.Warning(report.reason)
        if stopped := states.count("cancelled"):
            gr.Info(texts.CUT_STOPPED.format(count=library_view.plural(stopped, "document")))
        elif "failed" not in states:
            gr.Info(texts.CUT_DONE.format(tokens=int(length)))

    def as_it_is(self, key: str, unused: list[str], held: list[Held], request: gr.Request) -> tuple[Any, ...]:
        """Adding failed: no file is on its way any more. Outputs as those of `add`."""
        return *self.views(self._visitors.enter(session_of(request), key), unused, held), held, None

    def add_sample(
        self, key: str, unused: list[str], held: list[Held], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        yield from self._add(list(SAMPLES), key, unused, held, "", request)

    def add_sample_if_empty(
        self, key: str, unused: list[str], held: list[Held], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """A starter was picked: the questions about the samples need the samples. Outputs as those of `add`."""
        session = session_of(request)
        visitor = self._visitors.enter(session, key)
        if self._engine.ready_model() is None or self._visitors.library(visitor).documents():
            yield (gr.skip(),) * 4  # without a model the answer's own step says so
            return
        self._visitors.join_run(session, "upload")
        yield from self.add_sample(key, unused, held, request)

    def offer_questions(self, key: str, request: gr.Request) -> Any:
        """The starters that fit the documents. Output: conversation."""
        visitor = self._visitors.enter(session_of(request), key)
        if self._engine.ready_model() is None:
            return gr.skip()
        leaving = self._removals.leaving(visitor.owner)
        names = [info.name for info in self._visitors.library(visitor).documents() if info.id not in leaving]
        return gr.update(examples=starters(names))

    def fill_caches(self, key: str, request: gr.Request) -> Iterator[str]:
        """Makes the caches that are missing, beside the questions. Output: meter."""
        session = session_of(request)
        visitor = self._visitors.enter(session, key)
        if self._engine.ready_model() is None:
            yield gr.skip()
            return
        cancel = self._visitors.begin_run(session, "caches")
        for made in actions.CacheFilling(self._visitors.library(visitor), cancel):
            yield self._meter(visitor, made)
        yield self._meter(visitor)

    def choose(self, unused: list[str], event: gr.EventData) -> list[str]:
        document, is_used = str(event.id), bool(event.on)
        others = [one for one in unused if one != document]
        return others if is_used else [*others, document]

    def choose_every(self, event: gr.EventData) -> list[str]:
        """All documents or none are to be searched. Output: unused."""
        return [str(one) for one in event.unused]

    def look(self, key: str, request: gr.Request, event: gr.EventData) -> tuple[Any, Any]:
        """The passages of a document are wanted. Outputs: cards, page picture."""
        visitor = self._visitors.enter(session_of(request), key)
        found = listing(self._visitors.library(visitor), str(event.id))
        visitor.turns[:] = [*(turn for turn in visitor.turns if turn.number != found.number), found]
        return found.cards(None), ""

    def save(self, key: str, request: gr.Request, event: gr.EventData) -> str:
        """The passages of a document are wanted as a file. Output: its text."""
        return as_json(self._visitors.library(self._visitors.enter(session_of(request), key)), str(event.id))

    def add_folder(
        self, files: Sequence[str] | None, key: str, unused: list[str], held: list[Held], request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """As `add`, without what is of no kind that can be read: nobody chose those files one by one."""
        paths = [path for path in map(Path, files or []) if path.suffix.lower() in actions.FILE_KINDS]
        if files and not paths:
            raise InputError(texts.EMPTY_FOLDER.format(kinds=", ".join(actions.FILE_KINDS)))
        yield from self._add(paths, key, unused, held, "", request)

    def remove(
        self, key: str, unused: list[str], held: list[Held], request: gr.Request, event: gr.EventData
    ) -> tuple[Any, ...]:
        """Outputs: table, meter."""
        visitor = self._visitors.enter(session_of(request), key)
        self._removals.begin(visitor.owner, self._visitors.library(visitor), str(event.id))
        return self.views(visitor, unused, held)

    def undo(
        self, key: str, unused: list[str], held: list[Held], request: gr.Request, event: gr.EventData
    ) -> tuple[Any, ...]:
        """Outputs: table, meter."""
        visitor = self._visitors.enter(session_of(request), key)
        if not self._removals.undo(visitor.owner, str(event.id)):
            gr.Warning(texts.UNDO_TOO_LATE)
        return self.views(visitor, unused, held)

    def settle(self, key: str, unused: list[str], held: list[Held], request: gr.Request) -> tuple[Any, ...]:
        """The time to undo is over. Outputs: table, meter."""
        time.sleep(0.3)  # the browser's clock may be a little ahead
        return self.views(self._visitors.enter(session_of(request), key), unused, held)

    def dismiss(
        self, key: str, unused: list[str], held: list[Held], request: gr.Request, event: gr.EventData
    ) -> tuple[Any, ...]:
        """A refused file's row goes, and its upload. Outputs: table, meter, held files."""
        visitor = self._visitors.enter(session_of(request), key)
        for one in held:
            if str(one.number) == str(event.id) and one.path is not None:
                one.path.unlink(missing_ok=True)
        left = [one for one in held if str(one.number) != str(event.id)]
        return *self.views(visitor, unused, left), left

    def clear(self, key: str, request: gr.Request) -> tuple[Any, ...]:
        """Outputs: table, meter, unused, held files. Without a key the visitor did not confirm."""
        if not key:
            return (gr.skip(),) * 4
        visitor = self._visitors.enter(session_of(request), key)
        self._visitors.stop_run(session_of(request), "upload")
        self._visitors.library(visitor).clear()
        return *self.views(visitor, [], []), [], []


def wire_library(parts: Parts, handlers: LibraryHandlers, key: gr.BrowserState) -> None:
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [parts.table, parts.meter]
    added = [*shown, parts.held, parts.upload]
    now = [key, parts.unused, parts.held]

    def chain(event: Callable[..., Any], add: Any, inputs: list[Any]) -> None:
        started = event(guarded(handlers.begin), None, parts.halt, **QUEUED)
        finish(started.success(guarded(add), inputs, added, **lane))

    def in_row(event: Callable[..., Any], add: Any) -> None:
        """What a row's button tells comes with its event, and only a listener of the event itself is given it."""
        event(guarded(handlers.begin), None, parts.halt, **QUEUED)
        finish(event(guarded(add), now, added, **lane))

    def finish(done: Any) -> None:
        afterwards(done, lambda: gr.update(visible=False), None, parts.halt, **quiet)
        done.failure(guarded(handlers.as_it_is), now, added, **QUEUED)
        done.success(guarded(handlers.offer_questions), key, parts.chatbot, **QUEUED)
        done.success(guarded(handlers.fill_caches), key, parts.meter, show_progress="hidden", api_visibility="private")

    chain(parts.upload.upload, handlers.add, [parts.upload, *now])
    chain(parts.folder.upload, handlers.add_folder, [parts.folder, *now])
    chain(parts.sample.click, handlers.add_sample, now)
    chain(parts.cut.click, handlers.cut, [parts.length, *now])
    in_row(parts.table.scan, handlers.recognise)
    in_row(parts.table.decode, handlers.decode)
    in_row(parts.table.unlock, handlers.unlock)
    parts.halt.click(handlers.halt, **quiet)
    # Outside the queue, for they cannot fail: a tick must hold for the question that is sent next.
    parts.table.choose(handlers.choose, parts.unused, parts.unused, **quiet)
    parts.table.every(handlers.choose_every, None, parts.unused, **quiet)
    parts.table.look(guarded(handlers.look), key, [parts.cards, parts.picture], **QUEUED)
    saved = parts.cards.save(guarded(handlers.save), key, parts.saved, **QUEUED)
    saved.success(None, parts.saved, None, js=save_as("passages.json", "application/json"), api_visibility="private")
    removed = parts.table.remove(guarded(handlers.remove), now, shown, **QUEUED)
    parts.table.undo(guarded(handlers.undo), now, shown, **QUEUED)
    parts.table.settle(guarded(handlers.settle), now, shown, **QUEUED)
    parts.table.dismiss(guarded(handlers.dismiss), now, [*shown, parts.held], **QUEUED)
    cleared = parts.clear.click(guarded(handlers.clear), key, [*shown, parts.unused, parts.held], js=CONFIRM, **QUEUED)
    for event in (removed, cleared):
        event.success(guarded(handlers.offer_questions), key, parts.chatbot, **QUEUED)
