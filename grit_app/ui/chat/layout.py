"""What stands where on the Chat tab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from grit_app.settings import Settings
from grit_app.ui.base import desk, texts
from grit_app.ui.base.choices import Choices, remember
from grit_app.ui.base.records import Kept, keeping

LATEX: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]


@dataclass(frozen=True)
class ChatTab:
    """The tab's components; `kept` keeps the conversations in the browser."""

    chatbot: gr.Chatbot
    kept: Kept
    waiting: gr.HTML
    desk: gr.State
    box: gr.Textbox
    send: gr.Button
    stop: gr.Button
    settings: gr.Accordion
    slip: gr.HTML
    knobs: list[Any]
    choices: Choices


def lay_out(settings: Settings) -> ChatTab:
    kept = keeping("chat")
    chatbot = gr.Chatbot(
        label="Conversation",
        show_label=False,
        elem_id="chat",
        elem_classes="conversation",
        height=None,
        editable="user",
        placeholder=texts.CHAT_EMPTY,
        examples=[{"text": starter} for starter in texts.CHAT_STARTERS],
        buttons=["copy"],
        layout="bubble",
        latex_delimiters=LATEX,
    )
    waiting = gr.HTML(label="Waiting for their turn", elem_id="chat-waiting", js_on_load=desk.SCRIPT)
    with gr.Row(elem_classes="ask-row", equal_height=True):
        box = gr.Textbox(
            label="Message",
            show_label=False,
            placeholder="Write a message",
            lines=1,
            max_lines=8,
            scale=8,
            min_width=160,
            elem_id="chat-box",
            elem_classes="main-box",
            container=False,
        )
        send = gr.Button("Send", variant="primary", scale=1, min_width=84, elem_id="chat-send")
        stop = stop_button("chat-stop")
    with gr.Accordion("Settings", open=False, elem_id="chat-settings") as accordion:
        knobs, slip = _knobs(settings)
    state = gr.State(desk.Desk())
    return ChatTab(chatbot, kept, waiting, state, box, send, stop, accordion, slip, knobs, remember("chat", knobs))


def stop_button(elem_id: str) -> gr.Button:
    return gr.Button(
        "Stop", variant="stop", scale=1, min_width=84, visible=False, elem_id=elem_id, elem_classes="stop-button"
    )


def _knobs(settings: Settings) -> tuple[list[Any], gr.HTML]:
    """In the order of `ChatHandlers.respond`: system prompt, temperature, top-p, longest reply, seed; then its slip."""
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
        with gr.Column(min_width=220):
            # A text field: Gradio's number field turns "empty" into 0 once it is shown, and every draw would be one.
            seed = gr.Textbox(
                value="",
                max_lines=1,
                label="Seed",
                info="The same number gives the same reply.",
                placeholder="empty: a new draw each time",
                elem_id="chat-seed",
            )
            slip = gr.HTML(label="What is wrong with the seed", elem_id="chat-seed-slip")
    return [system, temperature, top_p, limit, seed], slip
