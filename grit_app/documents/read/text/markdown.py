"""Markdown as running text, parsed by markdown-it-py (CommonMark with tables): what is seen, without its marks."""

import re
from collections.abc import Sequence
from typing import Any

from lxml.html.defs import block_tags, tags
from markdown_it import MarkdownIt
from markdown_it.token import Token

from grit_app.documents.document import Document
from grit_app.documents.read.clean import normalise
from grit_app.documents.read.hyphens import HyphenMender
from grit_app.documents.read.text.plain import TextLine, code_lines, compose

LONGEST, MOST_BRACKETS = 20_000, 400  # in a paragraph, whose brackets the parser tries in quadratic time
_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(---|\.\.\.)(\n|\Z)", re.DOTALL)
_TAG = re.compile(r"<[^<>]*>")
_TAG_NAME = re.compile(r"<(/?)([a-zA-Z][\w-]*)")
_NEWER_TAGS = {"main", "picture", "bdi", "data", "dialog", "template", "slot", "details", "summary"}
_LINE_TAG = re.compile(r"<\s*/?\s*(br|p|div|li|tr|h[1-6])\b[^<>]*>", re.IGNORECASE)


def read_markdown(data: str, name: str, sha256: str) -> Document:
    """The document of a Markdown file. Form feeds divide pages; the lines of its front matter are lines of text."""
    mender = HyphenMender(data.splitlines())
    return compose(data, name, sha256, "markdown", lambda page: markdown_lines(page, mender))


def markdown_lines(text: str, mender: HyphenMender) -> list[TextLine]:
    """The lines of a page of Markdown."""
    lines = []
    front = _FRONT_MATTER.match(text)
    if front:
        lines = [TextLine(line.strip()) for line in front[1].split("\n") if line.strip()]
        text = text[front.end() :]
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).disable("inline")
    writer = _Writer(mender)
    for token in parser.parse(text, writer.env):
        writer.take(token)
    return lines + [line for line in writer.lines if line.text.strip() or line.kind == "code"]


class _Writer:
    """Lines from the tokens of one page, in order."""

    def __init__(self, mender: HyphenMender) -> None:
        self.mender = mender
        self.env: dict[str, Any] = {}
        """What links by reference point to."""
        self.inline = MarkdownIt("commonmark", {"html": True}).enable("strikethrough")
        self.lines: list[TextLine] = []
        self._level = 0
        self._marks: list[str] = []  # of the list items that are open and not yet written
        self._numbers: list[int | None] = []
        self._row: list[str] | None = None
        self._head = ""

    def take(self, token: Token) -> None:
        kind = token.type
        if kind == "inline":
            self._inline(token.content)
        elif kind == "heading_open":
            self._level = int(token.tag[1])
        elif kind == "heading_close":
            self._level = 0
        elif kind in ("fence", "code_block"):
            self._code(token.content)
        elif kind == "html_block":
            self._html(token.content)
        elif kind in ("bullet_list_open", "ordered_list_open"):
            first = int(token.attrGet("start") or 1) if kind.startswith("ordered") else None
            self._numbers.append(first)
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self._numbers.pop()
        elif kind == "list_item_open":
            self._item(token)
        else:
            self._table(kind)

    def _item(self, token: Token) -> None:
        number = self._numbers[-1]
        self._marks = [f"{token.info or number}. " if number is not None else "- "]

    def _table(self, kind: str) -> None:
        if kind == "tr_open":
            self._row = []
        elif kind == "tr_close":
            row = " ".join(" ".join(self._row or ()).split())
            self.lines.append(TextLine(row, kind="row", table=self._head, cells=tuple(self._row or ())))
            self._head = self._head or row
            self._row = None
        elif kind == "table_close":
            self._head = ""

    def _inline(self, content: str) -> None:
        text = self._words(content)
        if self._row is not None:
            self._row.append(" ".join(text.split()))
            return
        pieces = [" ".join(normalise(piece, loose_accents=False).split()) for piece in text.split("\n")]
        joined = self.mender.paragraph()
        for piece in filter(None, pieces):
            joined.add(piece)
        self._add(str(joined), self._level)

    def _words(self, content: str) -> str:
        if len(content) > LONGEST or content.count("[") > MOST_BRACKETS:
            return content
        tokens = self.inline.parseInline(content, self.env)
        return _seen(tokens[0].children or []) if tokens else ""

    def _code(self, content: str) -> None:
        block = code_lines(content.split("\n"))
        for first in block[:1]:
            mark, self._marks = "".join(self._marks), []
            first.text = mark + first.text
        self.lines += block

    def _html(self, content: str) -> None:
        for line in without_tags(content).split("\n"):
            self._add(" ".join(line.split()))

    def _add(self, text: str, level: int = 0) -> None:
        if text.strip():
            mark, self._marks = "".join(self._marks), []
            self.lines.append(TextLine(mark + text, level))


def _seen(tokens: Sequence[Token]) -> str:
    """The words of inline tokens: links by their words, pictures by their descriptions, code as it is.

    What looks like a tag and is none of HTML's is a word: <FILE>, and </s> that nothing opened.
    """
    parts = []
    opened: set[str] = set()
    for token in tokens:
        if token.type == "image":
            parts.append(_seen(token.children or []))
        elif token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type == "html_inline":
            name = _TAG_NAME.match(token.content)
            if name is not None and not name[1]:
                opened.add(name[2].casefold())
            if name is not None and _is_word(name[2].casefold(), name[1] != "", opened):
                parts.append(token.content)
            else:
                parts.append("\n" if _LINE_TAG.fullmatch(token.content) else "")
        else:
            parts.append(token.content)
    return "".join(parts)


def _is_word(name: str, closes: bool, opened: set[str]) -> bool:
    return name not in tags | _NEWER_TAGS or (closes and name not in opened | block_tags)


def without_tags(html: str) -> str:
    """The words of a stretch of HTML, without comments and tags."""
    parts = html.split("<!--")
    shown = parts[0] + "".join(part.partition("-->")[2] for part in parts[1:])
    return _TAG.sub("", _LINE_TAG.sub("\n", shown))
