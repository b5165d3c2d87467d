"""The Document Q&A tab: a visitor's own documents, questions over them, answers with their sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from grit_app.settings import Settings
from grit_app.ui.base.choices import Choices, remember
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.sessions import Visitors
from grit_app.ui.documents.answer_handlers import AnswerHandlers, wire_answers
from grit_app.ui.documents.layout import lay_out
from grit_app.ui.documents.library_handlers import LibraryHandlers, wire_library
from grit_app.ui.documents.removals import Removals


@dataclass(frozen=True)
class DocumentsTab:
    """What the page needs of the built tab: call `refresh` with `inputs` → `outputs` when the model is there.

    refresh_table   with `inputs` → the first two outputs
    """

    refresh: Callable[..., Any]
    refresh_table: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    choices: Choices
    cards: gr.HTML
    """Its event `race` names the answer whose question is to be raced."""


def build(
    engine: Engine, visitors: Visitors, settings: Settings, browser_key: gr.BrowserState, *, shared: bool
) -> DocumentsTab:
    """Must be called inside the tab."""
    parts = lay_out(settings, shared)
    removals = Removals()
    library = LibraryHandlers(engine, visitors, settings, removals)
    answers = AnswerHandlers(engine, visitors, settings, removals)
    wire_library(parts, library, browser_key)
    wire_answers(parts, answers, library, browser_key)
    outputs = [parts.table, parts.meter, parts.chatbot, parts.strategy, parts.k, parts.mode, parts.length]
    knobs = [parts.strategy, parts.k, parts.mode, parts.positions, parts.reading, parts.order, parts.search]
    choices = remember("documents", [*knobs, parts.unused])
    return DocumentsTab(
        library.refresh, library.refresh_table, [browser_key, parts.unused, parts.held], outputs, choices, parts.cards
    )
