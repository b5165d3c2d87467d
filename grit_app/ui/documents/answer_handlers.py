"""What a visitor does with answers: asking, waiting, stopping, trying again, looking at sources."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from grit_app.errors import InputError
from grit_app.settings import Settings
from grit_app.ui.base import texts
from grit_app.ui.base.background import awaited
from grit_app.ui.base.desk import Changed, Desk, Frames, Job, converse, emptied, giving_back, waiting
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import guarded, message_text
from grit_app.ui.base.messages import Message, in_turn, step, turn_index, up_to_question, words_behind, words_of
from grit_app.ui.base.records import Record, from_json, version_bar
from grit_app.ui.base.sessions import Visitor, Visitors, session_of
from grit_app.ui.chat.handlers import took_back, turned, undone
from grit_app.ui.documents import library_actions as actions
from grit_app.ui.documents.answers import Asking, Turn, source_picture, turn_at
from grit_app.ui.documents.layout import NO_SOURCES, Parts
from grit_app.ui.documents.library_handlers import LibraryHandlers
from grit_app.ui.documents.removals import Removals

KEPT_TURNS = 40


class AnswerHandlers:
    """Asking, waiting, stopping, and looking at sources."""

    def __init__(self, engine: Engine, visitors: Visitors, settings: Settings, removals: Removals) -> None:
        self._engine = engine
        self._visitors = visitors
        self._settings = settings
        self._removals = removals

    def begin(self, question: str, desk: Desk, *choices: Any) -> Any:
        """Output: waiting questions. An empty question is nothing.

        choices   documents that are not searched, strategy, k, mode, positions, reading, order, search
        """
        if not question.strip():
            return gr.skip()
        if desk.is_full:
            gr.Warning(texts.DESK_FULL)
            desk.returned.append(question)  # back into the box
            return gr.skip()
        desk.put(question, choices=choices)
        return waiting(desk)

    def picked(self, desk: Desk, event: gr.SelectData, *choices: Any) -> Any:
        """A starter is asked as it stands; what is in the box stays there."""
        return self.begin(message_text(event.value), desk, *choices)

    def asked_next(self, desk: Desk, event: gr.EventData, *choices: Any) -> Any:
        """A question behind an answer was picked; what is in the box stays there."""
        return self.begin(str(event.question), desk, *choices)

    def retried(self, history: list[Message], desk: Desk, event: gr.RetryData, *choices: Any) -> tuple[Any, ...]:
        before = up_to_question(history, turn_index(event.index))
        return self._again(history, before[:-1], words_of(before[-1]) if before else "", desk, choices)

    def edited(self, history: list[Message], desk: Desk, event: gr.EditData, *choices: Any) -> tuple[Any, ...]:
        base = history[: turn_index(event.index)]
        return self._again(history, base, words_behind(message_text(event.value)), desk, choices)

    def _again(
        self, history: list[Message], base: list[Message], question: str, desk: Desk, choices: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Outputs: conversation, waiting questions. Where nothing can be asked the conversation is as it was."""
        if desk.is_full:
            gr.Warning(texts.DESK_FULL)
        if desk.is_full or not question.strip():
            return history, gr.skip()
        desk.put(question, base=base, before=history, choices=choices)
        return gr.skip(), waiting(desk)

    def stop(self, request: gr.Request) -> None:
        self._visitors.stop_run(session_of(request), "documents")

    def open(self, desk: Desk, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        """A kept conversation was chosen. Outputs: conversation, waiting questions, versions, cards, page picture."""
        return self._show(desk, from_json(str(event.record)), request)

    def fresh(self, desk: Desk, request: gr.Request) -> tuple[Any, ...]:
        """Outputs as those of `open`."""
        return self._show(desk, Record(), request)

    def _show(self, desk: Desk, record: Record, request: gr.Request) -> tuple[Any, ...]:
        desk.show(record)
        self.stop(request)
        return record.history, "", version_bar(record), NO_SOURCES, ""

    def respond(self, history: list[Message], desk: Desk, key: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Answers what waits. Outputs: conversation, waiting questions, Stop, cards, page picture, versions, record."""
        session = session_of(request)
        visitor = self._visitors.enter(session, key)

        def answer(question: list[Message], job: Job) -> Frames:
            unused, strategy, k, mode, positions, reading, order, search = job.choices
            choices: dict[str, Any] = {"strategy": strategy, "k": int(k), "mode": mode, "positions": positions}
            choices["whole"] = reading == "whole"
            choices["search_mode"] = search
            choices["reranked_by"] = None if order == "found" else order
            cancel = self._visitors.begin_run(session, "documents")
            yield step("Waiting for the model …"), None
            number = max((*(turn.number for turn in visitor.turns), *desk.record.turns()), default=0) + 1
            earlier = [words_of(message) for message in question[:-1] if message["role"] == "user"]
            tokens = self._settings.answer_tokens
            asking = Asking(number, job.question, answer_tokens=tokens, earlier=earlier, **choices)
            for message, sources in self._answer(asking, visitor, unused, cancel):
                if sources:
                    desk.record.sources[str(number)] = asking.turn.places()
                yield message, sources

        changed, shown = Changed(), None
        for shown, sources in converse(desk, history, answer):
            turn, number = len(shown), len(desk.waiting())
            cards, picture = sources or (gr.skip(), gr.skip())
            yield (
                shown,
                changed("waiting", (turn, number), lambda: waiting(desk)),
                changed("stop", turn, lambda: gr.update(visible=desk.is_running)),
                cards,
                picture,
                changed("versions", turn, lambda: version_bar(desk.record)),
                desk.record.to_json() if sources else changed("record", turn, desk.record.to_json),
            )
        if shown is None:
            yield (gr.skip(),) * 7
        else:
            bar, stop = version_bar(desk.record), gr.update(visible=False)
            yield shown, waiting(desk), stop, gr.skip(), gr.skip(), bar, desk.record.to_json()

    def _answer(self, asking: Asking, visitor: Visitor, unused: list[str], cancel: threading.Event) -> Frames:
        with self._engine.using(cancel) as model:
            yield in_turn(model, cancel, "Searching the documents …"), None
            library = self._visitors.library(visitor)
            searched = actions.searched(library, [*unused, *self._removals.leaving(visitor.owner)])
            for frame in awaited(asking.frames(library, model, searched, cancel), cancel):
                message, cards = frame or (in_turn(model, cancel, "Searching the documents …"), None)
                yield message, None if cards is None else (cards, gr.skip())
        turn = asking.turn
        visitor.turns[:] = [*visitor.turns, turn][-KEPT_TURNS:]
        yield message, (turn.cards(0), source_picture(library, turn, 0)) if turn.hits else (NO_SOURCES, "")

    def show_source(self, key: str, desk: Desk, request: gr.Request, event: gr.EventData) -> tuple[Any, Any]:
        """A citation or card was chosen. Outputs: cards, page picture."""
        visitor = self._visitors.enter(session_of(request), key)
        library, reference = self._visitors.library(visitor), str(event.ref)
        number = reference.partition("-")[0]
        if all(str(turn.number) != number for turn in visitor.turns) and number in desk.record.sources:
            # An answer of an earlier visit: its passages are looked up again.
            visitor.turns.append(turn_at(int(number), desk.record.sources[number], library))
        turn, position = find_source(visitor.turns, reference)
        return turn.cards(position), source_picture(library, turn, position)


def find_source(turns: Sequence[Turn], reference: str) -> tuple[Turn, int]:
    """The turn and the position of the passage that `3-1` (turn 3, passage [1]) names. Raises InputError."""
    number, _, place = reference.partition("-")
    for turn in turns:
        if str(turn.number) == number and place.isdecimal() and 1 <= int(place) <= len(turn.hits):
            return turn, int(place) - 1
    raise InputError("The sources of this answer are not held any more. Ask again to see them.")


def wire_answers(parts: Parts, handlers: AnswerHandlers, library: LibraryHandlers, key: gr.BrowserState) -> None:
    # Through the queue, all at once: outside it an error is an answer of status 500, and no sentence.
    quick: dict[str, Any] = {
        "concurrency_limit": None,
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "multiple",
    }
    sent = [
        *(parts.desk, parts.unused),
        *(parts.strategy, parts.k, parts.mode, parts.positions, parts.reading, parts.order, parts.search),
    ]

    def then_answer(event: Any) -> None:
        kept = parts.kept
        outputs = [parts.chatbot, parts.waiting, parts.stop, parts.cards, parts.picture, kept.versions, kept.text]
        answered = event.success(guarded(handlers.respond), [parts.chatbot, parts.desk, key], outputs, **quick)
        giving_back(answered, parts.desk, parts.box)

    for trigger in (parts.box.submit, parts.send.click):
        script = emptied("question", len(sent))
        then_answer(trigger(guarded(handlers.begin), [parts.box, *sent], parts.waiting, js=script, **quick))
    then_answer(parts.cards.next(guarded(handlers.asked_next), sent, parts.waiting, **quick))
    picked = parts.chatbot.example_select(guarded(handlers.picked), sent, parts.waiting, **quick)
    added = [parts.table, parts.meter, parts.held, parts.upload]
    now = [key, parts.unused, parts.held]
    then_answer(picked.success(guarded(library.add_sample_if_empty), now, added, **quick))
    earlier, shown = [parts.chatbot, *sent], [parts.chatbot, parts.waiting]
    then_answer(parts.chatbot.retry(guarded(handlers.retried), earlier, shown, **quick))
    then_answer(parts.chatbot.edit(guarded(handlers.edited), earlier, shown, **quick))
    parts.waiting.take(guarded(took_back), [parts.box, parts.desk], [parts.box, parts.waiting], **quick)
    parts.stop.click(handlers.stop, **quick)
    opened = [parts.chatbot, parts.waiting, parts.kept.versions, parts.cards, parts.picture]
    parts.kept.talks.open(guarded(handlers.open), parts.desk, opened, **quick)
    parts.kept.talks.fresh(guarded(handlers.fresh), parts.desk, opened, **quick)
    parts.chatbot.clear(guarded(handlers.fresh), parts.desk, opened, **quick)
    versions = [parts.chatbot, parts.kept.versions, parts.kept.text]
    parts.kept.versions.turn(guarded(turned), parts.desk, versions, **quick)
    parts.chatbot.undo(
        guarded(undone), [parts.chatbot, parts.box, parts.desk], [parts.chatbot, parts.box, parts.kept.text], **quick
    )
    parts.cards.cite(guarded(handlers.show_source), [key, parts.desk], [parts.cards, parts.picture], **quick)
