"""Word files (.docx) as lines, read by python-docx."""

import io
import re

import docx
from docx.table import Table

from grit_app.documents.read.clean import normalise
from grit_app.documents.read.text.plain import TextLine, table_lines


def read_word(data: bytes) -> list[tuple[str, list[TextLine]]]:
    """One page: where pages break is known only once the file is printed. Headings tell the place."""
    lines: list[TextLine] = []
    for block in docx.Document(io.BytesIO(data)).iter_inner_content():
        if isinstance(block, Table):
            lines += table_lines([[_plain(cell.text) for cell in row.cells] for row in block.rows])
            continue
        style = block.style.name or "" if block.style is not None else ""
        heading = re.match(r"(?:heading|überschrift|titre|título) ?(\d)", style, re.IGNORECASE)
        level = min(6, max(1, int(heading[1]))) if heading else 1 if style == "Title" else 0
        mark = "- " if style.startswith("List") else ""
        lines += [TextLine(mark + _plain(part), level) for part in block.text.split("\n") if part.strip()]
    return [("1", lines)]


def _plain(text: str) -> str:
    return " ".join(normalise(text, loose_accents=False).split())
