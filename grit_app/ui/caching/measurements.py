"""The measured comparison of the Caching tab: recorded results with their hardware, and 'Run here' on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from grit_app.benchmark.environment import hardware_name
from grit_app.benchmark.measure.latency import Plan, measure
from grit_app.benchmark.show import recorded
from grit_app.benchmark.show.recorded import Recording
from grit_app.benchmark.show.styles import style_of
from grit_app.errors import InputError
from grit_app.rag.strategies import REFERENCE, STRATEGIES
from grit_app.ui.base import texts
from grit_app.ui.base.background import Watch
from grit_app.ui.base.downloads import Download, download_button
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.handlers import QUEUED, afterwards, guarded
from grit_app.ui.base.messages import gives_way
from grit_app.ui.base.sessions import Visitors, session_of
from grit_app.ui.caching.measurement_views import (
    CHARTS,
    EMPTY,
    LIVE,
    Result,
    as_csv,
    charts,
    choices,
    environment_table,
    headline,
    key_of,
    missing,
    model_name,
    numbers_table,
    progress_line,
    quality_for,
)
from grit_app.ui.caching.recorded_tables import gpu_tables, memory_sentence, throughput_table

DOC_TOKENS: Final = (256, 512, 1024, 2048, 4096)
QUERY_TOKENS: Final = (16, 64, 256)
DOCUMENTS: Final = (1, 2, 4, 8, 16)
BUDGET_S: Final = 20
LIVE_STRATEGIES: Final = [REFERENCE, "prefix_cache", "docs_cache", "docs_query_cache"]
CLOCKS: Final = [
    ("Prefill → first token", "prefill_ttft_ms"),
    ("Question → first token", "question_ttft_ms"),
    ("Total", "total_ms"),
]


class Results:
    """What there is to show: the recordings that ship with the project, and a visitor's own live run."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings = recordings
        self._by_key = {key_of(one): one for one in recordings if one.command in ("latency", "two_models")}

    def choices(self, live: Result | None) -> list[tuple[str, str]]:
        return choices(self.recordings, live)

    def views(self, name: str | None, live: Result | None, clock: str, every: bool = False) -> tuple[Any, ...]:
        """Finding, all charts, what is not measured, table, environment, JSON text, CSV text.

        every   draw all strategies; of a live run all are drawn, for they were chosen
        """
        records, environment, hardware = self._find(name, live)
        model = model_name(environment)
        is_live = name == LIVE and live is not None
        drawn = charts(records, quality_for(self.recordings, model), clock, model, every=every or is_live)
        plots = [gr.update(value=figure, visible=figure is not None) for figure in drawn]
        raw = json.dumps({"environment": environment, "records": records}, indent=1) if records else ""
        table = numbers_table(records) if records else EMPTY
        summary = headline(records, hardware, clock, memory_sentence(environment), is_live=is_live)
        return (
            summary,
            *plots,
            missing(drawn),
            table,
            environment_table(environment),
            raw,
            as_csv(records) if records else "",
        )

    def _find(self, name: str | None, live: Result | None) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
        if name == LIVE and live:
            told = Recording("live", "latency", live["environment"], live["records"])  # names other programs, too
            return live["records"], live["environment"], told.caption if told.environment else hardware_name()
        if name in self._by_key:
            chosen = self._by_key[name]
            return chosen.records, chosen.environment, chosen.caption
        return [], {}, ""


@dataclass(frozen=True)
class Parts:
    """The section's components. `shown` are the outputs of `Results.views`, in its order."""

    chosen: gr.Dropdown
    clock: gr.Radio
    every: gr.Checkbox
    strategies: gr.CheckboxGroup
    doc_tokens: gr.CheckboxGroup
    query_tokens: gr.CheckboxGroup
    documents: gr.CheckboxGroup
    run: gr.Button
    stop: gr.Button
    progress: gr.HTML
    shown: list[Any]
    live: gr.State


def build(engine: Engine, visitors: Visitors) -> None:
    """Must be called inside the tab."""
    results = Results(recorded.load_all())
    wire(lay_out(results), MeasurementHandlers(engine, visitors, results))


