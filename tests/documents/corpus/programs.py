"""Files of office programs, web pages, books and mails that readers get wrong, with their texts: see make.py."""

from __future__ import annotations

import io
import zipfile

import docx
import pptx
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

_W = nsdecls("w")
_NOTES = (
    f'<w:footnotes {_W}><w:footnote w:type="separator" w:id="-1"><w:p><w:r><w:separator/></w:r></w:p></w:footnote>'
    '<w:footnote w:id="2"><w:p><w:r><w:t>By lightning, says Ada.</w:t></w:r></w:p></w:footnote></w:footnotes>'
)


def _saved(made: object) -> bytes:
    out = io.BytesIO()
    made.save(out)  # type: ignore[attr-defined]
    return out.getvalue()


def tracked() -> bytes:
    """Changes that are tracked, controls, links, a text box, hidden words, and signs that are no letters."""
    made = docx.Document()
    for before, inner, after in (
        ("The fee is ", "<w:ins {}><w:r><w:t>twelve</w:t></w:r></w:ins>", " crowns."),
        ("It is ", "<w:del {}><w:r><w:delText>not </w:delText></w:r></w:del>", "open."),
        ("Owner: ", "<w:sdt {}><w:sdtContent><w:r><w:t>Iris Lund</w:t></w:r></w:sdtContent></w:sdt>", ""),
        ("See ", '<w:hyperlink {} w:anchor="x"><w:r><w:t>the page</w:t></w:r></w:hyperlink>', " for more."),
        ("A box.", '<w:r {} xmlns:v="urn:schemas-microsoft-com:vml"><w:pict><v:shape><v:textbox><w:txbxContent><w:p>'
         "<w:r><w:t>Boxed words.</w:t></w:r></w:p></w:txbxContent></v:textbox></v:shape></w:pict></w:r>", ""),
        ("Seen.", "<w:r {}><w:rPr><w:vanish/></w:rPr><w:t> Unseen.</w:t></w:r>", ""),
        ("non", "<w:r {}><w:noBreakHyphen/><w:t>stop</w:t><w:br/><w:t>end</w:t></w:r>", ""),
    ):  # fmt: skip
        paragraph = made.add_paragraph(before)
        paragraph._p.append(parse_xml(inner.format(_W)))
        paragraph.add_run(after)
    table = made.add_table(2, 3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "Ticket"
    table.cell(0, 2).text = "Cost"
    for cell, text in zip(table.rows[1].cells, ("Adult", "day", "7"), strict=True):
        cell.text = text
    return _saved(made)


TRACKED = (
    "The fee is twelve crowns.\nIt is open.\nOwner: Iris Lund\nSee the page for more.\nA box.\nBoxed words.\nSeen.\n"
    "non-stop\nend\nTicket | Cost\nAdult | day | 7"
)


def noted() -> bytes:
    """A footnote, which stands in a part of its own."""
    made = docx.Document()
    paragraph = made.add_paragraph("The mill burned")
    paragraph._p.append(parse_xml(f'<w:r {_W}><w:footnoteReference w:id="2"/></w:r>'))
    paragraph.add_run(" in 1931.")
    out, kind = io.BytesIO(), "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    more = {
        "[Content_Types].xml": f'<Override PartName="/word/footnotes.xml" ContentType="{kind}"/></Types>',
        "word/_rels/document.xml.rels": f'<Relationship Id="n" Type="{relation}" Target="footnotes.xml"/>'
        "</Relationships>",
    }
    with zipfile.ZipFile(io.BytesIO(_saved(made))) as plain, zipfile.ZipFile(out, "w") as archive:
        for name in plain.namelist():
            data = plain.read(name)
            if name in more:
                data = data.replace(more[name][more[name].rindex("</") :].encode(), more[name].encode())
            archive.writestr(name, data)
        archive.writestr("word/footnotes.xml", _NOTES)
    return out.getvalue()


def slide() -> bytes:
    """Lines broken inside a paragraph, a group, a chart."""
    made = pptx.Presentation()
    one = made.slides.add_slide(made.slide_layouts[5])
    one.shapes.title.text = "Ferry\vtimes"
    one.shapes.add_group_shape().shapes.add_textbox(0, 0, Inches(2), Inches(1)).text_frame.text = "In a group"
    one.shapes.add_textbox(0, 0, Inches(2), Inches(1)).text_frame.text = "First\vsecond"
    figures = CategoryChartData()
    figures.categories = ["North", "South"]
    figures.add_series("Ships", (3, 5.5))
    chart = one.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(3), Inches(3), figures).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "Ships by harbour"
    return _saved(made)


