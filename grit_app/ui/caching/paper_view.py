"""The Caching tab's Paper section: the published tables with this project's recorded numbers beside, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import gradio as gr
import plotly.graph_objects as go

from grit_app.benchmark.show import figures
from grit_app.benchmark.show.paper import FOLDER, NOT_MEASURED, Section, Table, load_sections, published, times
from grit_app.ui.base.handlers import escape

INTRO: Final = (
    "Each table of the paper, and what was measured here by the command under it. Heights are not comparable between "
    "models of such different sizes; directions inside one table are."
)


def build() -> None:
    """Must be called inside the tab."""
    gr.HTML('<h3 class="part">Paper</h3>')
    gr.HTML(intro(), label="About the paper's tables")
    for section in load_sections():
        with gr.Accordion(section.title, open=False, elem_id=f"paper-{section.name}"):
            gr.HTML(section_html(section), label=section.title)
            if records := times(section):
                with gr.Row(elem_classes="columns charts"):
                    for label, figure in charts(records).items():
                        gr.Plot(figure, label=label, show_label=False, min_width=420)


def charts(records: Sequence[dict[str, Any]]) -> dict[str, go.Figure]:
    """The paper's two figures, over document and question length: time from the question to its 16th token."""
    return {
        "Time over document length": figures.ttft_by_document_length(records, "total_ms"),
        "Time over question length": figures.ttft_by_query_length(records, "total_ms"),
    }


def intro(folder: Path = FOLDER) -> str:
    return f'<p class="quiet">{escape(INTRO)} Published rows: {escape(published(folder)["source"])}.</p>'


def section_html(section: Section) -> str:
    """All tables of a section; one without a recording names the command that makes it."""
    missing = (
        ""
        if section.is_recorded
        else f'<p class="quiet">Not recorded yet. To measure it: <code>{escape(section.command)}</code></p>'
    )
    return missing + "".join(_table(table) for table in section.tables)


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    body = "".join(f"<tr>{_cells(cells)}</tr>" for cells in table.rows)
    notes = "".join(f'<p class="quiet">{escape(note.replace("`", ""))}</p>' for note in table.notes)
    return (
        f'<h4 class="paper-table">{escape(table.title)}</h4><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(table.title)}"><table class="answers numbers"><thead><tr>{head}</tr></thead><tbody>{body}'
        f"</tbody></table></div>{notes}"
    )


def _cells(cells: Sequence[str]) -> str:
    first, *others = cells
    shown = [
        f'<td class="num"><i class="quiet">{cell}</i></td>'
        if cell == NOT_MEASURED
        else f'<td class="num">{escape(cell)}</td>'
        for cell in others
    ]
    return f'<th scope="row">{escape(first)}</th>{"".join(shown)}'
