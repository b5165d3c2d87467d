"""The Document Q&A tab: a visitor's own documents, questions over them, answers with their sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from grit_app.errors import InputError
from grit_app.gritlm.layout import Positions
from grit_app.rag.answering import AnswerMode
from grit_app.settings import Settings
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import guarded, message_text
from grit_app.ui.base.sessions import Visitor, Visitors, session_of
from grit_app.ui.chat.handlers import running, starter_text, turn_index, up_to_question
from grit_app.ui.documents import library_actions as actions
from grit_app.ui.documents import library_view
from grit_app.ui.documents.answers import Asking, Turn, source_picture
from grit_app.ui.documents.layout import NO_SOURCES, SAMPLES, WAITING, Parts, lay_out, starters

KEPT_TURNS = 40
CONFIRM = "(key) => confirm('Remove all documents of this library?') ? key : ''"
"""Without the browser's key nothing is removed."""


@dataclass(frozen=True)
class DocumentsTab:
    """What the page needs of the built tab: call `refresh` with `inputs` → `outputs` when the model is there."""

    refresh: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]


def build(
    engine: Engine, visitors: Visitors, settings: Settings, browser_key: gr.BrowserState, *, shared: bool
) -> DocumentsTab:
    """Must be called inside the tab."""
    parts = lay_out(settings, shared)
    library = LibraryHandlers(engine, visitors, settings)
    answers = AnswerHandlers(engine, visitors, settings)
    wire_library(parts, library, browser_key)
    wire_answers(parts, answers, library, browser_key)
    outputs = [parts.table, parts.meter, parts.chatbot, parts.strategy, parts.k, parts.mode]
    return DocumentsTab(library.refresh, [browser_key, parts.unused], outputs)


# ---------------------------------------------------------------- the library


