"""What stands where on the Document Q&A tab: documents, conversation, sources. On a phone they are stacked."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import gradio as gr

from grit_app.places import ASSETS
from grit_app.rag.strategies import REFERENCE, STRATEGIES
from grit_app.settings import MOST_PASSAGES, Settings
from grit_app.ui.base import desk, texts
from grit_app.ui.base.records import Kept, keeping
from grit_app.ui.chat.layout import stop_button
from grit_app.ui.documents import library_view, sources
from grit_app.ui.documents.library_actions import FILE_KINDS

WAITING = '<p class="quiet files-empty">Your documents appear when the model is loaded.</p>'
SAMPLES = [ASSETS / "samples" / "field_guide.pdf", ASSETS / "samples" / "harbour_museum.md"]
PASSAGE_LENGTHS = (40, 800)
"""Shortest and longest that can be chosen, in tokens."""

NO_SOURCES = '<p class="quiet">The passages of an answer appear here; choose one to see its page.</p>'


@dataclass(frozen=True)
class Parts:
    """The tab's components, by what they are for."""

    upload: gr.File
    folder: gr.UploadButton
    sample: gr.Button
    halt: gr.Button
    table: gr.HTML
    meter: gr.HTML
    clear: gr.Button
    chatbot: gr.Chatbot
    box: gr.Textbox
    send: gr.Button
    stop: gr.Button
    waiting: gr.HTML
    desk: gr.State
    kept: Kept
    strategy: gr.Dropdown
    k: gr.Slider
    mode: gr.Radio
    positions: gr.Radio
    reading: gr.Radio
    order: gr.Radio
    search: gr.Radio
    length: gr.Slider
    cut: gr.Button
    cards: gr.HTML
    saved: gr.Textbox
    picture: gr.HTML
    unused: gr.State
    held: gr.State


def lay_out(settings: Settings, shared: bool) -> Parts:
    with gr.Row(elem_classes="columns documents"):
        with gr.Column(scale=3, min_width=200, elem_id="library-column"):
            left = _left(settings, shared)
        with gr.Column(scale=6, min_width=300, elem_id="answers-column"):
            middle = _middle(settings)
        with gr.Column(scale=4, min_width=260, elem_id="sources-column"):
            gr.HTML('<h3 class="part">Sources</h3>')
            picture = gr.HTML(label="Page of the chosen passage", elem_id="page-picture")
            cards = gr.HTML(NO_SOURCES, label="Sources", elem_id="sources", js_on_load=sources.SCRIPT)
            saved = gr.Textbox("", label="The passages to save", visible="hidden", interactive=False)
    return Parts(**left, **middle, cards=cards, saved=saved, picture=picture, unused=gr.State([]), held=gr.State([]))


def _left(settings: Settings, shared: bool) -> dict[str, Any]:
    limits = library_view.limits_sentence(FILE_KINDS, settings.max_file_mb, settings.max_pages, settings.max_files)
    gr.HTML(
        '<div class="part-row"><h3 class="part">Documents</h3><button type="button" class="plain-button" id="add-more" '
        f'aria-expanded="false">Add more</button></div><p class="quiet limits">{limits}</p>'
    )
    upload = gr.File(
        file_count="multiple", file_types=list(FILE_KINDS), label="Add documents", height=132, elem_id="upload"
    )
    with gr.Row(elem_id="other-ways"):
        folder = gr.UploadButton("Add a folder", file_count="directory", size="sm", min_width=90, elem_id="folder")
        sample = gr.Button("Try the samples", size="sm", min_width=90, elem_id="sample")
    halt = gr.Button("Stop reading", variant="stop", size="sm", visible=False, elem_id="upload-stop")
    table = gr.HTML(WAITING, label="Documents", elem_id="files", js_on_load=library_view.SCRIPT)
    meter = gr.HTML(label="Disk space of caches", elem_id="meter")
    clear = gr.Button("Remove all", size="sm", elem_id="clear-library")
    privacy = texts.PRIVACY_SHARED.format(idle_minutes=settings.visitor_idle_minutes) if shared else texts.PRIVACY_LOCAL
    with gr.Accordion("Where documents are kept", open=False, elem_id="privacy"):
        gr.Markdown(privacy, elem_classes="quiet")
    return {
        "upload": upload,
        "folder": folder,
        "sample": sample,
        "halt": halt,
        "table": table,
        "meter": meter,
        "clear": clear,
    }


