"""Slides (.pptx) as pages, read by python-pptx."""

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pptx
from pptx.enum.shapes import MSO_SHAPE_TYPE

from grit_app.documents.read.clean import normalise
from grit_app.documents.read.text.plain import TextLine, table_lines


def read_slides(data: bytes) -> list[tuple[str, list[TextLine]]]:
    """A page for each slide: its title as a heading, texts, tables, charts, and the speaker's notes."""
    pages = []
    for number, slide in enumerate(pptx.Presentation(io.BytesIO(data)).slides, 1):
        title = slide.shapes.title
        lines = [TextLine(_plain(title.text), 1)] if title is not None and title.text.strip() else []
        lines += _lines(shape for shape in slide.shapes if title is None or shape.shape_id != title.shape_id)
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            lines += [TextLine(_plain(part)) for part in slide.notes_slide.notes_text_frame.text.split("\n")]
        pages.append((str(number), lines))
    return pages


def _lines(shapes: Iterable[Any]) -> Iterator[TextLine]:
    for shape in shapes:
        if shape.shape_type == MSO_SHAPE_TYPE.GROUP:
            yield from _lines(shape.shapes)
        elif getattr(shape, "has_table", False) and shape.has_table:
            yield from table_lines([[_plain(cell.text) for cell in row.cells] for row in shape.table.rows])
        elif getattr(shape, "has_chart", False) and shape.has_chart:
            with contextlib.suppress(ValueError, KeyError, AttributeError, NotImplementedError):
                yield from list(_chart(shape.chart))  # of a kind that the library does not know: the slide stays
        elif shape.has_text_frame:
            for paragraph in shape.text_frame.paragraphs:
                for text in filter(None, map(_plain, paragraph.text.split("\v"))):
                    yield TextLine(text)


def _chart(chart: Any) -> Iterator[TextLine]:
    """Its title, and its figures as a table: a row for each category, a column for each series."""
    if chart.has_title and chart.chart_title.has_text_frame:
        yield TextLine(_plain(chart.chart_title.text_frame.text))
    for plot in chart.plots:
        names = [str(category) for category in plot.categories]
        series = list(plot.series)
        rows = [[name, *(_figure(one.values, at) for one in series)] for at, name in enumerate(names)]
        yield from table_lines([["", *(_plain(one.name) for one in series)], *rows])


def _figure(values: Sequence[float | None], at: int) -> str:
    value = values[at] if at < len(values) else None
    return "" if value is None else f"{value:.10g}"


def _plain(text: str) -> str:
    text = text.replace("\v", " ")
    return " ".join(normalise(text, loose_accents=False).split())
