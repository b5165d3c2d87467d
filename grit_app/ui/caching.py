"""The Caching tab: a race at first sight, below it the measured comparison, recorded and live."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from grit_app.benchmark import race
from grit_app.benchmark.race import Race
from grit_app.benchmark.styles import style_of
from grit_app.errors import Cancelled
from grit_app.gritlm import Sampling
from grit_app.rag.strategies import STRATEGIES
from grit_app.settings import Settings
from grit_app.ui import measurements, texts
from grit_app.ui.background import Watch
from grit_app.ui.engine import Engine
from grit_app.ui.handlers import guarded
from grit_app.ui.race_view import answers_table, frames, picture, preparing
from grit_app.ui.sessions import Visitors, session_of
from grit_app.ui.theme import ASSETS

FULL = "rag_doc_query"
CACHED = [name for name, row in STRATEGIES.items() if row.caches_documents]
DEFAULT_CACHED = "docs_cache"
ANSWER_TOKENS = 48
SMALL_PARAMETERS = 500_000_000
"""Up to this size the race starts by itself at first sight, also on a CPU: it takes seconds."""

SAMPLE_TEXTS = [ASSETS / "samples" / "field_guide.txt", ASSETS / "samples" / "harbour_museum.md"]


@dataclass(frozen=True)
class CachingTab:
    """What the page needs of the built tab: `first_sight` is called when the tab is opened."""

    first_sight: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    replay: Callable[..., Any]
    replay_inputs: list[Any]
    replay_outputs: list[Any]


def sample_text() -> str:
    """The sample documents as one long text, without their markup."""
    lines = []
    for path in SAMPLE_TEXTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.replace("|", "  ").strip(" #:*=-")
            if words:
                lines.append(words)
    return "\n".join(lines)


def build(engine: Engine, visitors: Visitors, settings: Settings) -> CachingTab:
    """Layout above, wiring below. Must be called inside the tab."""
    gr.Markdown(texts.RACE_INTRO, elem_classes="intro")
    with gr.Row(elem_classes="columns race-controls"):
        question = gr.Textbox(
            label="Question",
            value=texts.RACE_QUESTION,
            lines=1,
            max_lines=3,
            scale=5,
            min_width=260,
            elem_id="race-question",
        )
        cached = gr.Dropdown(
            choices=[(style_of(name).label.capitalize(), name) for name in CACHED],
            value=DEFAULT_CACHED,
            label="Cached lane",
            scale=3,
            min_width=200,
            elem_id="race-strategy",
        )
        length = gr.Slider(256, 4096, value=2048, step=256, label="Document, in tokens", scale=3, min_width=200)
    with gr.Row(elem_classes="ask-row"):
        start = gr.Button("Race on this machine", variant="primary", elem_id="race-start", scale=0, min_width=210)
        again = gr.Button("Show again", elem_id="race-again", scale=0, min_width=130)
        stop = gr.Button(
            "Stop",
            variant="stop",
            visible=False,
            elem_id="race-stop",
            elem_classes="stop-button",
            scale=0,
            min_width=100,
        )
    lanes = gr.HTML(preparing([FULL, DEFAULT_CACHED], None), label="The race", elem_id="race")
    with gr.Accordion("The answers of all strategies, side by side", open=False, elem_id="answers-accordion"):
        compare = gr.Button("Answer with every strategy", size="sm", elem_id="compare-answers")
        answers = gr.HTML(
            '<p class="quiet">Same question, same document, greedy decoding.</p>',
            label="Answers",
            elem_id="all-answers",
        )
    measurements.build(engine, visitors)

    result = gr.State(None)
    was_seen = gr.State(False)

    def measured(
        strategies: Sequence[str], question: str, length: float, request: gr.Request, kind: str
    ) -> Iterator[tuple[str, Race | None]]:
        cancel = visitors.current_run(session_of(request), kind)
        yield preparing(strategies, None), None
        with engine.using(cancel) as model:
            text, _ = race.cut_to_tokens(model, sample_text(), min(int(length), model.context - 512))
            watch: Watch[str, Race] = Watch(
                lambda report: race.run(
                    model,
                    question,
                    text,
                    strategies,
                    sampling=Sampling(max_new_tokens=32),
                    on_lane=report,
                    cancel=cancel,
                ),
                cancel,
            )
            try:
                for news in watch:
                    if news:
                        yield preparing(strategies, news[-1]), None
            except Cancelled:
                yield preparing(strategies, None, "stopped"), None
                return
        yield picture(watch.result, 0.0), watch.result

    @guarded
    def run(question: str, cached: str, length: float, request: gr.Request) -> Iterator[tuple[str, Race | None]]:
        yield from measured([FULL, cached], question, length, request, "race")

    @guarded
    def first_sight(
        seen: bool, question: str, cached: str, length: float, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        model = engine.ready_model()
        is_quick = model is not None and (
            model.describe()["parameters"] <= SMALL_PARAMETERS or model.device.type == "cuda"
        )
        if seen or not is_quick:
            yield gr.skip(), gr.skip(), seen
            return
        visitors.begin_run(session_of(request), "race")
        for html, done in measured([FULL, cached], question, length, request, "race"):
            yield html, done, True

    def show(outcome: Race | None) -> Iterator[str]:
        if outcome is None:
            yield gr.skip()
            return
        for wait_s, html in frames(outcome):
            time.sleep(wait_s)
            yield html

    @guarded
    def all_answers(question: str, length: float, request: gr.Request) -> Iterator[str]:
        visitors.begin_run(session_of(request), "answers")
        names = [FULL, *(name for name in STRATEGIES if name not in (FULL, "none"))]
        for html, outcome in measured(names, question, length, request, "answers"):
            yield answers_table(outcome) if outcome else '<p class="quiet">Answering …</p>' if html else ""

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"concurrency_id": "model", "show_progress": "hidden", "api_visibility": "private"}
    playing: dict[str, Any] = {"concurrency_limit": 8, "show_progress": "hidden", "api_visibility": "private"}

    def begin(request: gr.Request) -> tuple[Any, Any]:
        visitors.begin_run(session_of(request), "race")
        return gr.update(interactive=False), gr.update(visible=True)

    def halt(request: gr.Request) -> None:
        visitors.stop_run(session_of(request), "race")

    started = start.click(begin, None, [start, stop], **quiet).then(
        run, [question, cached, length], [lanes, result], **lane
    )
    started.then(lambda: (gr.update(interactive=True), gr.update(visible=False)), None, [start, stop], **quiet)
    started.success(show, result, lanes, **playing)
    again.click(show, result, lanes, **playing)
    stop.click(halt, **quiet)
    compare.click(all_answers, [question, length], answers, **lane)
    return CachingTab(
        first_sight, [was_seen, question, cached, length], [lanes, result, was_seen], show, [result], [lanes]
    )
