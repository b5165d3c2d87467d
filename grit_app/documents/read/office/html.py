"""Web pages as lines: headings, paragraphs, list items, rows of tables, code; parsed by lxml."""

import re
from typing import Any, Final

from lxml import html

from grit_app.documents.read.clean import normalise
from grit_app.documents.read.text.encodings import decode
from grit_app.documents.read.text.plain import TextLine, code_lines, table_lines

_CHARSET: Final = re.compile(rb"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_LEFT_OUT: Final = {
    "script",
    "style",
    "template",
    "noscript",
    "head",
    "svg",
    "math",
    "nav",
    "select",
    "button",
    "iframe",
}
_BLOCKS: Final = {
    *("p", "div", "li", "dt", "dd", "section", "article", "main", "header", "footer", "aside", "blockquote", "figure"),
    *("figcaption", "ul", "ol", "dl", "body", "html", "form", "fieldset", "address", "details", "summary", "caption"),
    *("hr", "br", "td", "th", "tr", "tbody", "thead"),
}
_MARKUP: Final = re.compile(r"^\s*<\?xml[^>]*\?>")
MAX_DEPTH: Final = 150


def html_text(data: bytes) -> str:
    """The characters of a page, in the encoding that it names, or else in the one that its letters tell."""
    named = _CHARSET.search(data[:4096])
    try:
        decoded = decode(data, named[1].decode("ascii") if named else None)
    except LookupError:
        decoded = decode(data)
    if decoded is None:
        raise ValueError("no text")
    return decoded.text


def read_html(text: str) -> list[TextLine]:
    """The lines of a page."""
    plain = _MARKUP.sub("", text)
    if not plain.strip():
        return []
    tree = html.document_fromstring(plain, parser=html.HTMLParser(huge_tree=False, no_network=True))
    walker = _Walker()
    title = tree.findtext(".//title")
    if title and not tree.findall(".//h1"):
        walker.lines.append(TextLine(_plain(title), level=1))
    walker.walk(tree, 0)
    walker.end()
    return walker.lines


def _plain(text: str) -> str:
    return " ".join(normalise(text, loose_accents=False).split())


class _Walker:
    def __init__(self) -> None:
        self.lines: list[TextLine] = []
        self._open: list[str] = []
        self._mark = ""

    def end(self, level: int = 0) -> None:
        """Ends the line that is open."""
        text = _plain("".join(self._open))
        self._open = []
        if text:
            self.lines.append(TextLine(self._mark + text, level))
            self._mark = ""

    def walk(self, node: Any, depth: int) -> None:
        tag = node.tag if isinstance(node.tag, str) else ""
        if not tag or tag in _LEFT_OUT or node.get("hidden") is not None or depth > MAX_DEPTH:
            return
        if tag == "table" and not node.findall(".//table"):
            self.end()
            self._table(node)
        elif tag == "pre":
            self.end()
            self.lines += code_lines(node.text_content().split("\n"))
        else:
            level = int(tag[1]) if re.fullmatch("h[1-6]", tag) else 0
            is_block = bool(level) or tag in _BLOCKS or tag == "table"
            if is_block:
                self.end()
            if tag == "li":
                self._mark = "- "
            self._open.append(node.text or "")
            if tag == "img":
                self._open.append(node.get("alt") or "")
            for child in node:
                self.walk(child, depth + 1)
                self._open.append(child.tail or "")
            if is_block:
                self.end(level)

    def _table(self, node: Any) -> None:
        caption = node.find("caption")
        if caption is not None and _plain(caption.text_content()):
            self.lines.append(TextLine(_plain(caption.text_content())))
        rows = [[_plain(c.text_content()) for c in row if c.tag in ("td", "th")] for row in node.iter("tr")]
        if max(map(len, rows), default=0) > 1:
            self.lines += table_lines(rows)
        else:
            self.lines += [TextLine(cell) for row in rows for cell in row]
