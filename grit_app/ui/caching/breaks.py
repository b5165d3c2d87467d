"""What would break this cache? A prompt in blocks to be edited or moved, and what each kind of cache keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from grit_app.errors import InputError
from grit_app.rag.reuse import Prompt, Reuse, reuse
from grit_app.ui.base import texts
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import escape, guarded
from grit_app.ui.base.status import seconds, size

LONGEST = 20_000
"""Characters of a prompt: every change of it is cut into tokens."""


def build(engine: Engine, opened: Any) -> None:
    """Must be called inside the tab, whose `select` event is `opened`."""
    with gr.Accordion("What would break this cache?", open=False, elem_id="breaks"):
        gr.Markdown(texts.BREAKS_INTRO, elem_classes="quiet")
        prompt = gr.Textbox(
            texts.BREAKS_PROMPT,
            label="Prompt: passages, and the question last",
            lines=9,
            max_lines=20,
            elem_id="breaks-prompt",
        )
        with gr.Row(elem_classes="ask-row"):
            keep = gr.Button("Keep the caches of this prompt", size="sm", scale=0, min_width=230, elem_id="breaks-keep")
            move = gr.Button("Move the last passage up", size="sm", scale=0, min_width=210, elem_id="breaks-move")
        shown = gr.HTML(label="What is kept", elem_id="breaks-shown")
    kept = gr.State(texts.BREAKS_PROMPT)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}

    def show(before: str, now: str) -> Any:
        model = engine.ready_model()
        if model is None:
            return gr.skip()
        try:
            return pictures(reuse(model, in_blocks(before), in_blocks(now)))
        except InputError as error:
            return f'<p class="quiet">{escape(str(error))}</p>'

    views = guarded(show)
    prompt.change(views, [kept, prompt], shown, trigger_mode="always_last", **quiet)
    keep.click(lambda now: now, prompt, kept, **quiet).then(views, [kept, prompt], shown, **quiet)
    move.click(guarded(moved), prompt, prompt, **quiet)
    opened(views, [kept, prompt], shown, **quiet)


def in_blocks(text: str) -> Prompt:
    """Blocks between empty lines: passages, and the question as the last. Raises InputError with what is missing."""
    if len(text) > LONGEST:
        raise InputError(f"The prompt has more than {LONGEST:,} characters. Shorten it.")
    blocks = [block.strip() for block in text.replace("\r", "").split("\n\n") if block.strip()]
    if len(blocks) < 2:
        raise InputError("Write at least one passage, an empty line, and a question.")
    return blocks[:-1], blocks[-1]


def moved(text: str) -> str:
    """The prompt with its last passage at the first place."""
    passages, question = in_blocks(text)
    return "\n\n".join([passages[-1], *passages[:-1], question])


def pictures(results: Sequence[Reuse]) -> str:
    """Each kind of cache with the prompt under it: kept tokens in colour, those that are read again grey."""
    return f'<div class="breaks">{"".join(map(_picture, results))}</div>'


def _picture(one: Reuse) -> str:
    words = "".join(
        f'<span class="{"kept" if piece.is_kept else "read"}">{escape(piece.text.strip())}</span>'
        for piece in one.pieces
        if piece.text.strip()
    )
    total = one.kept_tokens + one.read_tokens
    bill = [f"{one.kept_tokens:,} of {total:,} tokens kept ({size(one.kept_bytes)})", f"{one.read_tokens:,} read"]
    if one.read_s is not None:
        bill.append(f"about {seconds(1000 * one.read_s)}")
    return (
        f"<section><h4>{escape(texts.BREAKS_KINDS[one.kind])}</h4>"
        f'<p class="facts">{" · ".join(bill)}</p><p class="prompt">{words}</p></section>'
    )
