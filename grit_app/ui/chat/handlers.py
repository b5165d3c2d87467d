"""The Chat tab: a conversation with the model, its caches kept between turns, its numbers under each answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from grit_app.errors import InputError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.write.decoding import GenerationStats
from grit_app.rag.retrieval import is_refusal
from grit_app.rag.turns.small_talk import LONGEST_REQUEST, with_example
from grit_app.settings import Settings
from grit_app.ui.base import texts
from grit_app.ui.base.background import awaited
from grit_app.ui.base.desk import Changed, Desk, Frames, Job, converse, emptied, giving_back, waiting
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import escape, guarded, message_text, steady
from grit_app.ui.base.messages import Message, in_turn, reply, step, turn_index, up_to_question, words_behind, words_of
from grit_app.ui.base.records import Record, from_json, version_bar
from grit_app.ui.base.sessions import Visitor, Visitors, session_of
from grit_app.ui.base.status import seconds
from grit_app.ui.chat.layout import ChatTab, lay_out

FINISH = {"stop": "complete", "length": "reached the length limit", "cancelled": "stopped by you"}


def statistics(stats: GenerationStats, context: int = 0) -> str:
    """The line under an answer, in the order in which a reader asks. `context`: tokens that the model reads at most."""
    cached = f", {stats.cached_tokens:,} of them cached" if stats.cached_tokens else ""
    parts = [
        f"first token after {seconds(stats.ttft_ms)}" if stats.ttft_ms else "",
        f"{stats.tokens_per_s:.3g} tokens/s" if stats.tokens_per_s else "",
        f"{stats.prompt_tokens:,} prompt tokens{cached} + {stats.new_tokens:,} new",
        f"{(stats.prompt_tokens + stats.new_tokens) / context:.0%} of {context:,} that fit" if context else "",
        FINISH[stats.finish_reason],
    ]
    return " · ".join(part for part in parts if part)


def short_line(stats: GenerationStats) -> str:
    """The line before it is opened: how long, how fast, and why it ended if not by itself."""
    end = "" if stats.finish_reason == "stop" else FINISH[stats.finish_reason]
    speed = f"{stats.tokens_per_s:.3g} tokens/s" if stats.tokens_per_s else ""
    return " · ".join(part for part in (seconds(stats.total_ms), speed, end) if part)


def spoken(history: list[Message]) -> list[Message]:
    """The conversation as the model reads it: roles and words, without statistics lines and empty replies."""
    said = [{"role": message["role"], "content": words_of(message)} for message in history]
    return [message for message in said if message["content"].strip()]


def without_refusals(said: list[Message], config: GritConfig) -> list[Message]:
    """The conversation without short requests whose reply was the checkpoint's refusal, and that reply.

    That sentence is learnt for questions about a text. A small model that reads it in its own words says it again:
    behind one of them the served model refused 13 of 15 questions of general knowledge, of which it refuses 2 where it
    reads them alone. A long request stays, for it may hold the text itself.
    """
    kept: list[Message] = []
    for message in said:
        asked_shortly = bool(kept) and kept[-1]["role"] == "user" and len(kept[-1]["content"]) <= LONGEST_REQUEST
        if message["role"] == "assistant" and asked_shortly and is_refusal(message["content"], config):
            kept.pop()
        else:
            kept.append(message)
    return kept


def seed_of(text: str | None) -> int | None:
    """The seed that was typed; None for an empty field. Raises InputError."""
    words = (text or "").strip()
    if not words:
        return None
    if not words.isdecimal() or int(words) >= 2**63:
        raise InputError(f"The seed {words[:40]!r} is no whole number from 0 on. Write one, or leave the field empty.")
    return int(words)


def build(engine: Engine, visitors: Visitors, settings: Settings, browser_key: gr.BrowserState) -> ChatTab:
    """Must be called inside the tab."""
    tab = lay_out(settings)
    wire(tab, ChatHandlers(engine, visitors), browser_key)
    return tab


def seed_slip(seed: str | None) -> str:
    """What is wrong with the seed, as HTML; empty when nothing is."""
    try:
        seed_of(seed)
    except InputError as error:
        return f'<p class="slip" role="alert">{escape(str(error))}</p>'
    return ""


class ChatHandlers:
    """Asking, waiting, stopping, trying again."""

    def __init__(self, engine: Engine, visitors: Visitors) -> None:
        self._engine = engine
        self._visitors = visitors

    def begin(self, message: str, desk: Desk, *choices: Any) -> tuple[Any, ...]:
        """Outputs: conversation, waiting questions, slip, settings. An empty message is nothing.

        choices   the tab's knobs, in their order
        """
        if not message.strip():
            return (gr.skip(),) * 4
        if refusal := self._refusal(desk, choices):
            desk.returned.append(message)  # back into the box
            return refusal
        desk.put(message, choices=choices)
        return gr.skip(), waiting(desk), "", gr.skip()

    def picked(self, desk: Desk, event: gr.SelectData, *choices: Any) -> tuple[Any, ...]:
        """A starter is asked as it stands; what is in the box stays there."""
        return self.begin(message_text(event.value), desk, *choices)

    def _refusal(self, desk: Desk, choices: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Outputs as those of `begin` where nothing can be asked now."""
        if slip := seed_slip(choices[-1]):
            return gr.skip(), gr.skip(), slip, gr.update(open=True)
        if desk.is_full:
            gr.Warning(texts.DESK_FULL)
            return (gr.skip(),) * 4
        return None

    def retried(self, history: list[Message], desk: Desk, event: gr.RetryData, *choices: Any) -> tuple[Any, ...]:
        before = up_to_question(history, turn_index(event.index))
        return self._again(history, before[:-1], words_of(before[-1]) if before else "", desk, choices)

    def edited(self, history: list[Message], desk: Desk, event: gr.EditData, *choices: Any) -> tuple[Any, ...]:
        base = history[: turn_index(event.index)]
        return self._again(history, base, words_behind(message_text(event.value)), desk, choices)

    def _again(
        self, history: list[Message], base: list[Message], question: str, desk: Desk, choices: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Outputs as those of `begin`. Where nothing can be asked the conversation is shown as it was."""
        refusal = self._refusal(desk, choices)
        if refusal or not question.strip():
            return history, *(refusal or (gr.skip(),) * 4)[1:]
        desk.put(question, base=base, before=history, choices=choices)
        return gr.skip(), waiting(desk), "", gr.skip()

    def take_back(self, box: str, desk: Desk, event: gr.EventData) -> tuple[Any, ...]:
        """A waiting question returns to the box. Outputs: box, waiting questions."""
        return took_back(box, desk, event)

    def stop(self, request: gr.Request) -> None:
        self._visitors.stop_run(session_of(request), "chat")

    def open(self, desk: Desk, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        """A kept conversation was chosen. Outputs: conversation, waiting questions, versions."""
        return self._show(desk, from_json(str(event.record)), request)

    def fresh(self, desk: Desk, request: gr.Request) -> tuple[Any, ...]:
        """A new conversation was asked for. Outputs as those of `open`."""
        return self._show(desk, Record(), request)

    def _show(self, desk: Desk, record: Record, request: gr.Request) -> tuple[Any, ...]:
        desk.show(record)
        self.stop(request)
        if visitor := self._visitors.of(session_of(request)):
            visitor.conversation.clear()
        return record.history, "", version_bar(record)

    def respond(self, history: list[Message], desk: Desk, key: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Answers what waits. Outputs: conversation, waiting questions, Stop, versions, record."""
        visitor = self._visitors.enter(session_of(request), key)

        def answer(question: list[Message], job: Job) -> Frames:
            system, temperature, top_p, limit, seed = job.choices
            knobs = {"temperature": float(temperature), "top_p": float(top_p), "max_new_tokens": int(limit)}
            said = ([{"role": "system", "content": system}] if (system or "").strip() else []) + spoken(question)
            return self._answer(said, visitor, session_of(request), **knobs, seed=seed_of(seed))

        changed, shown = Changed(), None
        for shown, _ in converse(desk, history, answer):
            turn, number = len(shown), len(desk.waiting())
            yield (
                shown,
                changed("waiting", (turn, number), lambda: waiting(desk)),
                changed("stop", turn, lambda: gr.update(visible=desk.is_running)),
                changed("versions", turn, lambda: version_bar(desk.record)),
                changed("record", turn, desk.record.to_json),
            )
        if shown is None:
            yield (gr.skip(),) * 5
        else:
            yield shown, waiting(desk), gr.update(visible=False), version_bar(desk.record), desk.record.to_json()

    def _answer(self, said: list[Message], visitor: Visitor, session: str, **knobs: Any) -> Frames:
        cancel = self._visitors.begin_run(session, "chat")
        yield step("Waiting for the model …"), None
        with self._engine.using(cancel) as model:
            said = without_refusals(said, model.config)
            said, example = with_example(model, said, cancel)
            stream = model.stream(said, cancel=cancel, conversation=visitor.conversation, **knobs)
            text = ""
            try:
                for piece in awaited(steady(stream), cancel):
                    text = piece or text
                    yield reply(text) if text else in_turn(model, cancel, "Reading the conversation …"), None
            finally:
                stream.close()
        told = f" · read first, as an example: “{example.request}” with its reply" if example else ""
        numbers = statistics(stream.stats, model.context) + told
        yield reply(text or "*(no words)*", short_line(stream.stats), numbers), None


def undone(history: list[Message], box: str, desk: Desk, event: gr.UndoData) -> tuple[Any, ...]:
    """Takes the last question back into the box. Outputs: conversation, box, record."""
    before = up_to_question(history, turn_index(event.index))
    desk.record.keep(before[:-1])
    return before[:-1], joined(words_of(before[-1]) if before else "", box), desk.record.to_json()


def turned(desk: Desk, event: gr.EventData) -> tuple[Any, ...]:
    """Another version of the conversation. Outputs: conversation, versions, record."""
    if desk.is_running:
        return (gr.skip(),) * 3
    history = desk.record.turn(1 if str(event.by) == "1" else -1)
    return history, version_bar(desk.record), desk.record.to_json()


def took_back(box: str, desk: Desk, event: gr.EventData) -> tuple[Any, ...]:
    """A waiting question returns to the box, behind what is written there. Outputs: box, waiting questions."""
    number = str(event.id)
    question = desk.take_back(int(number)) if number.isdecimal() else ""
    return joined(box, question), waiting(desk)


def joined(*texts: str) -> str:
    """The texts that are not empty, one below another."""
    return "\n".join(text for text in texts if text.strip())


def wire(tab: ChatTab, handlers: ChatHandlers, browser_key: gr.BrowserState) -> None:
    # Through the queue, all at once: outside it an error is an answer of status 500, and no sentence.
    quick: dict[str, Any] = {
        "concurrency_limit": None,
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "multiple",
    }
    seed = tab.knobs[-1]
    begun = [tab.chatbot, tab.waiting, tab.slip, tab.settings]
    earlier = [tab.chatbot, tab.desk, *tab.knobs]

    def then_answer(event: Any) -> None:
        inputs = [tab.chatbot, tab.desk, browser_key]
        outputs = [tab.chatbot, tab.waiting, tab.stop, tab.kept.versions, tab.kept.text]
        answered = event.success(guarded(handlers.respond), inputs, outputs, **quick)
        giving_back(answered, tab.desk, tab.box)

    for trigger in (tab.box.submit, tab.send.click):
        inputs, script = [tab.box, *earlier[1:]], emptied("chat-box", len(earlier) - 1)
        then_answer(trigger(guarded(handlers.begin), inputs, begun, js=script, **quick))
    then_answer(tab.chatbot.example_select(guarded(handlers.picked), earlier[1:], begun, **quick))
    then_answer(tab.chatbot.retry(guarded(handlers.retried), earlier, begun, **quick))
    then_answer(tab.chatbot.edit(guarded(handlers.edited), earlier, begun, **quick))
    tab.chatbot.undo(guarded(undone), [tab.chatbot, tab.box, tab.desk], [tab.chatbot, tab.box, tab.kept.text], **quick)
    tab.waiting.take(guarded(handlers.take_back), [tab.box, tab.desk], [tab.box, tab.waiting], **quick)
    seed.change(seed_slip, seed, tab.slip, **{**quick, "trigger_mode": "always_last"})
    shown = [tab.chatbot, tab.waiting, tab.kept.versions]
    tab.stop.click(handlers.stop, **quick)
    tab.kept.talks.open(guarded(handlers.open), tab.desk, shown, **quick)
    tab.kept.talks.fresh(guarded(handlers.fresh), tab.desk, shown, **quick)
    tab.chatbot.clear(guarded(handlers.fresh), tab.desk, shown, **quick)
    tab.kept.versions.turn(guarded(turned), tab.desk, [tab.chatbot, tab.kept.versions, tab.kept.text], **quick)
