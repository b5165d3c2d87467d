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
from grit_app.ui.base.handlers import QUEUED, guarded, keeping
from grit_app.ui.base.sessions import Visitors, session_of
from grit_app.ui.similarity.layout import COUNT, Parts, lay_out
from grit_app.ui.similarity.neighbours import lines_of
from grit_app.ui.similarity.views import Asked, checked_query, views

MAX_FILE_BYTES = 4_000_000


@dataclass(frozen=True)
class SimilarityTab:
    """What the page needs of the built tab: call `show_first` with `inputs` → `outputs` once the model is there."""

    inputs: list[Any]
    outputs: list[Any]
    show_first: Any


def build(engine: Engine, visitors: Visitors) -> SimilarityTab:
    """Must be called inside the tab."""
    parts, handlers = lay_out(), SimilarityHandlers(engine, visitors)
    wire(parts, handlers)
    return SimilarityTab(parts.inputs, parts.outputs, keeping(handlers.first, len(parts.outputs)))


class SimilarityHandlers:
    """Choosing a scene, reading a file, comparing."""

    def __init__(self, engine: Engine, visitors: Visitors) -> None:
        self._engine = engine
        self._visitors = visitors
        self._example = functools.cache(self._computed_example)

    def first(
        self, query: str, lines: str, first: str, second: str, both: bool, request: gr.Request
    ) -> tuple[Any, ...]:
        """What the fields hold as the page opens: a comparison that a link brought, or the first scene.

        The scene is the same for everybody: it is computed once for the life of the process.
        """
        if Asked(query, lines, first, second, both) != asked_of(next(iter(texts.SCENES.values()))):
            return self.run(query, lines, first, second, both, request)
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
    lane: dict[str, Any] = {"concurrency_limit": 8, "api_visibility": "private"}
    run = keeping(handlers.run, len(parts.outputs))
    for trigger in (parts.go.click, parts.query.submit):
        checked = trigger(guarded(handlers.check), [parts.query, parts.lines], None, **QUEUED)
        checked.success(run, parts.inputs, parts.outputs, **lane)
    chosen = parts.scene.input(guarded(handlers.choose), parts.scene, parts.inputs, **QUEUED)
    chosen.success(run, parts.inputs, parts.outputs, **lane)
    parts.upload.upload(guarded(handlers.read), parts.upload, parts.lines, **QUEUED)
    parts.link.click(
        None, parts.inputs, None, js="(...values) => window.gritLink(...values)", queue=False, api_visibility="private"
    )
    parts.lines.change(None, parts.lines, parts.count, js=COUNT, queue=False, api_visibility="private")
