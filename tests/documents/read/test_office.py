"""Files of office programs, web pages, books and mails: their words, headings and tables; bombs end in a sentence."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import docx
import openpyxl
import pptx
import pytest

from grit_app.documents.document import Document
from grit_app.documents.read.reading import read_document
from grit_app.errors import DocumentError

PAGE = (
    "<html><head><title>Ferry</title><meta charset='utf-8'><style>p{}</style></head><body><h1>The ferry</h1><p>It "
    "sails at <b>nine</b>.<script>alert(1)</script></p><h2>Prices</h2><table><tr><th>Ticket</th><th>Cost</th></tr>"
    "<tr><td>Adult</td><td>7.50</td></tr></table><pre>  a = 1\n    b = 2</pre><ul><li>Dogs travel free</li></ul>"
    "</body></html>"
)
PAGE_TEXT = "The ferry\nIt sails at nine.\nPrices\nTicket | Cost\nAdult | 7.50\na = 1\n  b = 2\n- Dogs travel free"


def word() -> bytes:
    made, out = docx.Document(), io.BytesIO()
    made.add_heading("The ferry", 1)
    made.add_paragraph("It sails at nine.")
    table = made.add_table(rows=2, cols=2)
    for row, cells in zip(table.rows, [("Ticket", "Cost"), ("Adult", "7.50")], strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    made.save(out)
    return out.getvalue()


def slides() -> bytes:
    made, out = pptx.Presentation(), io.BytesIO()
    for title, text in (("The ferry", "It sails at nine."), ("Prices", "Adults pay 7.50.")):
        slide = made.slides.add_slide(made.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = title, text
    made.save(out)
    return out.getvalue()


def sheets() -> bytes:
    made, out = openpyxl.Workbook(), io.BytesIO()
    made.active.title = "Prices"
    for row in (("Ticket", "Cost"), ("Adult", 7.5), ("Child", 3)):
        made.active.append(row)
    made.save(out)
    return out.getvalue()


def book() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("META-INF/container.xml", '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
                         '<rootfiles><rootfile full-path="OPS/book.opf"/></rootfiles></container>')  # fmt: skip
        archive.writestr("OPS/book.opf", '<package xmlns="http://www.idpf.org/2007/opf"><manifest><item id="b" '
                         'href="two.xhtml"/><item id="a" href="one.xhtml"/></manifest><spine><itemref idref="a"/>'
                         '<itemref idref="b"/></spine></package>')  # fmt: skip
        archive.writestr("OPS/one.xhtml", '<?xml version="1.0"?><html><h1>One</h1><p>Nine sails.</p></html>')
        archive.writestr("OPS/two.xhtml", "<html><body><h1>Two</h1><p>Ten sails.</p></body></html>")
    return out.getvalue()


def mail() -> bytes:
    made = EmailMessage()
    made["Subject"], made["From"], made["To"] = "Ferry times", "Ada <ada@example.org>", "Ben <ben@example.org>"
    made.set_content("The ferry sails at nine.\n\nAda")
    made.add_attachment(b"1", maintype="application", subtype="pdf", filename="plan.pdf")
    return made.as_bytes()


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str, bytes], Document]:
    def made(name: str, data: bytes) -> Document:
        (tmp_path / name).write_bytes(data)
        return read_document(tmp_path / name)

    return made


def test_words_headings_rows_and_places(read: Callable[[str, bytes], Document]) -> None:
    """A citation names what the kind of file has: a heading, a slide, a sheet, a chapter."""
    assert read("a.html", PAGE.encode()).text == PAGE_TEXT
    found = read("a.docx", word())
    assert found.text == "The ferry\nIt sails at nine.\nTicket | Cost\nAdult | 7.50"
    assert found.headings == ((0, "The ferry"),) and found.tables[0].heads == ("Ticket", "Cost")
    found = read("a.pptx", slides())
    assert found.text == "The ferry\nIt sails at nine.\nPrices\nAdults pay 7.50."
    assert [page.label for page in found.pages] == ["1", "2"]
    found = read("a.xlsx", sheets())
    assert found.text == "Prices\nTicket | Cost\nAdult | 7.5\nChild | 3" and found.pages[0].label == "Prices"
    assert read("a.epub", book()).text == "One\nNine sails.\nTwo\nTen sails."
    found = read("a.eml", mail())
    assert found.text.startswith("Ferry times\nFrom: Ada <ada@example.org>\nTo: Ben <ben@example.org>\n")
    assert "The ferry sails at nine." in found.text and found.text.endswith("Attached: plan.pdf")


def zipped(name: str, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (zipped("word/media/a.bin", bytes(401_000_000)), "unpacks to more than 400 MB"),
        (zipped("word/document.xml", b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>'), "entities"),
        (zipped("a.txt", b"a"), "damaged"),
        (word()[:900], "damaged"),
    ],
    ids=["zip bomb", "xml bomb", "no document", "cut"],
)
def test_bombs_and_damage_end_in_a_sentence(read: Callable[[str, bytes], Document], data: bytes, sentence: str) -> None:
    with pytest.raises(DocumentError, match=rf"^a\.docx .*{sentence}.*\.$"):
        read("a.docx", data)
