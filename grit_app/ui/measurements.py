"""The measured comparison of the Caching tab: recorded results with their hardware, and 'Run here' on this machine."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import gradio as gr
import plotly.graph_objects as go

from grit_app.benchmark import figures, recorded
from grit_app.benchmark.environment import hardware_name
from grit_app.benchmark.latency import Plan, measure
from grit_app.benchmark.recorded import Recording
from grit_app.benchmark.series import rows
from grit_app.benchmark.styles import style_of
from grit_app.errors import InputError
from grit_app.rag.strategies import STRATEGIES
from grit_app.ui import texts
from grit_app.ui.background import Watch
from grit_app.ui.downloads import download_button
from grit_app.ui.engine import Engine
from grit_app.ui.handlers import escape, guarded
from grit_app.ui.sessions import Visitors, session_of

LIVE: Final = "live"
DOC_TOKENS: Final = (256, 512, 1024, 2048, 4096)
QUERY_TOKENS: Final = (16, 64, 256)
DOCUMENTS: Final = (1, 2, 4)
BUDGET_S: Final = 20
LIVE_STRATEGIES: Final = ["rag_doc_query", "prefix_cache", "docs_cache", "docs_query_cache"]
EMPTY: Final = '<p class="quiet">No results yet. Choose a recording, or measure on this machine.</p>'

TABLE_HEAD: Final = (
    *("Strategy", "Documents", "Tokens", "Question", "State", "Prefill → first token", "Question → first token"),
    *("Total", "Floor", "Cached", "Read", "Cache"),
)

Result = dict[str, Any]
"""`{environment, records}` as the benchmark commands write it."""


def choices(recordings: Sequence[Recording], live: Result | None) -> list[tuple[str, str]]:
    """What the list of results offers: recordings by their hardware, then the run on this machine."""
    listed = [(recording.caption, recording.name) for recording in recordings if recording.command == "latency"]
    return listed + ([(f"This machine, just now: {hardware_name()}", LIVE)] if live else [])


def headline(records: Sequence[dict[str, Any]], hardware: str, clock: str) -> str:
    """The finding in a sentence, and on which hardware it was measured."""
    if not records:
        return EMPTY
    sentence = recorded.finding(list(records), clock)
    return f'<p class="finding">{escape(sentence)}</p><p class="quiet">Measured on {escape(hardware)}.</p>'


def charts(records: Sequence[dict[str, Any]], quality: Sequence[dict[str, Any]], clock: str) -> list[go.Figure | None]:
    """All charts that the records can fill, in the order of the page; None where there is nothing to draw."""
    if not records:
        return [None] * 7
    several = len({record["docs"] for record in records}) > 1
    questions = len({record["query_tokens"] for record in records}) > 1
    return [
        figures.ttft_by_document_length(records, clock),
        figures.ttft_by_query_length(records, clock) if questions else None,
        figures.stage_waterfall(records),
        figures.cache_bytes_by_length(records),
        figures.ttft_by_documents(records, clock) if several else None,
        figures.quality_against_ttft(quality, records) if quality else None,
        figures.quality_against_bytes(quality) if quality else None,
    ]


def as_csv(records: Sequence[dict[str, Any]]) -> str:
    """Flat rows with a column for every number that any record has."""
    flat = rows(records)
    names = list(dict.fromkeys(name for row in flat for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def numbers_table(records: Sequence[dict[str, Any]]) -> str:
    """The main numbers as an HTML table: medians with their 10–90 % band."""
    body = []
    for r in records:
        times = [f"{r[key]['median']:,.1f} <small>({r[key]['p10']:,.1f}–{r[key]['p90']:,.1f})</small>"
                 for key in ("prefill_ttft_ms", "question_ttft_ms", "total_ms")]  # fmt: skip
        cells = [f"{r['docs']}", f"{r['doc_tokens']:,}", f"{r['query_tokens']:,}", escape(r["state"]), *times,
                 f"{r['floor_ms']['median']:,.1f}", f"{r['cached_tokens']:,}", f"{r['computed_tokens']:,}",
                 f"{r['cache_bytes'] / 1e6:,.2f} MB"]  # fmt: skip
        name = (
            f'<th scope="row">{escape(style_of(r["strategy"]).label)}<span class="lane-name">'
            f"{escape(r['strategy'])}</span></th>"
        )
        body.append(f"<tr>{name}{''.join(f'<td class=num>{cell}</td>' for cell in cells)}</tr>")
    top = "".join(f'<th scope="col">{name}</th>' for name in TABLE_HEAD)
    return (
        f'<div class="scroll"><table class="answers numbers"><thead><tr>{top}</tr></thead><tbody>'
        f"{''.join(body)}</tbody></table></div>"
        '<p class="quiet">Times in milliseconds: median (10–90 %).</p>'
    )


def build(engine: Engine, visitors: Visitors) -> None:
    """Layout above, wiring below. Must be called inside the tab."""
    recordings = recorded.load_all()
    quality = [record for recording in recordings if recording.command == "quality" for record in recording.records]
    offered = choices(recordings, None)
    first = offered[0][1] if offered else None
    by_name = {recording.name: recording for recording in recordings if recording.command == "latency"}

    def result_of(name: str | None, live: Result | None) -> tuple[list[dict[str, Any]], dict[str, Any], str]:
        if name == LIVE and live:
            return live["records"], live["environment"], hardware_name()
        if name in by_name:
            return by_name[name].records, by_name[name].environment, by_name[name].caption
        return [], {}, ""

    def views(name: str | None, live: Result | None, clock: str) -> tuple[Any, ...]:
        records, environment, hardware = result_of(name, live)
        plots = [gr.Plot(value=figure, visible=figure is not None) for figure in charts(records, quality, clock)]
        raw = json.dumps({"environment": environment, "records": records}, indent=1) if records else ""
        return (
            headline(records, hardware, clock),
            *plots,
            numbers_table(records) if records else EMPTY,
            environment,
            raw,
            as_csv(records) if records else "",
        )

    start = views(first, None, "prefill_ttft_ms")
    gr.HTML('<h3 class="part">All strategies, measured</h3>')
    with gr.Row(elem_classes="columns"):
        chosen = gr.Dropdown(
            choices=offered,
            value=first,
            label="Results",
            scale=5,
            min_width=260,
            elem_id="results",
            visible=bool(offered),
        )
        clock = gr.Radio(
            [
                ("Prefill → first token", "prefill_ttft_ms"),
                ("Question → first token", "question_ttft_ms"),
                ("Total", "total_ms"),
            ],
            value="prefill_ttft_ms",
            label="Clock",
            scale=6,
            min_width=260,
        )
    with gr.Accordion("Measure on this machine", open=not offered, elem_id="measure-here"):
        strategies = gr.CheckboxGroup(
            [(style_of(name).label.capitalize(), name) for name in STRATEGIES],
            value=LIVE_STRATEGIES,
            label="Strategies",
        )
        with gr.Row():
            doc_tokens = gr.CheckboxGroup(
                [(f"{n:,}", n) for n in DOC_TOKENS], value=[256, 1024, 2048], label="Document tokens", min_width=240
            )
            query_tokens = gr.CheckboxGroup(
                [(f"{n:,}", n) for n in QUERY_TOKENS], value=[16], label="Question tokens", min_width=200
            )
            documents = gr.CheckboxGroup([(str(n), n) for n in DOCUMENTS], value=[1], label="Documents", min_width=160)
        with gr.Row(elem_classes="ask-row"):
            run = gr.Button(
                f"Run here (about {BUDGET_S} s)", variant="primary", elem_id="run-here", scale=0, min_width=230
            )
            stop = gr.Button(
                "Stop",
                variant="stop",
                visible=False,
                elem_id="run-stop",
                elem_classes="stop-button",
                scale=0,
                min_width=100,
            )
        progress = gr.HTML(label="Progress", elem_id="run-progress")
    summary = gr.HTML(start[0], label="Finding", elem_id="finding")
    plots = []
    names = [
        "Document length",
        "Question length",
        "Stages",
        "Cache on disk",
        "Number of documents",
        "Quality and time",
        "Quality and bytes",
    ]
    with gr.Row(elem_classes="columns charts"):
        for name, plot in zip(names, start[1:8], strict=True):
            plots.append(gr.Plot(value=plot.value, visible=plot.visible, label=name, show_label=False, min_width=420))
    gr.Markdown(texts.CACHING_METHOD, elem_classes="quiet method")
    with gr.Accordion("Raw numbers", open=False, elem_id="raw-numbers"):
        table = gr.HTML(start[8], label="Numbers")
        with gr.Row(elem_classes="ask-row"):
            as_json_file = download_button("Download JSON", "caching.json", "application/json", "download-json")
            as_csv_file = download_button("Download CSV", "caching.csv", "text/csv", "download-csv")
    with gr.Accordion("Environment of these results", open=False):
        environment = gr.JSON(start[9], label="Environment", show_label=False)
    live = gr.State(None)
    as_json_file.value.value, as_csv_file.value.value = start[10], start[11]
    outputs = [summary, *plots, table, environment, as_json_file.value, as_csv_file.value]

    @guarded
    def show(name: str | None, live: Result | None, clock: str) -> tuple[Any, ...]:
        return views(name, live, clock)

    def begin(request: gr.Request) -> tuple[Any, Any]:
        visitors.begin_run(session_of(request), "measure")
        return gr.update(interactive=False), gr.update(visible=True)

    def halt(request: gr.Request) -> None:
        visitors.stop_run(session_of(request), "measure")

    @guarded
    def run_here(
        strategies: list[str],
        doc_tokens: list[int],
        query_tokens: list[int],
        documents: list[int],
        clock: str,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        """Outputs: progress, list of results, live result, then those of `views`."""
        if not (strategies and doc_tokens and query_tokens and documents):
            raise InputError("Choose at least one strategy, document length, question length and number of documents.")
        cancel = visitors.current_run(session_of(request), "measure")
        unchanged = [gr.skip()] * len(outputs)
        yield progress_line(0, 0, "waiting for the model"), gr.skip(), gr.skip(), *unchanged
        plan = Plan(
            strategies=tuple(dict.fromkeys(["rag_doc_query", *strategies])),
            doc_tokens=sorted(doc_tokens),
            query_tokens=sorted(query_tokens),
            docs=sorted(documents),
            states=("warm",),
            seconds=BUDGET_S,
        )
        expected = len(plan.strategies) * len(doc_tokens) * len(query_tokens) * len(documents)
        records: list[dict[str, Any]] = []
        with engine.using(cancel) as model:
            yield progress_line(0, expected, "measuring the machine's own rates"), gr.skip(), gr.skip(), *unchanged
            watch: Watch[dict[str, Any], Result] = Watch(
                lambda report: measure(model, plan, on_record=report, cancel=cancel), cancel, tick_s=0.3
            )
            for news in watch:
                if news:
                    records += news
                    partial = {"environment": {}, "records": records}
                    words = f"{records[-1]['doc_tokens']:,} document tokens done"
                    yield (
                        progress_line(len(records), expected, words),
                        gr.skip(),
                        gr.skip(),
                        *views(LIVE, partial, clock),
                    )
        result = watch.result
        if not result["records"]:
            yield progress_line(0, 0, "stopped before anything was measured"), gr.skip(), gr.skip(), *unchanged
            return
        listed = gr.Dropdown(choices=choices(recordings, result), value=LIVE, visible=True)
        left = result["environment"].get("left_out") or []
        note = "stopped by you; what was measured is shown" if result["environment"]["cancelled"] else "done"
        yield progress_line(expected, expected, "; ".join([note, *left])), listed, result, *views(LIVE, result, clock)

    quiet: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    lane: dict[str, Any] = {"concurrency_id": "model", "show_progress": "hidden", "api_visibility": "private"}
    chosen.input(show, [chosen, live, clock], outputs, **quiet)
    clock.input(show, [chosen, live, clock], outputs, **quiet)
    ran = run.click(begin, None, [run, stop], **quiet).then(
        run_here, [strategies, doc_tokens, query_tokens, documents, clock], [progress, chosen, live, *outputs], **lane
    )
    ran.then(lambda: (gr.update(interactive=True), gr.update(visible=False)), None, [run, stop], **quiet)
    stop.click(halt, **quiet)


def progress_line(done: int, expected: int, words: str) -> str:
    """Where the measurement stands."""
    percent = round(100 * done / expected) if expected else 0
    count = f"{done} of {expected} points · " if expected else ""
    return (
        f'<div class="meter"><span role="status">{count}{escape(words)}</span>'
        '<span class="bar" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><span style="width:{percent}%"></span></span></div>'
    )
