"""The Caching tab: a race at first sight, below it the measured comparison, recorded and live."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from grit_app.benchmark.measure import race
from grit_app.benchmark.measure.race import Race
from grit_app.benchmark.show.styles import style_of
from grit_app.errors import Cancelled, InputError
from grit_app.gritlm import Sampling
from grit_app.places import ASSETS
from grit_app.rag.strategies import REFERENCE, STRATEGIES
from grit_app.ui.base import texts
from grit_app.ui.base.background import Watch
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import QUEUED, afterwards, escape, guarded
from grit_app.ui.base.messages import gives_way
from grit_app.ui.base.sessions import Visitors, session_of
from grit_app.ui.caching import breaks, measurements, paper_view
from grit_app.ui.caching.race_view import answers_table, frames, picture, preparing
from grit_app.ui.zero import run_race

CACHED = [name for name, row in STRATEGIES.items() if row.caches_documents]
DEFAULT_CACHED = "docs_cache"
ANSWER_TOKENS = 48
SAMPLES_CHOICE = ("The sample texts", "")
SHORTEST, LONGEST = 64, 4096
"""Tokens of the document: a race over more takes minutes on a CPU."""

ROOM = 512
"""Tokens of the context that question and answer may need."""

ANSWERS_HINT = '<p class="quiet">Same question, same document, greedy decoding.</p>'
SMALL_PARAMETERS = 500_000_000
"""Up to this size the race starts by itself at first sight, also on a CPU: it takes seconds."""

SAMPLE_TEXTS = [ASSETS / "samples" / "field_guide.txt", ASSETS / "samples" / "harbour_museum.md"]


@dataclass(frozen=True)
class Parts:
    """The race's components."""

    question: gr.Textbox
    document: gr.Dropdown
    begins: gr.HTML
    cached: gr.Dropdown
    length: gr.Slider
    start: gr.Button
    again: gr.Button
    stop: gr.Button
    lanes: gr.HTML
    compare: gr.Button
    answers: gr.HTML
    result: gr.State
    was_seen: gr.State


def build(
    engine: Engine,
    visitors: Visitors,
    opened: Callable[..., Any],
    asked: Callable[..., Any],
    tabs: gr.Tabs,
    browser_key: gr.BrowserState,
) -> None:
    """Must be called inside the tab named `caching` of `tabs`, whose `select` event is `opened`.

    asked   the event with the number of an answer whose question is to be raced
    """
    gr.Markdown(texts.RACE_INTRO, elem_classes="intro")
    wire(lay_out(), RaceHandlers(engine, visitors), opened, asked, tabs, browser_key)
    breaks.build(engine, opened)
    measurements.build(engine, visitors)
    paper_view.build()


def sample_text() -> str:
    """The sample documents as one long text, without their markup."""
    lines = []
    for path in SAMPLE_TEXTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.replace("|", "  ").strip(" #:*=-")
            if words:
                lines.append(words)
    return "\n".join(lines)


def lay_out() -> Parts:
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
        document = gr.Dropdown(
            choices=[SAMPLES_CHOICE], value="", label="Document", scale=3, min_width=200, elem_id="race-document"
        )
        cached = gr.Dropdown(
            choices=[(style_of(name).label.capitalize(), name) for name in CACHED],
            value=DEFAULT_CACHED,
            label="Cached lane",
            scale=3,
            min_width=200,
            elem_id="race-strategy",
        )
        length = gr.Slider(
            SHORTEST, 4096, value=2048, step=1, label="Of it, tokens", scale=3, min_width=200, elem_id="race-length"
        )
    begins = gr.HTML(label="Beginning of the document", elem_id="race-begins")
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
            min_width=99,
        )
    lanes = gr.HTML(preparing([REFERENCE, DEFAULT_CACHED], None), label="The race", elem_id="race")
    with gr.Accordion("The answers of all strategies, side by side", open=False, elem_id="answers-accordion"):
        compare = gr.Button("Answer with every strategy", size="sm", elem_id="compare-answers")
        answers = gr.HTML(ANSWERS_HINT, label="Answers", elem_id="all-answers")
    return Parts(
        question,
        document,
        begins,
        cached,
        length,
        start,
        again,
        stop,
        lanes,
        compare,
        answers,
        gr.State(None),
        gr.State(False),
    )


