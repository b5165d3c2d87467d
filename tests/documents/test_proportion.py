"""Four times the pages take four times the work, counted and not timed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest

from grit_app.documents.chunking import chunk_document
from grit_app.documents.document import Document, Limits, Page, Row, Table
from grit_app.documents.read.hyphens import HyphenMender
from grit_app.documents.read.text.plain import read_text
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import Pdf, wrap


def steps(work: Callable[[], Any]) -> int:
    """Instructions of the interpreter that the work takes in code of this project."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if "grit_app" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def book(pages: int) -> Pdf:
    pdf = Pdf()
    for number in range(pages):
        page = pdf.page()
        page.text(72, 760, "Report of the harbour", 9)
        page.lines(72, 700, wrap(f"{number}. {RIVER}", 460))
        page.text(300, 30, str(number + 1), 9)
    return pdf


def test_a_pdf_is_read_in_proportion_to_its_pages(read_made: Callable[..., Document]) -> None:
    few, many = (steps(partial(read_made, book(n), limits=Limits())) for n in (8, 32))
    assert 3 * few < many < 4.4 * few


def long_document(pages: int) -> Document:
    text, places, tables = "", [], []
    for number in range(pages):
        start = len(text)
        text += f"{number} {HONEY}\nOats | {number}\n"
        row = len(text) - 8
        tables.append(Table("Oats", ("", ""), (Row(row, len(text) - 1, ()),)))
        places.append(Page(number, str(number + 1), start, len(text)))
    return Document("a.pdf", "0" * 64, "pdf", tuple(places), text, tables=tuple(tables))


def test_passages_are_cut_in_proportion_to_their_number() -> None:
    """Each looked at every page and every table of its document: half a minute for ten thousand pages."""
    few, many = (long_document(n) for n in (40, 160))
    counts = [steps(partial(chunk_document, d, lambda text: len(text.split()), 40)) for d in (few, many)]
    assert 3 * counts[0] < counts[1] < 4.4 * counts[0]


def test_a_paragraph_grows_in_proportion_to_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text without an empty line was copied for each of its lines: ten megabytes were never read."""
    copied = 0
    continued = HyphenMender.continued

    def counted(self: HyphenMender, left: str, right: str) -> str:
        nonlocal copied
        copied += len(left) + len(right)
        return continued(self, left, right)

    monkeypatch.setattr(HyphenMender, "continued", counted)
    body = wrap(f"{RIVER} {HONEY} " * 200, 350)
    read = read_text("\n".join(body), "a.txt", "0" * 64)
    assert read.text == " ".join(body) and len(body) > 1_000
    assert copied < 40 * len(read.text)  # a line and the end of the paragraph before it, for each line