class LibraryHandlers:
    """Adding, choosing and removing documents."""

    def __init__(self, engine: Engine, visitors: Visitors, settings: Settings) -> None:
        self._engine = engine
        self._visitors = visitors
        self._settings = settings

    def views(self, visitor: Visitor, unused: Sequence[str]) -> tuple[str, str]:
        library = self._visitors.library(visitor)
        return library_view.table(actions.listed(library, unused)), self._meter(visitor)

    def _meter(self, visitor: Visitor, making: tuple[int, int] | None = None) -> str:
        used = self._visitors.library(visitor).cache_bytes()
        return library_view.meter(used, self._settings.cache_budget_bytes, making)

    def refresh(self, key: str, unused: list[str], request: gr.Request) -> tuple[Any, ...]:
        visitor = self._visitors.enter(session_of(request), key)
        model = self._engine.ready_model()
        if model is None:
            return WAITING, "", *[gr.skip()] * 4
        config, settings = model.config, self._settings
        return (
            *self.views(visitor, unused),
            self.offer_questions(key, request),
            settings.strategy or config.default_strategy,
            settings.k or config.default_k,
            settings.answer_mode or config.answer_mode,
        )

    def begin(self, request: gr.Request) -> Any:
        self._visitors.join_run(session_of(request), "upload")  # files dropped meanwhile wait for their turn
        return gr.update(visible=True)

    def halt(self, request: gr.Request) -> None:
        self._visitors.stop_run(session_of(request), "upload")

    def add(
        self, files: Sequence[str] | None, key: str, unused: list[str], password: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """Outputs: table, meter, password group, locked paths, upload box."""
        paths = [Path(file) for file in files or []]
        if not paths:
            yield (gr.skip(),) * 5
            return
        session = session_of(request)
        visitor = self._visitors.enter(session, key)
        cancel = self._visitors.current_run(session, "upload")
        with self._engine.using(cancel):
            adding = actions.Adding(self._visitors.library(visitor), paths, cancel, password, unused)
            for rows in adding:
                yield library_view.table(rows), gr.skip(), gr.skip(), gr.skip(), gr.skip()
        locked = actions.locked_paths(paths, adding.reports)
        for path in paths:
            if str(path) not in locked and path not in SAMPLES:
                path.unlink(missing_ok=True)  # Gradio's copy: the library has its own
        yield gr.skip(), self._meter(visitor), gr.update(visible=bool(locked)), locked, None

    def add_sample(self, key: str, unused: list[str], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        yield from self.add([str(path) for path in SAMPLES], key, unused, "", request)

    def add_sample_if_empty(self, key: str, unused: list[str], request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """A starter was picked: the questions about the samples need the samples. Outputs as those of `add`."""
        session = session_of(request)
        visitor = self._visitors.enter(session, key)
        if self._engine.ready_model() is None or self._visitors.library(visitor).documents():
            yield (gr.skip(),) * 5  # without a model the answer's own step says so
            return
        self._visitors.join_run(session, "upload")
        yield from self.add_sample(key, unused, request)

    def offer_questions(self, key: str, request: gr.Request) -> Any:
        """The starters that fit the documents. Output: conversation."""
        visitor = self._visitors.enter(session_of(request), key)
        if self._engine.ready_model() is None:
            return gr.skip()
        return gr.update(examples=starters([info.name for info in self._visitors.library(visitor).documents()]))

    def fill_caches(self, key: str, request: gr.Request) -> Iterator[str]:
        """Makes the caches that are missing, beside the questions: not in the model's lane. Output: meter."""
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

    def remove(self, key: str, unused: list[str], request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        visitor = self._visitors.enter(session_of(request), key)
        self._visitors.library(visitor).remove(str(event.id))
        return self.views(visitor, unused)

    def clear(self, key: str, request: gr.Request) -> tuple[Any, ...]:
        """Outputs: table, meter, unused, password group, locked paths. Without a key the visitor did not confirm."""
        if not key:
            return (gr.skip(),) * 5
        visitor = self._visitors.enter(session_of(request), key)
        self._visitors.stop_run(session_of(request), "upload")
        self._visitors.library(visitor).clear()
        return *self.views(visitor, []), [], gr.update(visible=False), []


def wire_library(parts: Parts, handlers: LibraryHandlers, key: gr.BrowserState) -> None:
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"concurrency_id": "model", "show_progress": "hidden", "api_visibility": "private"}
    added = [parts.table, parts.meter, parts.locked_box, parts.locked, parts.upload]
    shown = [parts.table, parts.meter]

    def chain(event: Callable[..., Any], add: Any, inputs: list[Any]) -> None:
        started = event(guarded(handlers.begin), None, parts.halt, **quiet)
        done = started.then(guarded(add), inputs, added, **lane)
        done.then(lambda: (gr.update(visible=False), ""), None, [parts.halt, parts.password], **quiet)
        done.then(guarded(handlers.offer_questions), key, parts.chatbot, **quiet)
        done.then(guarded(handlers.fill_caches), key, parts.meter, show_progress="hidden", api_visibility="private")

    chain(parts.upload.upload, handlers.add, [parts.upload, key, parts.unused, parts.password])
    chain(parts.sample.click, handlers.add_sample, [key, parts.unused])
    for trigger in (parts.unlock.click, parts.password.submit):
        chain(trigger, handlers.add, [parts.locked, key, parts.unused, parts.password])
    parts.halt.click(handlers.halt, **quiet)
    parts.table.choose(guarded(handlers.choose), parts.unused, parts.unused, **quiet)
    removed = parts.table.remove(guarded(handlers.remove), [key, parts.unused], shown, **quiet)
    cleared = parts.clear.click(
        guarded(handlers.clear),
        key,
        [*shown, parts.unused, parts.locked_box, parts.locked],
        js=CONFIRM,
        **quiet,
    )
    for event in (removed, cleared):
        event.then(guarded(handlers.offer_questions), key, parts.chatbot, **quiet)


# ---------------------------------------------------------------- questions


class AnswerHandlers:
    """Asking, stopping, and looking at sources."""

    def __init__(self, engine: Engine, visitors: Visitors, settings: Settings) -> None:
        self._engine = engine
        self._visitors = visitors
        self._settings = settings

    def begin(self, question: str, history: list[dict[str, Any]], request: gr.Request) -> tuple[Any, ...]:
        if not question.strip():
            raise InputError("The question is empty. Type one.")
        return "", *self.again([*history, {"role": "user", "content": question}], request)

    def again(self, history: list[dict[str, Any]], request: gr.Request) -> tuple[Any, ...]:
        self._visitors.begin_run(session_of(request), "documents")
        return history, *running(True)

    def retried(self, history: list[dict[str, Any]], request: gr.Request, event: gr.RetryData) -> tuple[Any, ...]:
        return self.again(up_to_question(history, turn_index(event.index)), request)

    def edited(self, history: list[dict[str, Any]], request: gr.Request, event: gr.EditData) -> tuple[Any, ...]:
        index = turn_index(event.index)
        return self.again([*history[:index], {"role": "user", "content": message_text(event.value)}], request)

    def stop(self, request: gr.Request) -> None:
        self._visitors.stop_run(session_of(request), "documents")

    def respond(
        self,
        history: list[dict[str, Any]],
        key: str,
        unused: list[str],
        strategy: str,
        k: float,
        mode: AnswerMode,
        positions: Positions,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Outputs: conversation, cards, page picture."""
        if not history or history[-1]["role"] != "user":
            yield (gr.skip(),) * 3
            return
        session = session_of(request)
        visitor = self._visitors.enter(session, key)
        cancel = self._visitors.current_run(session, "documents")
        with self._engine.using(cancel) as model:
            library = self._visitors.library(visitor)
            number = max((turn.number for turn in visitor.turns), default=0) + 1
            asking = Asking(
                number,
                message_text(history[-1]["content"]),
                strategy=strategy,
                k=int(k),
                mode=mode,
                positions=positions,
                answer_tokens=self._settings.answer_tokens,
            )
            for message, cards in asking.frames(library, model, actions.searched(library, unused), cancel):
                yield [*history, message], (gr.skip() if cards is None else cards), gr.skip()
        turn = asking.turn
        visitor.turns[:] = [*visitor.turns, turn][-KEPT_TURNS:]
        if turn.hits:
            yield gr.skip(), turn.cards(0), source_picture(library, turn, 0)
        else:
            yield gr.skip(), NO_SOURCES, ""

    def show_source(self, key: str, request: gr.Request, event: gr.EventData) -> tuple[Any, Any]:
        """A citation or card was chosen. Outputs: cards, page picture."""
        visitor = self._visitors.enter(session_of(request), key)
        turn, position = find_source(visitor.turns, str(event.ref))
        return turn.cards(position), source_picture(self._visitors.library(visitor), turn, position)


def find_source(turns: Sequence[Turn], reference: str) -> tuple[Turn, int]:
    """The turn and the position of the passage that `3-1` (turn 3, passage [1]) names. Raises InputError."""
    number, _, place = reference.partition("-")
    for turn in turns:
        if str(turn.number) == number and place.isdecimal() and 1 <= int(place) <= len(turn.hits):
            return turn, int(place) - 1
    raise InputError("The sources of this answer are not held any more. Ask again to see them.")


def wire_answers(parts: Parts, handlers: AnswerHandlers, library: LibraryHandlers, key: gr.BrowserState) -> None:
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"concurrency_id": "model", "show_progress": "minimal", "api_visibility": "private"}
    buttons = [parts.send, parts.stop]
    asked = [parts.box, parts.chatbot, *buttons]
    inputs = [parts.chatbot, key, parts.unused, parts.strategy, parts.k, parts.mode, parts.positions]

    def then_answer(event: Any) -> None:
        answered = event.success(
            guarded(handlers.respond),
            inputs,
            [parts.chatbot, parts.cards, parts.picture],
            show_progress_on=parts.chatbot,
            **lane,
        )
        answered.then(lambda: running(False), None, buttons, **quiet)

    for trigger in (parts.box.submit, parts.send.click):
        then_answer(trigger(guarded(handlers.begin), [parts.box, parts.chatbot], asked, **quiet))
    picked = parts.chatbot.example_select(starter_text, None, parts.box, **quiet)
    begun = picked.then(guarded(handlers.begin), [parts.box, parts.chatbot], asked, **quiet)
    added = [parts.table, parts.meter, parts.locked_box, parts.locked, parts.upload]
    then_answer(
        begun.success(
            guarded(library.add_sample_if_empty), [key, parts.unused], added, **{**lane, "show_progress": "hidden"}
        )
    )
    then_answer(parts.chatbot.retry(guarded(handlers.retried), parts.chatbot, [parts.chatbot, *buttons], **quiet))
    then_answer(parts.chatbot.edit(guarded(handlers.edited), parts.chatbot, [parts.chatbot, *buttons], **quiet))
    parts.stop.click(handlers.stop, **quiet)
    parts.chatbot.clear(lambda: (NO_SOURCES, ""), None, [parts.cards, parts.picture], **quiet)
    parts.cards.cite(guarded(handlers.show_source), key, [parts.cards, parts.picture], **quiet)