def book(*, namespace: bool, hrefs: tuple[str, str]) -> bytes:
    """Two chapters of which the manifest tells in its own way, a picture and a chapter that is not there."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="OEBPS/content.opf"/></container>')
        chapters = [(f"c{i}", href, "application/xhtml+xml") for i, href in enumerate((*hrefs, "gone.xhtml"))]
        items = [("cover", "cover.svg", "image/svg+xml"), *chapters]
        archive.writestr(
            "OEBPS/content.opf",
            ('<package xmlns="http://www.idpf.org/2007/opf"><manifest>' if namespace else "<package><manifest>")
            + "".join(f'<item id="{i}" href="{href}" media-type="{kind}"/>' for i, href, kind in items)
            + "</manifest><spine>"
            + "".join(f'<itemref idref="{i}"/>' for i in (*(one[0] for one in items), "nobody"))
            + "</spine></package>",
        )
        archive.writestr("OEBPS/cover.svg", "<svg xmlns='http://www.w3.org/2000/svg'><text>x</text></svg>")
        archive.writestr("OEBPS/Text/chapter 1.xhtml", "<html><body><h1>One</h1><p>Nine sails.</p></body></html>")
        archive.writestr("Other/two.xhtml", "<html><body><h1>Two</h1><p>Ten sails.</p></body></html>")
    return out.getvalue()


BOOK = "One\nNine sails.\nTwo\nTen sails."
UNSEEN = (
    '<h1>Dam</h1><p style="display: none">No.</p><p style="visibility:hidden">No.</p><p hidden>No.</p>'
    "<script>1</script>"
    "<table><tr><td><table><tr><td>A</td><td>1</td></tr></table></td><td>Beside</td></tr></table><p>har&shy;bour</p>"
)
SPANS = (
    "<table><tr><th rowspan=2>Who</th><th colspan=2>Fee</th></tr><tr><th>Day</th><th>Week</th></tr>"
    "<tr><td>Adult</td><td>3</td><td>9</td></tr></table>"
)
ATTACHED = b"""From: =?utf-8?q?J=C3=B6rg?= <j@example.org>
Subject: =?windows-1251?B?zvL35fI=?=
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="m"

--m
Content-Type: multipart/alternative; boundary="a"

--a
Content-Type: text/plain; charset="koi8-r"; format=flowed
Content-Transfer-Encoding: quoted-printable

=EB=CC=C0=DE =20
=D5 =E1=C4=D9.
--a
Content-Type: text/html; charset="koi8-r"

<p>x</p>
--a--
--m
Content-Type: message/rfc822
Content-Disposition: attachment

Subject: Inner mail

The inner keeper is Ada.
--m
Content-Type: application/pdf
Content-Disposition: attachment; filename*=utf-8''%C5%81.pdf

x
--m--
"""
LETTER = (
    "From: a@example.org\nSubject: Hi\nContent-Type: text/plain{}\nContent-Transfer-Encoding: 8bit\n\nCafé Zürich.\n"
)
LETTER_TEXT = "Hi\nFrom: a@example.org\nCafé Zürich."

FILES: dict[str, tuple[bytes, str]] = {
    "tracked_changes.docx": (tracked(), TRACKED),
    "footnote.docx": (noted(), "The mill burned in 1931.\nBy lightning, says Ada."),
    "line_breaks_and_chart.pptx": (
        slide(),
        "Ferry times\nIn a group\nFirst\nsecond\nShips by harbour\nShips\nNorth | 3\nSouth | 5.5",
    ),
    "odd_paths.epub": (book(namespace=True, hrefs=("Text/chapter%201.xhtml", "../Other/two.xhtml#part")), BOOK),
    "paths_of_windows.epub": (book(namespace=False, hrefs=("text\\chapter 1.xhtml", "/Other/two.xhtml")), BOOK),
    "unseen.html": (UNSEEN.encode(), "Dam\nA | 1\nBeside\nharbour"),
    "spanning_cells.html": (SPANS.encode(), "Who | Fee\nDay | Week\nAdult | 3 | 9"),
    "windows_called_latin.html": (
        '<meta charset="iso-8859-1"><p>Größe “ok”</p>'.encode("cp1252"),
        "Größe “ok”",
    ),
    "called_utf16.html": ('<meta charset="utf-16"><p>Łódź</p>'.encode(), "Łódź"),
    "attached_mail.eml": (
        ATTACHED,
        "Отчет\nFrom: Jörg <j@example.org>\nКлюч у Ады.\nInner mail\nThe inner keeper is Ada.\nAttached: Ł.pdf",
    ),
    "unknown_charset.eml": (LETTER.format('; charset="unknown-8bit"').encode(), LETTER_TEXT),
    "no_charset.eml": (LETTER.format("").encode(), LETTER_TEXT),
}
