"""Blocks of code in a text: between fences, or indented and written in the signs of code."""

import re
import textwrap
from collections.abc import Iterator, Sequence

_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})[^`]*$")
_INDENTED = re.compile(r"(?: {4}|\t)")
_SIGNS = re.compile(r"[{}();=<>\[\]|\\$#_]|[:,]$|^\s*(-{1,2}\w|\.{1,2}/)|\w\.\w+\(")
SIGNED_SHARE = 0.5  # of an indented block's lines; fewer are a quotation, a poem or an address


def dedented(lines: Sequence[str]) -> list[str]:
    """The lines of a block without the indentation that all have, and without empty lines at its ends."""
    found = textwrap.dedent("\n".join(line.expandtabs(4).rstrip() for line in lines)).split("\n")
    while found and not found[-1]:
        found.pop()
    while found and not found[0]:
        del found[0]
    return found


def code_spans(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(first line, line behind the last) of each block of code of a plain text, fences included."""
    at = 0
    while at < len(lines):
        stop = _fenced(lines, at) or _indented(lines, at)
        if stop:
            yield at, stop
        at = stop or at + 1


def _fenced(lines: Sequence[str], at: int) -> int:
    """The line behind the fence that closes a block; 0 where none begins, or none closes it before a blank page."""
    opening = _FENCE.match(lines[at])
    if not opening:
        return 0
    mark = opening[1]
    for n in range(at + 1, len(lines)):
        line = lines[n].strip()
        if len(line) >= len(mark) and set(line) == {mark[0]}:
            return n + 1
    return 0


def _indented(lines: Sequence[str], at: int) -> int:
    """The line behind an indented block of at least two lines behind a blank one; 0 where none begins."""
    if not _INDENTED.match(lines[at]) or not lines[at].strip() or (at and lines[at - 1].strip()):
        return 0
    stop, full = at, []
    for n in range(at, len(lines)):
        if lines[n].strip():
            if not _INDENTED.match(lines[n]):
                break
            full.append(lines[n])
            stop = n + 1
    is_code = len(full) > 1 and sum(bool(_SIGNS.search(line.rstrip())) for line in full) >= SIGNED_SHARE * len(full)
    return stop if is_code else 0
