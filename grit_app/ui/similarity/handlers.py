"""The Similarity tab: what an instruction makes of "similar"."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from grit_app.errors import InputError
from grit_app.ui.base import texts
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import guarded
from grit_app.ui.base.sessions import Visitors, session_of
from grit_app.ui.similarity.layout import COUNT, Parts, lay_out
from grit_app.ui.similarity.neighbours import lines_of
from grit_app.ui.similarity.views import Asked, checked_query, views

MAX_FILE_BYTES = 4_000_000


@dataclass(frozen=True)
class SimilarityTab:
    """What the page needs of the built tab: call `show_example` on these, without inputs, once the model is there."""

    outputs: list[Any]
    show_example: Any


def build(engine: Engine, visitors: Visitors) -> SimilarityTab:
    """Must be called inside the tab."""
    parts, handlers = lay_out(), SimilarityHandlers(engine, visitors)
    wire(parts, handlers)
    return SimilarityTab(parts.outputs, guarded(handlers.example))


class SimilarityHandlers:
    """Choosing a scene, reading a file, comparing."""

    def __init__(self, engine: Engine, visitors: Visitors) -> None:
        self._engine = engine
        self._visitors = visitors
        self._example = functools.cache(self._computed_example)

    def example(self) -> tuple[Any, ...]:
        """The first scene, the same for everybody: computed once for the life of the process."""
        return self._example()

    def _computed_example(self) -> tuple[Any, ...]:
        with self._engine.using() as model:
            return views(model, asked_of(next(iter(texts.SCENES.values()))))

    def run(self, query: str, lines: str, first: str, second: str, both: bool, request: gr.Request) -> tuple[Any, ...]:
        cancel = self._visitors.begin_run(session_of(request), "similarity")
        with self._engine.using(cancel) as model:
            return views(model, Asked(query, lines, first, second, both), cancel)

    def check(self, query: str, lines: str) -> None:
        """Apart from the run, so that a slip of the pen does not wipe the results that are shown."""
        checked_query(query)
        lines_of(lines)

    def choose(self, name: str) -> tuple[Any, ...]:
        """A scene fills all fields together. Outputs: those of `Parts.inputs`."""
        return tuple(asked_of(texts.SCENES[name]))

    def read(self, file: str | None) -> Any:
        """The lines of a file. Output: the box of texts."""
        if not file:
            return gr.skip()
        path = Path(file)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path.name} is larger than 4 MB. Cut it to the lines that you want compared.")
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
        path.unlink(missing_ok=True)  # Gradio's copy
        return "\n".join(lines_of(text))


def asked_of(scene: texts.Scene) -> Asked:
    return Asked(scene.query, "\n".join(scene.texts), scene.first, scene.second, scene.on_both_sides)


def wire(parts: Parts, handlers: SimilarityHandlers) -> None:
    # Through the queue: outside it an error is an answer of status 500, and no sentence.
    quiet: dict[str, Any] = {"concurrency_limit": None, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"concurrency_limit": 8, "api_visibility": "private"}
    run = guarded(handlers.run)
    for trigger in (parts.go.click, parts.query.submit):
        checked = trigger(guarded(handlers.check), [parts.query, parts.lines], None, **quiet)
        checked.success(run, parts.inputs, parts.outputs, **lane)
    chosen = parts.scene.input(guarded(handlers.choose), parts.scene, parts.inputs, **quiet)
    chosen.success(run, parts.inputs, parts.outputs, **lane)
    parts.upload.upload(guarded(handlers.read), parts.upload, parts.lines, **quiet)
    parts.lines.change(None, parts.lines, parts.count, js=COUNT, queue=False, api_visibility="private")