def lay_out(results: Results) -> Parts:
    offered = results.choices(None)
    first = offered[0][1] if offered else None
    start = results.views(first, None, CLOCKS[0][1])
    gr.HTML('<h3 class="part">All strategies, measured</h3>')
    with gr.Row(elem_classes="columns"):
        chosen = gr.Dropdown(
            offered, value=first, label="Results", scale=5, min_width=260, elem_id="results", visible=bool(offered)
        )
        clock = gr.Radio(CLOCKS, value=CLOCKS[0][1], label="Clock", scale=6, min_width=260)
        every = gr.Checkbox(False, label="All strategies", scale=2, min_width=160, elem_id="every-strategy")
    with gr.Accordion("Measure on this machine", open=not offered, elem_id="measure-here"):
        controls = _controls()
    summary = gr.HTML(start[0], label="Finding", elem_id="finding")
    with gr.Row(elem_classes="columns charts"):
        plots = [
            gr.Plot(plot["value"], visible=plot["visible"], label=name, show_label=False, min_width=420)
            for name, plot in zip(CHARTS, start[1 : 1 + len(CHARTS)], strict=True)
        ]
    unmeasured = gr.HTML(start[1 + len(CHARTS)], label="Not measured yet", elem_id="not-measured")
    gr.Markdown(texts.CACHING_METHOD, elem_classes="quiet method")
    raw = _raw_numbers(*start[2 + len(CHARTS) :])
    with gr.Accordion("Throughput, recorded", open=False, elem_id="throughput"):
        gr.HTML(throughput_table(results.recordings), label="Throughput")
    if on_gpus := gpu_tables(results.recordings):
        with gr.Accordion("On a GPU, recorded", open=False, elem_id="on-gpus"):
            gr.HTML(on_gpus, label="On a GPU")
    shown = [summary, *plots, unmeasured, *raw]
    return Parts(chosen=chosen, clock=clock, every=every, shown=shown, live=gr.State(None), **controls)


def _controls() -> dict[str, Any]:
    strategies = gr.CheckboxGroup(
        [(style_of(name).label.capitalize(), name) for name in STRATEGIES], value=LIVE_STRATEGIES, label="Strategies"
    )
    with gr.Row():
        doc_tokens = _numbers(DOC_TOKENS, [256, 1024, 2048], "Document tokens", 240)
        query_tokens = _numbers(QUERY_TOKENS, [16], "Question tokens", 200)
        documents = _numbers(DOCUMENTS, [1], "Documents", 160)
    with gr.Row(elem_classes="ask-row"):
        run = gr.Button(f"Run here (about {BUDGET_S} s)", variant="primary", elem_id="run-here", scale=0, min_width=230)
        stop = gr.Button(
            "Stop",
            variant="stop",
            visible=False,
            elem_id="run-stop",
            elem_classes="stop-button",
            scale=0,
            min_width=100,
        )
    return {
        "strategies": strategies,
        "doc_tokens": doc_tokens,
        "query_tokens": query_tokens,
        "documents": documents,
        "run": run,
        "stop": stop,
        "progress": gr.HTML(label="Progress", elem_id="run-progress"),
    }


def _numbers(offered: Sequence[int], value: list[int], label: str, min_width: int) -> gr.CheckboxGroup:
    return gr.CheckboxGroup([(f"{n:,}", n) for n in offered], value=value, label=label, min_width=min_width)


def _raw_numbers(table: str, environment: str, as_json: str, as_csv_text: str) -> list[Any]:
    with gr.Accordion("Raw numbers", open=False, elem_id="raw-numbers"):
        numbers = gr.HTML(table, label="Numbers")
        with gr.Row(elem_classes="ask-row"):
            saved: list[Download] = [
                download_button("Download JSON", "caching.json", "application/json", "download-json", as_json),
                download_button("Download CSV", "caching.csv", "text/csv", "download-csv", as_csv_text),
            ]
    with gr.Accordion("Environment of these results", open=False):
        facts = gr.HTML(environment, label="Environment", elem_id="environment")
    return [numbers, facts, *(download.value for download in saved)]


