"""Word files (.docx) as lines. python-docx finds the parts; what stands in them is read from their XML.

Read as printed: what is tracked as inserted is text, what is tracked as deleted and what is hidden is none.
"""

import io
import re
from collections.abc import Iterator
from typing import Any, Final

import docx
from docx.opc.constants import RELATIONSHIP_TYPE
from docx.oxml import parse_xml
from docx.oxml.ns import qn

from grit_app.documents.read.clean import normalise
from grit_app.documents.read.text.plain import TextLine, table_lines

_P, _TABLE, _ROW, _CELL = (qn(name) for name in ("w:p", "w:tbl", "w:tr", "w:tc"))
_BOX: Final = qn("w:txbxContent")
_LEFT_OUT: Final = {
    qn("w:del"),
    qn("w:moveFrom"),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
}
_SIGNS: Final = {qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
_REFERENCES: Final = {qn("w:footnoteReference"): "footnote", qn("w:endnoteReference"): "endnote"}


def read_word(data: bytes) -> list[tuple[str, list[TextLine]]]:
    """One page: where pages break is known only once the file is printed. Headings tell the place.

    Text boxes and notes stand behind the paragraph that holds them.
    """
    document = docx.Document(io.BytesIO(data))
    reader = _Reader(document)
    return [("1", list(reader.blocks(document.element.body)))]


class _Reader:
    def __init__(self, document: Any) -> None:
        self._styles = {style.style_id: style.name or "" for style in document.styles}
        self._notes = {
            (kind, note.get(qn("w:id"))): note
            for kind in ("footnote", "endnote")
            for relation in document.part.rels.values()
            if relation.reltype == f"{RELATIONSHIP_TYPE.FOOTNOTES.rpartition('/')[0]}/{kind}s"
            for note in parse_xml(relation.target_part.blob)
        }

    def blocks(self, holder: Any) -> Iterator[TextLine]:
        """The lines of paragraphs and tables, whatever wraps them."""
        for item in holder:
            if item.tag == _P:
                yield from self._paragraph(item)
            elif item.tag == _TABLE:
                yield from table_lines([self._cells(row) for row in item.iterchildren(_ROW)])
                for inner in (t for row in item.iterchildren(_ROW) for t in row.iter(_TABLE)):
                    yield from table_lines([self._cells(row) for row in inner.iterchildren(_ROW)])
            elif item.tag not in _LEFT_OUT:
                yield from self.blocks(item)

    def _cells(self, row: Any) -> list[str]:
        """The row's cells; one that spans others has its text in the first of them alone."""
        cells = []
        for cell in row.iter(_CELL):
            if next(cell.iterancestors(_ROW)) is row:
                span = cell.find(f"{qn('w:tcPr')}/{qn('w:gridSpan')}")
                across = int(span.get(qn("w:val"), "1")) if span is not None else 1
                text = " ".join(self._text(p)[0] for p in cell.iter(_P) if next(p.iterancestors(_CELL)) is cell)
                cells += [_plain(text), *[""] * (min(across, 100) - 1)]
        return cells

    def _paragraph(self, paragraph: Any) -> Iterator[TextLine]:
        style = paragraph.find(f"{qn('w:pPr')}/{qn('w:pStyle')}")
        name = self._styles.get(style.get(qn("w:val")), "") if style is not None else ""
        heading = re.match(r"(?:heading|überschrift|titre|título) ?(\d)", name, re.IGNORECASE)
        level = min(6, max(1, int(heading[1]))) if heading else 1 if name == "Title" else 0
        mark = "- " if name.startswith("List") else ""
        text, behind = self._text(paragraph)
        for part in text.split("\n"):
            if part.strip():
                yield TextLine(mark + _plain(part), level)
        for block in behind:
            yield from self.blocks(block)

    def _text(self, paragraph: Any) -> tuple[str, list[Any]]:
        """(its words, the boxes and notes that stand in it)."""
        parts: list[str] = []
        behind: list[Any] = []
        rest = list(paragraph)[::-1]
        while rest:
            item = rest.pop()
            if item.tag in _LEFT_OUT or (item.tag == qn("w:r") and _is_hidden(item)):
                continue
            if item.tag == _BOX:
                behind.append(item)
            elif item.tag == qn("w:t"):
                parts.append(item.text or "")
            elif item.tag in _SIGNS:
                parts.append(_SIGNS[item.tag])
            elif item.tag in _REFERENCES:
                note = self._notes.get((_REFERENCES[item.tag], item.get(qn("w:id"))))
                behind += [note] if note is not None else []
            elif item.tag != qn("w:pPr"):
                rest += list(item)[::-1]
        return "".join(parts), behind


def _is_hidden(run: Any) -> bool:
    hidden = run.find(f"{qn('w:rPr')}/{qn('w:vanish')}")
    return hidden is not None and hidden.get(qn("w:val"), "1") not in ("0", "false")


def _plain(text: str) -> str:
    return " ".join(normalise(text, loose_accents=False).split())
