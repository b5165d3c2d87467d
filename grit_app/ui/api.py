"""The published API: a few typed functions. Everything else on the page is private to it.

Each caller is a session of its own, with its own documents, which are freed when its session ends.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from grit_app.errors import InputError
from grit_app.settings import Settings
from grit_app.ui.engine import Engine
from grit_app.ui.handlers import guarded
from grit_app.ui.sessions import Visitors
from grit_app.ui.similarity_math import MAX_CHARACTERS, MAX_TEXTS, cosines


def checked_texts(texts: list[str], most: int = MAX_TEXTS) -> list[str]:
    """The texts. Raises InputError for none, too many, empty or too long ones."""
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError("Send a list with at least one text.")
    if len(texts) > most:
        raise InputError(f"{len(texts)} texts are more than one call takes. Send at most {most}.")
    for number, text in enumerate(texts, 1):
        if not text.strip() or len(text) > MAX_CHARACTERS:
            raise InputError(f"Text {number} must have between 1 and {MAX_CHARACTERS:,} characters.")
    return texts


def publish(engine: Engine, visitors: Visitors, settings: Settings) -> None:
    """Add the API to the page that is being built."""

    @guarded
    def embed(texts: list[str], instruction: str = "") -> list[list[float]]:
        """Embeddings of the texts: one L2-normalised vector each. The instruction is for queries; leave it empty for passages."""
        with engine.using() as model:
            return model.encode(checked_texts(texts), instruction=instruction).tolist()

    @guarded
    def similarity(texts: list[str], instruction: str = "") -> list[list[float]]:
        """Cosine of every pair of the texts under one instruction."""
        with engine.using() as model:
            return cosines(model.encode(checked_texts(texts), instruction=instruction)).tolist()

    @guarded
    def chat(message: str, system: str = "", max_new_tokens: int = 128, temperature: float = 0.0) -> str:
        """The model's reply to one message."""
        if not message.strip():
            raise InputError("The message is empty.")
        messages = ([{"role": "system", "content": system}] if system.strip() else []) + [
            {"role": "user", "content": message}
        ]
        limit = min(max(1, int(max_new_tokens)), 1024)
        with engine.using() as model:
            return model.generate(messages, max_new_tokens=limit, temperature=temperature)

    lane: dict[str, Any] = {"concurrency_id": "model"}
    gr.api(embed, api_name="embed", **lane)
    gr.api(similarity, api_name="similarity", **lane)
    gr.api(chat, api_name="chat", **lane)
