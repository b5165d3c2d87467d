"""From settings to a served page, with the routes for programs beside it.

Imported only after GRADIO_TEMP_DIR is set: Gradio reads it at import.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from starlette.middleware import Middleware

from grit_app.documents.keep.departed import remove_abandoned
from grit_app.documents.library import Library
from grit_app.gritlm import GritLM
from grit_app.serve.app import OWN_PATHS, BesideThePage, create_app
from grit_app.settings import Settings
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.sessions import Visitors
from grit_app.ui.documents.library_actions import library_limits
from grit_app.ui.page import build_app, is_shared, launch_options
from grit_app.ui.safety import SafeHeaders
from grit_app.ui.uploads import name_uploads_privately
from grit_app.ui.zero import is_zero_gpu, on_zero_gpu

THREADS = 160
"""For handlers, most of which wait for their turn: more than `queue_size`, so that the page itself never waits."""


def assemble(settings: Settings, load: Callable[[], GritLM]) -> tuple[gr.Blocks, Engine, Visitors]:
    """The page, its model and its visitors, not yet started."""
    place = (lambda: on_zero_gpu(load())) if is_zero_gpu() else load
    engine = Engine(place, most_jobs=settings.queue_size, warms_up=not is_zero_gpu())
    name_uploads_privately()

    def open_library(folder: Path | None) -> Library:
        return Library(
            engine.model(),
            folder,
            limits=library_limits(settings),
            cache_budget_bytes=settings.cache_budget_bytes,
            chunk_tokens=settings.chunk_tokens,
            cache_scheme=settings.cache_scheme,
            vectors=settings.vectors,
        )

    visitors = Visitors(
        open_library,
        None if is_shared(settings) else settings.data_folder / "libraries",
        max_visitors=settings.max_visitors,
        idle_s=settings.visitor_idle_minutes * 60,
        rate=settings.visitor_rate if is_shared(settings) else 0,
    )
    if not is_shared(settings):
        remove_abandoned(settings.data_folder / "libraries", settings.library_days)
    app = build_app(engine, visitors, settings)
    # Handlers take turns at the model's scheduler (gritlm/scheduler.py), which knows who waits and says so. In Gradio's
    # own queue one long upload would hold everybody.
    app.queue(max_size=None, default_concurrency_limit=None)
    return app, engine, visitors


def serve(settings: Settings, load: Callable[[], GritLM]) -> None:
    """Serve until interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("grit_app").setLevel(logging.INFO)
    app, engine, visitors = assemble(settings, load)
    try:
        if is_zero_gpu():  # weights must lie in their place before the first GPU is lent
            engine.start()
            engine.wait()
        # The page first: Gradio gives up when its own first request takes over 3 s, and on a small machine a model that
        # loads meanwhile takes that long away.
        api = Middleware(BesideThePage, api=create_app(engine, settings))
        beside = {"middleware": [Middleware(SafeHeaders, own_paths=OWN_PATHS), api]}
        app.launch(**launch_options(settings), max_threads=THREADS, app_kwargs=beside, prevent_thread_lock=True)
        engine.start()
        visitors.keep_sweeping()
        app.block_thread()
    finally:
        visitors.close()
