"""Text and Markdown files as running text: one paragraph, heading or table row a line."""

import re
from collections.abc import Sequence
from itertools import pairwise

from grit_app.documents.document import Document, Page
from grit_app.documents.read.clean import normalise
from grit_app.documents.read.hyphens import HyphenMender

_LIST_ITEM = re.compile(r"\s*([-*+•]|\d{1,3}[.)])\s+")
_HEADING = re.compile(r" {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_TABLE_RULE = re.compile(r"\s*\|?(\s*:?-{2,}:?\s*\|)+\s*(:?-{2,}:?)?\s*")
_FENCE = re.compile(r"\s*(```|~~~)")
_INLINE = [
    (re.compile(r"!\[([^\]]*)\]\([^)]*\)"), r"\1"),  # picture → its description
    (re.compile(r"\[([^\]]+)\]\([^)\s]*(?:\s+\"[^\"]*\")?\)"), r"\1"),  # link → its words
    (re.compile(r"(\*\*|__)(?=\S)(.+?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"`([^`]+)`"), r"\1"),
    (re.compile(r"<!--.*?-->"), ""),
]


def decode(data: bytes) -> str | None:
    """The text, or None if the bytes are no text: UTF-8, UTF-16, UTF-32 with its mark, else Windows-1252."""
    if data.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return data.decode("utf-32", "replace")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    # UTF-16 without its mark: every other byte of Western text is zero, and none of the ones between.
    for zeros, letters, encoding in ((data[1::2], data[::2], "utf-16-le"), (data[::2], data[1::2], "utf-16-be")):
        if zeros.count(0) > 0.6 * len(zeros) and 0 not in letters:
            return data.decode(encoding, "replace")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    return None if "\x00" in text else text


def read_text(data: str, name: str, sha256: str, *, markdown: bool) -> Document:
    """The document of a text file. Form feeds divide pages; without them it is one page."""
    pages = data.replace("\r\n", "\n").replace("\r", "\n").split("\f")
    if pages and not pages[-1].strip() and len(pages) > 1:
        pages.pop()
    mender = HyphenMender(data.splitlines())
    parts: list[str] = []
    spans: list[Page] = []
    headings: list[tuple[int, str]] = []
    written = 0
    for index, page in enumerate(pages):
        start = written
        for line, is_heading in _paragraphs(page.split("\n"), mender, markdown):
            if is_heading:
                headings.append((written, line))
            parts.append(line)
            written += len(line) + 1
        spans.append(Page(index, str(index + 1), start, written))
    text = "\n".join(parts)
    fitted = tuple(Page(p.index, p.label, min(p.start, len(text)), min(p.stop, len(text))) for p in spans)
    return Document(name, sha256, "markdown" if markdown else "text", fitted, text, (), tuple(headings))


def _paragraphs(lines: Sequence[str], mender: HyphenMender, markdown: bool) -> list[tuple[str, bool]]:
    wrapped = _is_wrapped(lines)
    found: list[tuple[str, bool]] = []
    open_paragraph = fenced = False
    for raw in lines:
        if markdown and _FENCE.match(raw):
            fenced, open_paragraph = not fenced, False
            continue
        heading = _HEADING.match(raw) if markdown and not fenced else None
        line = normalise(heading.group(2) if heading else raw)
        is_row = not fenced and markdown and "|" in line.strip()[1:-1]
        if markdown and not fenced:
            if _TABLE_RULE.fullmatch(line) or re.fullmatch(r"\s*([-*_=]\s*){3,}", line):
                open_paragraph = False
                continue
            line = _without_markup(line.strip().strip("|").replace("|", "  ") if is_row else line)
        starts = heading is not None or is_row or fenced or bool(_LIST_ITEM.match(line))
        columns = "\t" in line.strip() or re.search(r"\S {3,}\S", line) is not None
        line = " ".join(line.split())
        if not line:
            open_paragraph = False
        elif open_paragraph and not starts and not columns and (wrapped or markdown):
            before = found[-1][0]
            found[-1] = (mender.continued(before, line), False)
        else:
            found.append((line, heading is not None))
            open_paragraph = heading is None and not is_row and not fenced and not columns
    return found


def _without_markup(line: str) -> str:
    for pattern, replacement in _INLINE:
        line = pattern.sub(replacement, line)
    return re.sub(r"^\s*>+\s?", "", line)


def _is_wrapped(lines: Sequence[str]) -> bool:
    """True if lines were broken at a fixed width: most lines that are followed by text are about equally long."""
    full = [len(a.rstrip()) for a, b in pairwise(lines) if a.strip() and b.strip() and b[:1].strip()]
    if len(full) < 2:
        return len(full) == 1 and full[0] >= 40
    width = sorted(full)[int(0.9 * (len(full) - 1))]
    return 40 <= width <= 200 and sum(n >= 0.7 * width for n in full) >= 0.6 * len(full)
