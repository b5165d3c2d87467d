"""The Chat tab: a conversation with the model, its caches kept between turns, its numbers under each answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from grit_app.errors import InputError
from grit_app.gritlm.write.decoding import GenerationStats
from grit_app.settings import Settings
from grit_app.ui.base import texts
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import guarded, message_text, steady
from grit_app.ui.base.sessions import Visitors, session_of
from grit_app.ui.base.status import seconds

Message = dict[str, Any]
KEPT_MESSAGES = 60
"""The browser keeps this many messages over a reload: its storage is small."""

FINISH = {"stop": "complete", "length": "reached the length limit", "cancelled": "stopped by you"}


def statistics(stats: GenerationStats) -> str:
    """The line under an answer, in the order in which a reader asks."""
    cached = f", {stats.cached_tokens:,} of them cached" if stats.cached_tokens else ""
    parts = [
        f"first token after {seconds(stats.ttft_ms)}" if stats.ttft_ms else "",
        f"{stats.tokens_per_s:.3g} tokens/s" if stats.tokens_per_s else "",
        f"{stats.prompt_tokens:,} prompt tokens{cached} + {stats.new_tokens:,} new",
        FINISH[stats.finish_reason],
    ]
    return " · ".join(part for part in parts if part)


def reply(text: str, note: str = "") -> Message:
    """An answer and its statistics line as two blocks of one message: the words stay clean for the next turn."""
    blocks = [{"type": "text", "text": text}]
    if note:
        blocks.append({"type": "text", "text": f'<div class="stats">{note}</div>'})
    return {"role": "assistant", "content": blocks}


def spoken(history: list[Message]) -> list[Message]:
    """The conversation as the model reads it: roles and words, without statistics lines and empty replies."""
    said = []
    for message in history:
        content = message["content"]
        words = message_text(content[:1] if isinstance(content, list) else content)
        if words.strip():
            said.append({"role": message["role"], "content": words})
    return said


def kept(history: list[Message]) -> list[Message]:
    """What the browser keeps over a reload: roles and blocks of the last `KEPT_MESSAGES`, starting with a question."""
    plain = [
        {
            "role": m["role"],
            "content": [{"type": "text", "text": message_text(block)} for block in _blocks(m["content"])],
        }
        for m in history[-KEPT_MESSAGES:]
    ]
    while plain and plain[0]["role"] != "user":
        plain.pop(0)
    return plain


def _blocks(content: Any) -> list[Any]:
    return list(content) if isinstance(content, (list, tuple)) else [content]


def up_to_question(history: list[Message], index: int) -> list[Message]:
    """The conversation up to and with the last question at or before `index`."""
    last = max((i for i, m in enumerate(history[: index + 1]) if m["role"] == "user"), default=-1)
    return history[: last + 1]


def seed_of(text: str | None) -> int | None:
    """The seed that was typed; None for an empty field. Raises InputError."""
    words = (text or "").strip()
    if not words:
        return None
    if not words.isdecimal() or int(words) >= 2**63:
        raise InputError(f"The seed {words[:40]!r} is no whole number from 0 on. Write one, or leave the field empty.")
    return int(words)


def turn_index(index: int | tuple[int, int]) -> int:
    """The message that a chat event is about; Gradio gives a pair where a message has several blocks."""
    return index[0] if isinstance(index, (tuple, list)) else index


@dataclass(frozen=True)
class ChatTab:
    """The tab's components; `store` keeps the conversation in the browser."""

    chatbot: gr.Chatbot
    store: gr.BrowserState
    box: gr.Textbox
    send: gr.Button
    stop: gr.Button
    clear: gr.Button
    knobs: list[Any]


def build(engine: Engine, visitors: Visitors, settings: Settings, browser_key: gr.BrowserState) -> ChatTab:
    """Must be called inside the tab."""
    tab = lay_out(settings)
    wire(tab, ChatHandlers(engine, visitors), browser_key)
    return tab


def lay_out(settings: Settings) -> ChatTab:
    chatbot = gr.Chatbot(
        label="Conversation",
        show_label=False,
        elem_id="chat",
        height="min(60dvh, 640px)",
        editable="user",
        placeholder=texts.CHAT_EMPTY,
        examples=[{"text": starter} for starter in texts.CHAT_STARTERS],
        buttons=["copy", "copy_all"],
        layout="bubble",
        latex_delimiters=[],
    )
    with gr.Row(elem_classes="ask-row", equal_height=True):
        box = gr.Textbox(
            label="Message",
            show_label=False,
            placeholder="Write a message",
            lines=1,
            max_lines=8,
            scale=8,
            min_width=200,
            elem_id="chat-box",
            elem_classes="main-box",
            container=False,
        )
        send = gr.Button("Send", variant="primary", scale=1, min_width=96, elem_id="chat-send")
        stop = gr.Button(
            "Stop",
            variant="stop",
            scale=1,
            min_width=96,
            visible=False,
            elem_id="chat-stop",
            elem_classes="stop-button",
        )
    with gr.Accordion("Settings", open=False, elem_id="chat-settings"):
        knobs = _knobs(settings)
        clear = gr.Button("Clear the conversation", size="sm")
    store = gr.BrowserState([], storage_key="grit-chat", secret="grit-workbench-chat")
    return ChatTab(chatbot, store, box, send, stop, clear, knobs)