class RaceHandlers:
    """Measuring lanes in the model's turn, and showing them out of it."""

    def __init__(self, engine: Engine, visitors: Visitors) -> None:
        self._engine = engine
        self._visitors = visitors

    def begin(self, request: gr.Request) -> tuple[Any, Any]:
        self._visitors.begin_run(session_of(request), "race")
        return gr.update(interactive=False), gr.update(visible=True)

    def stop(self, request: gr.Request) -> None:
        self._visitors.stop_run(session_of(request), "race")

    def documents(self, key: str, request: gr.Request) -> Any:
        """The tab was opened: what there is to race over. Output: list of documents."""
        if self._engine.ready_model() is None:
            return gr.skip()
        visitor = self._visitors.enter(session_of(request), key)
        own = [(info.name, info.id) for info in self._visitors.library(visitor).documents()]
        return gr.update(choices=[SAMPLES_CHOICE, *own])

    def from_answer(self, key: str, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        """An answer's question is to be raced. Outputs: tabs, then the race's fields."""
        visitor = self._visitors.enter(session_of(request), key)
        number = str(event.number)
        turn = next((one for one in visitor.turns if str(one.number) == number and one.question), None)
        if turn is None:
            raise InputError(texts.RACE_GONE)
        document = turn.hits[0].chunk.document_id
        length, begins = self.chosen(document, key, request)
        shown = gr.update(**{**self.documents(key, request), "value": document})
        return gr.Tabs(selected="caching"), turn.question, shown, length, begins, True, *self.begin(request)

    def chosen(self, document: str, key: str, request: gr.Request) -> tuple[Any, Any]:
        """A document was chosen. Outputs: length (it ends at what there is), its beginning."""
        model = self._engine.ready_model()
        if model is None:
            return gr.skip(), gr.skip()
        text = self._text(document, key, request)
        _, there = race.cut_to_tokens(model, text, min(LONGEST, model.context - ROOM))
        first = " ".join(text.split())[:220]
        begins = f'<p class="quiet">It begins: “{escape(first)} …” ({there:,} tokens can be read)</p>'
        longest = max(SHORTEST + 1, there)
        return gr.update(maximum=longest, value=min(2048, longest)), begins

    def _text(self, document: str, key: str, request: gr.Request) -> str:
        if not document:
            return sample_text()
        visitor = self._visitors.enter(session_of(request), key)
        return self._visitors.library(visitor).document(document).text

    def run(
        self, question: str, cached: str, length: float, document: str, key: str, request: gr.Request
    ) -> Iterator[tuple[str, Any]]:
        """Outputs: lanes, result."""
        cancel = self._visitors.current_run(session_of(request), "race")
        text = self._text(document, key, request)
        for html, result in self._measured([REFERENCE, cached], question, text, length, cancel):
            yield html, gr.skip() if result is None else result  # a race that was stopped leaves the one before

    def first_sight(
        self, was_seen: bool, question: str, cached: str, length: float, document: str, key: str, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """The tab was opened. Outputs: lanes, result, was_seen. A race that was run before is only shown again."""
        model = self._engine.ready_model()
        is_quick = model is not None and (
            model.describe()["parameters"] <= SMALL_PARAMETERS or model.device.type == "cuda"
        )
        if was_seen or not is_quick:
            yield gr.skip(), gr.skip(), was_seen
            return
        cancel = self._visitors.begin_run(session_of(request), "race")
        text = self._text(document, key, request)
        for html, result in self._measured([REFERENCE, cached], question, text, length, cancel):
            yield html, result, True

    def back(self, cached: str, result: Race | None) -> str:
        """A race failed: the one before it is shown, or empty lanes. Output: lanes."""
        return preparing([REFERENCE, cached], None, "not run") if result is None else picture(result, None)

    def show(self, result: Race | None) -> Iterator[Any]:
        """The race at its measured pace; not in the model's lane."""
        if result is None:
            yield gr.skip()
            return
        for wait_s, html in frames(result):
            time.sleep(wait_s)
            yield html

    def all_answers(self, question: str, length: float, document: str, key: str, request: gr.Request) -> Iterator[str]:
        """Every strategy's answer to the same question over the same document."""
        cancel = self._visitors.begin_run(session_of(request), "answers")
        names = [REFERENCE, *(name for name in STRATEGIES if name not in (REFERENCE, "none"))]
        text = self._text(document, key, request)
        for _, result in self._measured(names, question, text, length, cancel):
            yield answers_table(result) if result else '<p class="quiet">Answering …</p>'

    def _measured(
        self, strategies: Sequence[str], question: str, text: str, length: float, cancel: threading.Event
    ) -> Iterator[tuple[str, Race | None]]:
        yield preparing(strategies, None), None
        with self._engine.using(cancel) as model:
            text, _ = race.cut_to_tokens(model, text, min(int(length), model.context - ROOM))
            is_quoting = model.config.answer_mode != "free"
            sampling = Sampling(max_new_tokens=ANSWER_TOKENS)
            watch: Watch[str, Race] = Watch(
                lambda report: run_race(
                    model,
                    question,
                    text,
                    strategies,
                    sampling=sampling,
                    is_quoting=is_quoting,
                    on_lane=report,
                    cancel=cancel,
                ),
                cancel,
            )
            try:
                for news in watch:
                    if news:
                        yield preparing(strategies, news[-1]), None
                    elif waits := gives_way(model, cancel):
                        yield preparing(strategies, None, waits), None
            except Cancelled:
                yield preparing(strategies, None, "stopped"), None
                return
        yield picture(watch.result, 0.0), watch.result


def wire(
    parts: Parts,
    handlers: RaceHandlers,
    opened: Callable[..., Any],
    asked: Callable[..., Any],
    tabs: gr.Tabs,
    key: gr.BrowserState,
) -> None:
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    playing: dict[str, Any] = {"concurrency_limit": 8, "show_progress": "hidden", "api_visibility": "private"}
    knobs = [parts.question, parts.cached, parts.length, parts.document, key]
    show = guarded(handlers.show)
    taken = [tabs, parts.question, parts.document, parts.length, parts.begins, parts.was_seen, parts.start, parts.stop]
    for begun in (
        parts.start.click(guarded(handlers.begin), None, [parts.start, parts.stop], **QUEUED).success,
        asked(guarded(handlers.from_answer), key, taken, **lane).success,  # through the queue: its error is a sentence
    ):
        ran = begun(guarded(handlers.run), knobs, [parts.lanes, parts.result], **lane)
        buttons = [parts.start, parts.stop]
        afterwards(ran, lambda: (gr.update(interactive=True), gr.update(visible=False)), None, buttons, **quiet)
        ran.failure(guarded(handlers.back), [parts.cached, parts.result], parts.lanes, **QUEUED)
        ran.success(show, parts.result, parts.lanes, **playing)
    seen = opened(
        guarded(handlers.first_sight), [parts.was_seen, *knobs], [parts.lanes, parts.result, parts.was_seen], **lane
    )
    seen.success(show, parts.result, parts.lanes, **playing)
    parts.again.click(show, parts.result, parts.lanes, **playing)
    parts.stop.click(handlers.stop, **quiet)
    parts.compare.click(
        guarded(handlers.all_answers), [parts.question, parts.length, parts.document, key], parts.answers, **lane
    )
    opened(guarded(handlers.documents), key, parts.document, **QUEUED)
    for event in (opened, parts.document.input):
        event(guarded(handlers.chosen), [parts.document, key], [parts.length, parts.begins], **QUEUED)
