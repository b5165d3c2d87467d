"""The published API: a few typed functions. Everything else on the page is private to it.

Calls hold no state: what a caller sends is used for the answer and then forgotten.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from grit_app.documents.library import Library
from grit_app.errors import InputError
from grit_app.rag.answering import answer, check_question
from grit_app.rag.events import Done
from grit_app.settings import Settings
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import guarded
from grit_app.ui.documents.library_actions import library_limits
from grit_app.ui.similarity.neighbours import MAX_CHARACTERS, MAX_TEXTS, cosines

MAX_DOCUMENT_CHARACTERS = 200_000


def checked_texts(texts: list[str], longest: int = MAX_CHARACTERS) -> list[str]:
    """The texts. Raises InputError for none, too many, empty or too long ones."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError("Send a list with at least one text.")
    if len(texts) > MAX_TEXTS:
        raise InputError(f"{len(texts)} texts are more than one call takes. Send at most {MAX_TEXTS}.")
    for number, text in enumerate(texts, 1):
        if not text.strip() or len(text) > longest:
            raise InputError(f"Text {number} must have between 1 and {longest:,} characters.")
    return texts


def publish(engine: Engine, settings: Settings) -> None:
    """Add the API to the page that is being built."""

    @guarded
    def embed(texts: list[str], instruction: str = "") -> list[list[float]]:
        """One L2-normalised vector a text. The instruction is for queries; leave it empty for passages."""
        with engine.using() as model:
            return model.encode(checked_texts(texts), instruction=instruction).tolist()

    @guarded
    def similarity(texts: list[str], instruction: str = "") -> list[list[float]]:
        """Cosine of every pair of the texts under one instruction."""
        with engine.using() as model:
            return cosines(model.encode(checked_texts(texts), instruction=instruction)).tolist()

    @guarded
    def ask(question: str, documents: list[str], strategy: str = "", k: int = 0) -> dict[str, Any]:
        """A cited answer over the given texts. An empty strategy and k 0: the model's defaults."""
        checked_texts(documents, MAX_DOCUMENT_CHARACTERS)
        with engine.using() as model, tempfile.TemporaryDirectory(prefix="grit-ask-") as folder:
            check_question(question, strategy or model.config.default_strategy, k or None)  # before texts are embedded
            paths = [Path(folder) / f"{number}.txt" for number in range(1, len(documents) + 1)]
            for path, text in zip(paths, documents, strict=True):
                path.write_text(text, encoding="utf-8")
            library = Library(model, None, limits=library_limits(settings), chunk_tokens=settings.chunk_tokens)
            try:
                reports = library.add(paths)
                events = answer(question, library, model, strategy=strategy or None, k=k or None)
                done = next(event.answer for event in events if isinstance(event, Done))
            finally:
                library.close()
        return done.to_json([{"file": r.name, "reason": r.reason} for r in reports if r.state == "failed"])

    @guarded
    def chat(message: str, system: str = "", max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """The model's reply to one message."""
        if not message.strip():
            raise InputError("The message is empty.")
        messages = [{"role": "system", "content": system}] if system.strip() else []
        messages.append({"role": "user", "content": message})
        limit = min(max(1, int(max_new_tokens)), 1024)
        with engine.using() as model:
            return model.generate(messages, max_new_tokens=limit, temperature=temperature)

    lane: dict[str, Any] = {"concurrency_limit": None}
    gr.api(embed, api_name="embed", **lane)
    gr.api(similarity, api_name="similarity", **lane)
    gr.api(ask, api_name="ask", **lane)
    gr.api(chat, api_name="chat", **lane)