def strategy_choices() -> list[tuple[str, str]]:
    """The three that a visitor needs first; the others are there for comparison with the paper."""
    first = [(label, name) for name, label in texts.STRATEGY_WORDS.items() if name in STRATEGIES]
    others = [
        (f"As published: {row.label}", name) for name, row in STRATEGIES.items() if name not in texts.STRATEGY_WORDS
    ]
    return first + others


def starters(names: Collection[str]) -> list[Any]:
    """Questions to start with, for documents of these names: about the samples while there is nothing else."""
    of_samples = not names or any(path.name in names for path in SAMPLES)
    return [{"text": question} for question in (texts.SAMPLE_QUESTIONS if of_samples else texts.GENERAL_QUESTIONS)]


def _middle(settings: Settings) -> dict[str, Any]:
    kept = keeping("documents")
    chatbot = gr.Chatbot(
        label="Questions and answers",
        show_label=False,
        elem_id="answers",
        height=None,
        placeholder=texts.DOCUMENTS_EMPTY,
        examples=starters(()),
        editable="user",
        elem_classes="conversation",
        buttons=["copy"],
        layout="bubble",
        latex_delimiters=[],
    )
    waiting = gr.HTML(label="Waiting for their turn", elem_id="answers-waiting", js_on_load=desk.SCRIPT)
    with gr.Row(elem_classes="ask-row", equal_height=True):
        box = gr.Textbox(
            label="Question",
            show_label=False,
            placeholder="Ask about the documents",
            lines=1,
            max_lines=6,
            scale=6,
            min_width=180,
            container=False,
            elem_id="question",
            elem_classes="main-box",
        )
        send = gr.Button("Ask", variant="primary", scale=1, min_width=84, elem_id="ask")
        stop = stop_button("answer-stop")
    with gr.Accordion("Settings", open=False, elem_id="answer-settings"):
        strategy = gr.Dropdown(
            choices=strategy_choices(),
            value=REFERENCE,
            label="Strategy",
            info="What is read again for each question, and what comes from a KV cache.",
        )
        with gr.Row():
            k = gr.Slider(
                1, MOST_PASSAGES, value=1, step=1, label="Passages", info="How many are retrieved.", min_width=160
            )
            mode = gr.Radio(
                [("Quote", "quote"), ("Short", "short"), ("Free", "free"), ("Sources", "sources")],
                value="free",
                label="Answer",
                info="Quote: a sentence of the passages. Short: its words that answer. Free: the model writes. "
                "Sources: the passages alone.",
                min_width=160,
            )
        reading = gr.Radio(
            [("Passages that are found", "found"), ("One document, whole", "whole")],
            value="found",
            label="Read",
            info="Whole: from its beginning to its end, where it fits into the model's context. Tick one document.",
            elem_id="reading",
        )
        search = gr.Radio(
            [("Meaning and words", "hybrid"), ("Meaning alone", "vectors"), ("Words alone", "keywords")],
            value="hybrid",
            label="Search by",
            info="Meaning: the passage's embedding near the question's. Words: those that both hold, rare ones first.",
            elem_id="search-by",
        )
        order = gr.Radio(
            [("As found", "found"), ("By relevance", "relevance"), ("By the question it would ask", "question")],
            value="found",
            label="Order of the passages",
            info="Else the model reads the ten best and reorders them. The small model judges relevance badly.",
            elem_id="passage-order",
        )
        positions = gr.Radio(
            [("Consecutive", "consecutive"), ("Colliding, as published", "colliding")],
            value="consecutive",
            label="Positions of joined caches",
        )
        length = gr.Slider(
            *PASSAGE_LENGTHS,
            value=settings.chunk_tokens,
            step=10,
            label="Passage length",
            info=texts.CUT_INFO,
            elem_id="passage-length",
        )
        cut = gr.Button("Cut the documents anew", size="sm", elem_id="cut-anew")
    return {
        "chatbot": chatbot,
        "box": box,
        "send": send,
        "stop": stop,
        "strategy": strategy,
        "k": k,
        "mode": mode,
        "positions": positions,
        "reading": reading,
        "order": order,
        "search": search,
        "length": length,
        "cut": cut,
        "waiting": waiting,
        "desk": gr.State(desk.Desk()),
        "kept": kept,
    }