def _knobs(settings: Settings) -> list[Any]:
    """In the order of `ChatHandlers.respond`: system prompt, temperature, top-p, longest reply, seed."""
    system = gr.Textbox(
        value="", label="System prompt", info="Put before the first message.", lines=2, max_lines=8, elem_id="system"
    )
    with gr.Row():
        temperature = gr.Slider(
            0, 2, value=0.3, step=0.05, label="Temperature", info="0: always the likeliest token.", min_width=220
        )
        top_p = gr.Slider(
            0.05, 1, value=0.95, step=0.05, label="Top-p", info="Share of probability to draw from.", min_width=220
        )
    with gr.Row():
        limit = gr.Slider(
            8,
            max(1024, settings.chat_tokens),
            value=settings.chat_tokens,
            step=8,
            label="Longest reply, in tokens",
            min_width=220,
        )
        # A text field: Gradio's number field turns "empty" into 0 once it is shown, and every draw would be the same.
        seed = gr.Textbox(
            value="",
            max_lines=1,
            label="Seed",
            info="The same number gives the same reply.",
            placeholder="empty: a new draw each time",
            min_width=220,
            elem_id="chat-seed",
        )
    return [system, temperature, top_p, limit, seed]


class ChatHandlers:
    """Asking, stopping, trying again."""

    def __init__(self, engine: Engine, visitors: Visitors) -> None:
        self._engine = engine
        self._visitors = visitors

    def begin(self, message: str, history: list[Message], request: gr.Request) -> tuple[Any, ...]:
        if not message.strip():
            raise InputError("The message is empty. Write something first.")
        return "", *self.again([*history, {"role": "user", "content": message}], request)

    def again(self, history: list[Message], request: gr.Request) -> tuple[Any, ...]:
        self._visitors.begin_run(session_of(request), "chat")
        return history, *running(True)

    def retried(self, history: list[Message], request: gr.Request, event: gr.RetryData) -> tuple[Any, ...]:
        return self.again(up_to_question(history, turn_index(event.index)), request)

    def edited(self, history: list[Message], request: gr.Request, event: gr.EditData) -> tuple[Any, ...]:
        question = {"role": "user", "content": message_text(event.value)}
        return self.again([*history[: turn_index(event.index)], question], request)

    def undone(self, history: list[Message], event: gr.UndoData) -> tuple[Any, ...]:
        """Takes the last question back into the box. Outputs: conversation, box, store."""
        before = up_to_question(history, turn_index(event.index))
        question = message_text(before[-1]["content"]) if before else ""
        return before[:-1], question, kept(before[:-1])

    def stop(self, request: gr.Request) -> None:
        self._visitors.stop_run(session_of(request), "chat")

    def respond(
        self,
        history: list[Message],
        key: str,
        system: str,
        temperature: float,
        top_p: float,
        limit: float,
        seed: str,
        request: gr.Request,
    ) -> Iterator[list[Message]]:
        """The conversation with the answer as it grows."""
        visitor = self._visitors.enter(session_of(request), key)
        cancel = self._visitors.current_run(session_of(request), "chat")
        if not history or history[-1]["role"] != "user":
            yield history
            return
        drawn_seed = seed_of(seed)
        instructions = [{"role": "system", "content": system}] if (system or "").strip() else []
        with self._engine.using(cancel) as model:
            stream = model.stream(
                instructions + spoken(history),
                max_new_tokens=int(limit),
                temperature=float(temperature),
                top_p=float(top_p),
                seed=drawn_seed,
                cancel=cancel,
                conversation=visitor.conversation,
            )
            text = ""
            try:
                for text in steady(stream):
                    yield [*history, reply(text)]
            finally:
                stream.close()
        yield [*history, reply(text or "*(no words)*", statistics(stream.stats))]


def wire(tab: ChatTab, handlers: ChatHandlers, browser_key: gr.BrowserState) -> None:
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "show_progress": "minimal",
        "api_visibility": "private",
    }
    buttons = [tab.send, tab.stop]
    begun = [tab.box, tab.chatbot, *buttons]

    def then_answer(event: Any) -> None:
        answered = event.success(guarded(handlers.respond), [tab.chatbot, browser_key, *tab.knobs], tab.chatbot, **lane)
        answered.then(lambda history: (kept(history), *running(False)), tab.chatbot, [tab.store, *buttons], **quiet)

    for trigger in (tab.box.submit, tab.send.click):
        then_answer(trigger(guarded(handlers.begin), [tab.box, tab.chatbot], begun, **quiet))
    picked = tab.chatbot.example_select(starter_text, None, tab.box, **quiet)
    then_answer(picked.then(guarded(handlers.begin), [tab.box, tab.chatbot], begun, **quiet))
    then_answer(tab.chatbot.retry(guarded(handlers.retried), tab.chatbot, [tab.chatbot, *buttons], **quiet))
    then_answer(tab.chatbot.edit(guarded(handlers.edited), tab.chatbot, [tab.chatbot, *buttons], **quiet))
    tab.chatbot.undo(guarded(handlers.undone), tab.chatbot, [tab.chatbot, tab.box, tab.store], **quiet)
    tab.stop.click(handlers.stop, **quiet)
    tab.clear.click(lambda: ([], []), None, [tab.chatbot, tab.store], **quiet)
    tab.chatbot.clear(lambda: [], None, tab.store, **quiet)


def running(is_running: bool) -> tuple[Any, Any]:
    """Send and Stop take each other's place."""
    return gr.update(visible=not is_running), gr.update(visible=is_running)


def starter_text(event: gr.SelectData) -> str:
    """The words of the starter that was picked."""
    return message_text(event.value)
