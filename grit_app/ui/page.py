"""The page: header, four tabs, and what ties them to the model and to the visitors."""

from __future__ import annotations

import os
from typing import Any

import gradio as gr

from grit_app.settings import Settings
from grit_app.ui import api
from grit_app.ui.base import texts
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import QUEUED, escape, guarded
from grit_app.ui.base.sessions import Visitors, new_key, session_of
from grit_app.ui.base.status import badge, count
from grit_app.ui.base.theme import STYLE_SHEET, head, theme
from grit_app.ui.caching import handlers as caching
from grit_app.ui.chat import handlers as chat
from grit_app.ui.documents import handlers as documents
from grit_app.ui.similarity import handlers as similarity

HEADER = f"""
<header class="page-head">
  <div class="page-title"><h1>GRIT Workbench</h1>
  <button type="button" class="plain-button" id="show-keys" aria-label="Keys" title="Keys">?</button></div>
  <p>{escape(texts.CLAIM)} <a href="{texts.PAPER}" target="_blank" rel="noopener">The paper</a></p>
</header>
"""

SLOW_POLL_S = 4.0
"""The badge's rhythm once the model is there; before, it asks every second."""


def is_shared(settings: Settings) -> bool:
    """Whether strangers may use this page: a public link, a Hugging Face Space, any address but this machine's."""
    host = settings.host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    is_local = host == "localhost" or host.startswith("127.") or host in ("::1", "[::1]")
    return settings.share or bool(os.environ.get("SPACE_ID")) or not is_local


def programs_text(engine: Engine, settings: Settings, address: str) -> str:
    """How programs use this server, with the address at which this page was opened."""
    url = address if "://" in address else f"http://{address}"
    needs_key = settings.api_key is not None
    return texts.PROGRAMS.format(
        url=url,
        model=engine.describe().get("name", "gritlm"),
        key=" The operator has set a key: put yours in the place of `YOUR_KEY`." if needs_key else "",
        api_key="YOUR_KEY" if needs_key else "none",
        header='-H "Authorization: Bearer YOUR_KEY" ' if needs_key else "",
    )


def build_app(engine: Engine, visitors: Visitors, settings: Settings) -> gr.Blocks:
    """All of the page. Nothing here waits for the model."""
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="GRIT Workbench", analytics_enabled=False, delete_cache=(1800, 7200)) as app:
        browser_key = gr.BrowserState(None, storage_key="grit-browser", secret="grit-workbench-browser")
        is_ready = gr.Checkbox(value=False, label="The model is ready", visible="hidden")
        clock = gr.Timer(1.0)
        with gr.Row(elem_classes="top-row"):
            gr.HTML(HEADER, scale=3, min_width=300)
            status = gr.HTML(badge(engine), elem_id="status", scale=2, min_width=300)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Chat", id="chat"):
                notice = gr.Markdown(visible=False, elem_id="small-model")
                chat_tab = chat.build(engine, visitors, settings, browser_key)
            with gr.Tab("Document Q&A", id="documents"):
                documents_tab = documents.build(engine, visitors, settings, browser_key, shared=is_shared(settings))
            with gr.Tab("Similarity", id="similarity"):
                similarity_tab = similarity.build(engine, visitors)
            with gr.Tab("Caching", id="caching") as caching_item:
                caching.build(engine, visitors, caching_item.select, documents_tab.cards.race, tabs, browser_key)

        with gr.Accordion("Use as your embedder and writer", open=False, elem_id="programs"):
            programs = gr.Markdown(elem_id="programs-text")

        def enter(key: str | None, request: gr.Request) -> str:
            key = key if isinstance(key, str) and key else new_key()
            visitors.enter(session_of(request), key)
            return key

        def poll(shown: str, was_ready: bool) -> tuple[Any, Any, Any]:
            now = badge(engine)
            ready = engine.ready_model() is not None
            if ready == was_ready:
                return (now if now != shown else gr.skip()), gr.skip(), gr.skip()
            return now, ready, gr.Timer(SLOW_POLL_S)

        def when_ready(ready: bool) -> Any:
            parameters = engine.describe().get("parameters", 0)
            if not ready or parameters >= 500_000_000:
                return gr.skip()
            return gr.update(value=texts.SMALL_MODEL.format(parameters=count(parameters)), visible=True)

        def address(request: gr.Request) -> str:
            return programs_text(engine, settings, str(request.headers.get("origin") or request.headers.get("host")))

        def leave(request: gr.Request) -> None:
            visitors.leave(session_of(request))

        entered = app.load(enter, browser_key, browser_key, **quiet)
        linked = similarity_tab.inputs
        entered.then(None, linked, linked, js="(...values) => window.gritLinked(...values)", **quiet).then(
            poll, [status, is_ready], [status, is_ready, clock], **quiet
        )
        clock.tick(poll, [status, is_ready], [status, is_ready, clock], **quiet)
        is_ready.change(when_ready, is_ready, notice, **quiet).then(address, None, programs, **quiet)
        kept = documents_tab.choices
        refreshed = is_ready.change(
            guarded(documents_tab.refresh), documents_tab.inputs, documents_tab.outputs, **QUEUED
        ).success(kept.restore, kept.store, kept.fields, **quiet)
        # Once more: now it is known which documents are not ticked.
        refreshed.then(guarded(documents_tab.refresh_table), documents_tab.inputs, documents_tab.outputs[:2], **QUEUED)
        app.load(chat_tab.choices.restore, chat_tab.choices.store, chat_tab.choices.fields, **quiet)
        is_ready.change(
            similarity_tab.show_first, similarity_tab.inputs, similarity_tab.outputs, api_visibility="private"
        )
        app.unload(leave)
        api.publish(engine, settings)
    return app


def launch_options(settings: Settings) -> dict[str, Any]:
    """What `launch` needs. Nothing but Gradio's own upload folder is served, and that lies in the data folder."""
    options: dict[str, Any] = {
        "theme": theme(),
        "css_paths": [STYLE_SHEET],
        "head": head(),
        "share": settings.share,
        "max_file_size": settings.max_file_bytes,
        "allowed_paths": [],
        "footer_links": ["api", "settings"],
        "show_error": False,
        "enable_monitoring": False,
        "ssr_mode": False,
        # Gradio 6.31 would give up where its own first request takes over 3 s, as it does on a busy small machine.
        "_frontend": False,
    }
    if settings.host is not None:
        options["server_name"] = settings.host
    if settings.port is not None:
        options["server_port"] = settings.port
    return options