class MeasurementHandlers:
    """Showing a result, measuring a new one."""

    def __init__(self, engine: Engine, visitors: Visitors, results: Results) -> None:
        self._engine = engine
        self._visitors = visitors
        self._results = results

    def show(self, name: str | None, live: Result | None, clock: str, every: bool) -> tuple[Any, ...]:
        return self._results.views(name, live, clock, every)

    def begin(self, request: gr.Request) -> tuple[Any, Any]:
        self._visitors.begin_run(session_of(request), "measure")
        return gr.update(interactive=False), gr.update(visible=True)

    def stop(self, request: gr.Request) -> None:
        self._visitors.stop_run(session_of(request), "measure")

    def run(
        self,
        strategies: list[str],
        doc_tokens: list[int],
        query_tokens: list[int],
        documents: list[int],
        clock: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Outputs: progress, list of results, live result, then those of `Results.views`."""
        plan = live_plan(strategies, doc_tokens, query_tokens, documents)
        expected = len(plan.strategies) * len(doc_tokens) * len(query_tokens) * len(documents)
        cancel = self._visitors.current_run(session_of(request), "measure")
        unchanged = [gr.skip()] * (6 + len(CHARTS))
        yield progress_line(0, 0, "waiting for the model"), gr.skip(), gr.skip(), *unchanged
        records: list[dict[str, Any]] = []
        with self._engine.using(cancel) as model:
            yield progress_line(0, expected, "measuring the machine's own rates"), gr.skip(), gr.skip(), *unchanged
            watch: Watch[dict[str, Any], Result] = Watch(
                lambda report: measure(model, plan, on_record=report, cancel=cancel), cancel, tick_s=0.3
            )
            for news in watch:
                if news:
                    records += news
                    words = f"{records[-1]['doc_tokens']:,} document tokens done"
                    views = self._results.views(LIVE, {"environment": {}, "records": records}, clock)
                    yield progress_line(len(records), expected, words), gr.skip(), gr.skip(), *views
                elif waits := gives_way(model, cancel):
                    yield progress_line(len(records), expected, waits), gr.skip(), gr.skip(), *unchanged
        result = watch.result
        if not result["records"]:
            yield progress_line(0, 0, "stopped before anything was measured"), gr.skip(), gr.skip(), *unchanged
            return
        is_cut = result["environment"]["cancelled"]
        told = ["stopped by you; what was measured is shown" if is_cut else "done", *result["environment"]["left_out"]]
        listed = gr.Dropdown(choices=self._results.choices(result), value=LIVE, visible=True)
        views = self._results.views(LIVE, result, clock)
        yield progress_line(len(result["records"]), expected, "; ".join(told)), listed, result, *views


def live_plan(
    strategies: Sequence[str], doc_tokens: Sequence[int], query_tokens: Sequence[int], documents: Sequence[int]
) -> Plan:
    """What 'Run here' measures: always with full prefill beside, caches in the page cache, within the time budget."""
    if not (strategies and doc_tokens and query_tokens and documents):
        raise InputError("Choose at least one strategy, document length, question length and number of documents.")
    return Plan(
        strategies=tuple(dict.fromkeys([REFERENCE, *strategies])),
        doc_tokens=sorted(doc_tokens),
        query_tokens=sorted(query_tokens),
        docs=sorted(documents),
        states=("warm",),
        seconds=BUDGET_S,
    )


def wire(parts: Parts, handlers: MeasurementHandlers) -> None:
    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    shown = [parts.chosen, parts.live, parts.clock, parts.every]
    for control in (parts.chosen, parts.clock, parts.every):
        control.input(guarded(handlers.show), shown, parts.shown, **QUEUED)
    begun = parts.run.click(guarded(handlers.begin), None, [parts.run, parts.stop], **QUEUED)
    ran = begun.success(
        guarded(handlers.run),
        [parts.strategies, parts.doc_tokens, parts.query_tokens, parts.documents, parts.clock],
        [parts.progress, parts.chosen, parts.live, *parts.shown],
        **lane,
    )
    ran.failure(lambda: "", None, parts.progress, **quiet)
    buttons = [parts.run, parts.stop]
    afterwards(ran, lambda: (gr.update(interactive=True), gr.update(visible=False)), None, buttons, **quiet)
    parts.stop.click(handlers.stop, **quiet)
