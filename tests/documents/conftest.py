"""Shared by the tests of documents: PDF files made on the spot, and sentences to fill them with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from grit_app.documents.document import Document, Limits
from grit_app.documents.read.pdf.reader import read_pdf
from tests.documents.pdf_maker import Pdf

RIVER = (
    "The river rises in the northern hills and crosses three provinces before it reaches the sea. Boats carried grain "
    "along it for two hundred years. When the railway came the harbours fell silent, and the mills on its banks were "
    "sold. Today the old towpath is a walk that people from the whole region enjoy, and herons fish where barges lay."
)
HONEY = (
    "Bees gather nectar from flowers within two miles of their hive. Workers pass it from mouth to mouth until most of "
    "the water is gone. They store it in cells of wax and close each cell with a lid. A strong colony can make forty "
    "kilograms in a good summer, which is more than it needs for the winter months."
)


@pytest.fixture
def read_made(tmp_path: Path) -> Callable[..., Document]:
    """`read_made(pdf)` → the document that reading the made file gives, in this process."""

    def read(pdf: Pdf | bytes, **options: object) -> Document:
        path = tmp_path / "made.pdf"
        path.write_bytes(pdf if isinstance(pdf, bytes) else pdf.bytes())
        return read_pdf(path, "made.pdf", "0" * 64, **{"limits": Limits()} | options)  # type: ignore[arg-type]

    return read
