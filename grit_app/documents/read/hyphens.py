"""Words cut at a line's end, mended without gluing real compounds or numbers."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

# Parts of English compounds that nearly always keep their hyphen.
_FIRST_PARTS = """
self well ill non ex half all cross high low long short full part large small open close so mid first second third one
two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty seventy eighty ninety state
end vice quasi year day month week age real user data peer follow best worst hard soft
"""
_LAST_PARTS = """
based like level related specific scale known term year old time free wide sized size quality to of in the aware
dependent independent oriented driven linguistic defined called made style type only first century fold up off and by
out aged being eligible appropriate friendly rich poor high low long
"""
# Words that make closed compounds, although both parts are words.
_GLUED_FIRST_PARTS = """
some any every no with in out over under up down back fore there where here how to be can him her it them your my our
other mean more never further through not home work web data water land sea sun air eye foot hand head news
"""
_GLUED_LAST_PARTS = """
one body thing where how times what times self selves in out ever less ful ness ship ment man men day side work land
ward wards wise book place line able ible
"""
# After a hyphen that stands for the rest of a word: pre- and post-war, Ein- und Ausgänge.
_SUSPENDED = {"and", "or", "nor", "und", "oder", "bzw", "sowie", "bis", "et", "ou", "y", "e"}
_INVERTED = {"je", "tu", "il", "elle", "on", "nous", "vous", "ils", "elles"}  # French, behind the verb: est-elle
_ADDRESS = re.compile(r"://|^www\.|@")
_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_RUNS_ON = re.compile(r"\d–$|\w/$")  # 1986–|1988, and/|or, example.org/|path
_GLUED_FIRST, _GLUED_LAST = frozenset(_GLUED_FIRST_PARTS.split()), frozenset(_GLUED_LAST_PARTS.split())
_FIRST, _LAST = frozenset(_FIRST_PARTS.split()), frozenset(_LAST_PARTS.split())
_WORD = re.compile(r"[^\W\d_]+(?:[-‐‑][^\W\d_]+)*", re.UNICODE)


KEPT = 1_000
"""Characters at the end of a paragraph that decide how its next line is joined; the longest word is shorter."""


class HyphenMender:
    """Joins a word cut at a line's end, by what the document itself writes elsewhere.

    `know-` + `ledge` becomes `knowledge`; `well-` + `known`, `10-` + `12` and `Anglo-` + `Saxon` keep their hyphen.
    Evidence comes first (the word or the compound inside a line of the same document), then habits of English.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.seen: Counter[str] = Counter()
        for line in lines:
            words = [w.replace("‐", "-").replace("‑", "-").casefold() for w in _WORD.findall(line)]
            self.seen.update(words)
            for parts in (w.split("-") for w in words if w.count("-") > 1):
                self.seen.update(f"{a}-{b}" for a, b in pairwise(parts))

    def continued(self, left: str, right: str) -> str:
        """`left` and the next line of its paragraph, `right`, as one text."""
        if left.endswith(("-", "\u00ad", "‐")):
            return self.join(left, right)
        scripts_without_spaces = _CJK.match(left[-1:]) and _CJK.match(right)
        tight = scripts_without_spaces or (_RUNS_ON.search(left) and right[:1].isalnum())
        return f"{left}{right}" if tight else f"{left} {right}"

    def paragraph(self, line: str = "") -> "Paragraph":
        """One that begins with this line."""
        return Paragraph(self, line)

    def join(self, left: str, right: str) -> str:
        """`left` ends in a hyphen at the end of a line, `right` is the text of the next line."""
        if left.endswith("\u00ad"):
            return left.rstrip("\u00ad") + right
        head = re.search(r"(\S+)[-‐‑]$", left)
        tail = re.match(r"[\w'’]+(?:[-‐‑]\w+)*", right)
        if head is None or tail is None:
            return f"{left} {right}"
        if tail.group(0).casefold() in _SUSPENDED and not self.seen[f"{head.group(1)}-{tail.group(0)}".casefold()]:
            return f"{left} {right}"
        if self._is_cut_word(head.group(1), tail.group(0)):
            return left[:-1] + right
        return left + right

    def _is_cut_word(self, before: str, after: str) -> bool:
        first = re.split(r"[^\w'’]+", before)[-1]  # part of the token after its last hyphen or bracket
        second = re.split(r"[-‐‑]", after)[0]
        if not first or not first[-1].isalpha() or not second[0].isalpha():
            return False  # numbers, ranges, codes
        if second[0].isupper() and not first.isupper():
            return False  # Anglo-Saxon
        if first.isupper() != second.isupper() and len(first) > 1:
            return False  # US-based
        whole, compound = (first + second).casefold(), f"{first}-{second}".casefold()
        if self.seen[compound] != self.seen[whole]:
            return self.seen[whole] > self.seen[compound]
        if len(first) == 1 or _ADDRESS.search(before):
            return False  # X-rays, e-mail; an address holds what is drawn
        if second.casefold() in _INVERTED and self.seen[first.casefold()]:
            return False
        if min(self.seen[first.casefold()], self.seen[second.casefold()]) >= 2 and min(len(first), len(second)) >= 3:
            return (
                first.casefold() in _GLUED_FIRST or second.casefold() in _GLUED_LAST
            )  # two words, or someone, without
        if re.search(r"[-‐‑]", before) and before[0].isalpha():
            return False  # state-of-the-
        return first.casefold() not in _FIRST and second.casefold() not in _LAST


class Paragraph:
    """A paragraph that grows line by line, in time proportional to its length however many lines it has."""

    def __init__(self, mender: HyphenMender, line: str = "") -> None:
        self._mender = mender
        self._done: list[str] = []
        self._end = line
        self._length = 0
        """Of what is done."""

    def add(self, line: str) -> None:
        """Joins the next line to it."""
        self._end = self._mender.continued(self._end, line) if self._end else line
        if len(self._end) > 2 * KEPT:
            self._done.append(self._end[:-KEPT])
            self._length += len(self._done[-1])
            self._end = self._end[-KEPT:]

    def __len__(self) -> int:
        return self._length + len(self._end)

    def __str__(self) -> str:
        return "".join(self._done) + self._end
