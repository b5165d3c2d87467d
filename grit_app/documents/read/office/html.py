"""Web pages as lines: headings, paragraphs, list items, rows of tables, code; parsed by lxml."""

import contextlib
import re
from typing import Any, Final

from lxml import html

from grit_app.documents.read.clean import normalise
from grit_app.documents.read.text.encodings import decode
from grit_app.documents.read.text.plain import TextLine, code_lines, table_lines

_CHARSET: Final = re.compile(rb"(?:charset|<\?xml[^>]*encoding)\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
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
_MARKS: Final = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
# What writers mean by a name, after the WHATWG's standard of encodings: programs of Windows call theirs by ISO's names,
# and who can read the name of UTF-16 in single bytes does not read UTF-16.
_MEANT: Final = {
    **dict.fromkeys(("iso-8859-1", "latin1", "iso8859-1", "us-ascii", "ascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "x-sjis", "shift-jis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "ksc5601"), "cp949"),
    **dict.fromkeys(("utf-16", "utf-16le", "utf-16be"), "utf-8"),
    "iso-8859-9": "cp1254", "iso-8859-11": "cp874", "tis-620": "cp874", "big5": "big5hkscs",
}  # fmt: skip
_UNSEEN: Final = re.compile(r"(display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)
MOST_SPANNED: Final = 100
_MARKUP: Final = re.compile(r"^\s*<\?xml[^>]*\?>")
MAX_DEPTH: Final = 150


def html_text(data: bytes) -> str:
    """The characters of a page, in the encoding that it names, or else in the one that its letters tell."""
    named = _CHARSET.search(data[:4096])
    return text_of(data, named[1].decode("ascii", "replace") if named else "")


def text_of(data: bytes, charset: str) -> str:
    """The characters of bytes that name a character set, which they may not know or not be written in.

    Raises ValueError if they are no text.
    """
    name = charset.strip().casefold()
    named = None
    with contextlib.suppress(LookupError):
        named = decode(data, _MEANT.get(name, name)) if name and not data.startswith(_MARKS) else None
    decoded = named if named is not None and not named.lost else decode(data) or named
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


def _is_unseen(node: Any) -> bool:
    return node.get("hidden") is not None or _UNSEEN.search(node.get("style") or "") is not None


def _rows(table: Any) -> list[list[str]]:
    """The cells of a table; one that spans others has its text in the first of them alone."""
    rows: list[list[str]] = []
    below: dict[int, int] = {}
    for row in table.iter("tr"):
        cells: list[str] = []
        for cell in (c for c in row if c.tag in ("td", "th") and not _is_unseen(c)):
            while below.get(len(cells), 0):
                below[len(cells)] -= 1
                cells.append("")
            across, down = _span(cell, "colspan"), _span(cell, "rowspan")
            for column in range(len(cells), len(cells) + across):
                below[column] = down - 1
            cells += [_plain(cell.text_content()), *[""] * (across - 1)]
        rows.append(cells)
    return rows


def _span(cell: Any, name: str) -> int:
    value = (cell.get(name) or "1").strip()
    return min(MOST_SPANNED, max(1, int(value))) if value.isdecimal() else 1


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
        if not tag or tag in _LEFT_OUT or depth > MAX_DEPTH or _is_unseen(node):
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
        rows = _rows(node)
        if max(map(len, rows), default=0) > 1:
            self.lines += table_lines(rows)
        else:
            self.lines += [TextLine(cell) for row in rows for cell in row]
