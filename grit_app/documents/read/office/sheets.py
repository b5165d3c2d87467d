"""Workbooks (.xlsx) as pages of rows, read by openpyxl."""

import datetime as dt
import io
from typing import Any

import openpyxl

from grit_app.documents.read.text.plain import TextLine, table_lines


def read_sheets(data: bytes) -> list[tuple[str, list[TextLine]]]:
    """A page for each sheet, labelled with its name; the first row that is not empty has the heads of the columns."""
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    pages = []
    for sheet in book.worksheets:
        rows = [[_shown(value) for value in row] for row in sheet.iter_rows(values_only=True)]
        pages.append((sheet.title, [TextLine(sheet.title, 1), *table_lines(rows)]))
    return pages


def _shown(value: Any) -> str:
    """A cell's value as the sheet shows it, as far as that is known without its format."""
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        value = value.date()
    if isinstance(value, float):
        return f"{value:.10g}"
    return "" if value is None else " ".join(str(value).split())
