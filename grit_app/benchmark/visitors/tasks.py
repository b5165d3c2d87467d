"""What a visitor under load does, and how each answer is checked: each has documents with codes that nobody else has.

An answer is `mixed` if anything on the visitor's page shows another visitor's code, `wrong` if a quote lacks the
visitor's own code or a greedy reply differs from the one that the idle app gave.
"""

from __future__ import annotations

import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from grit_app.benchmark.visitors.page import PageError, PageVisitor

PLACES: Final = ("harbour office", "boat house", "tower library", "market hall", "old mill", "post room")
GREETING: Final = "Hello"
REPLY_TOKENS: Final = 24
MOST: Final = 128
"""Visitors and clients that codes are drawn for."""

TEXTS: Final = ("Bees make honey from nectar.", "The ferry leaves at nine.", "A phone with two cameras.")


@dataclass(frozen=True)
class Outcome:
    """One thing that a visitor did. `first_ms`: until the first word, of answers."""

    phase: str
    visitor: int
    action: str
    result: str
    """ok, refused (a free answer without the code), wrong, mixed, or error."""
    total_ms: float
    first_ms: float | None = None
    place: str = ""
    """What the page said about others who came first."""
    detail: str = ""


def codes_of(visitor: int, seed: int) -> list[str]:
    """A code of six digits for each place, no visitor's like another's."""
    drawn = random.Random(seed).sample(range(100_000, 999_999), MOST * len(PLACES))
    first = visitor * len(PLACES)
    return [str(code) for code in drawn[first : first + len(PLACES)]]


@dataclass
class Actor:
    """A visitor's page with the visitor's own secrets."""

    page: PageVisitor
    number: int
    codes: list[str]
    foreign: list[str]
    """Codes of all others."""
    expected_reply: str = ""
    """To the greeting, from the idle app; empty: not compared."""
    phase: str = "alone"
    kept: list[int] = field(default_factory=list)
    """Places whose notes are in the library."""

    def prepare(self) -> None:
        """Settings under which answers can be compared, and a first document."""
        self.page.put("Temperature", 0)
        self.page.put("Longest reply, in tokens", REPLY_TOKENS)

    def upload_note(self) -> Outcome:
        """A short document with the next place's code; when all places are there, the library is emptied first."""
        if len(self.kept) == len(PLACES):
            self._exhaust(self.page.trigger("clear-library", "click"))
            self.kept.clear()
        place = len(self.kept)
        words = f"The code of the {PLACES[place]} is {self.codes[place]}. It opens the door beside the main stairs."
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{PLACES[place].replace(' ', '-')}.txt"
            path.write_text(words, encoding="utf-8")
            outcome = self._done("upload", lambda: self._add(path))
        if outcome.result == "ok":
            self.kept.append(place)
        return outcome

    def upload(self, path: Path) -> Outcome:
        return self._done("upload", lambda: self._add(path))

    def _add(self, path: Path) -> str:
        self.page.put("upload", [self.page.upload(path)])
        self._exhaust(self.page.trigger("upload", "upload"))
        return "ok" if path.name in self.page.value("files") else "wrong"

    def greet(self) -> Outcome:
        """A new conversation of one message."""
        self._exhaust(self.page.trigger("chat", "clear"))
        outcome = self._asked("chat", "chat-box", GREETING, "chat")
        reply = answer_of(self.page.value("chat"))
        if outcome.result == "ok" and self.expected_reply and reply != self.expected_reply:
            return self._as(outcome, "wrong", f"{reply!r} is not {self.expected_reply!r}")
        return outcome

    def ask(self, mode: str) -> Outcome:
        """About a place of the visitor's own documents: the same words that every other visitor uses."""
        place = random.choice(self.kept)
        self.page.put("Answer", mode)
        question = f"What is the code of the {PLACES[place]}?"
        outcome = self._asked(f"question, {mode}", "question", question, "answers")
        if outcome.result == "ok" and self.codes[place] not in answer_of(self.page.value("answers")):
            return self._as(outcome, "refused" if mode == "free" else "wrong", answer_of(self.page.value("answers")))
        return outcome

    def compare(self) -> Outcome:
        """A list with the visitor's own codes, ranked under two instructions."""
        self.page.put("similarity-query", f"Which door has {self.codes[0]}?")
        self.page.put("similarity-texts", "\n".join([*TEXTS, f"Door {self.codes[0]}", f"Door {self.codes[1]}"]))

        def run() -> str:
            self._exhaust(self.page.trigger("compare", "click"))
            return "ok" if all(code in self.page.value("ranking-a") for code in self.codes[:2]) else "wrong"

        return self._done("similarity", run)

    def measure(self) -> Outcome:
        """The Caching tab's own measurement, which gives way to everybody."""

        def run() -> str:
            self._exhaust(self.page.trigger("run-here", "click"))
            return "ok"

        return self._done("measurement", run)

    def stop_measuring(self) -> None:
        """May be called from another thread."""
        self._exhaust(self.page.trigger("run-stop", "click"))

    def _exhaust(self, frames: Iterator[set[int]]) -> None:
        for _ in frames:
            pass

    def _asked(self, action: str, box: str, text: str, conversation: str) -> Outcome:
        first_ms: float | None = None
        place = ""
        before = len(self.page.value(conversation) or ())
        start = time.perf_counter()

        def run() -> str:
            nonlocal first_ms, place
            self.page.put(box, text)
            for _ in self.page.trigger(box, "submit"):
                if first_ms is None and len(self.page.value(conversation)) > before:
                    shown = answer_of(self.page.value(conversation))
                    if "before you" in shown:
                        place = re.sub(r"<[^>]+>", "", shown)
                    elif shown and not shown.startswith('<div class="step">'):
                        first_ms = 1e3 * (time.perf_counter() - start)
            return "ok" if answer_of(self.page.value(conversation)) else "wrong"

        outcome = self._done(action, run)
        return Outcome(**{**vars(outcome), "first_ms": first_ms, "place": place})

    def _done(self, action: str, work: Callable[[], str]) -> Outcome:
        start = time.perf_counter()
        detail = ""
        try:
            result = work()
        except PageError as error:
            result, detail = "error", str(error)
        total_ms = 1e3 * (time.perf_counter() - start)
        if leaked := leak(self.page.text(), self.foreign):
            result, detail = "mixed", f"shows {leaked}"
        return Outcome(self.phase, self.number, action, result, total_ms, detail=detail)

    @staticmethod
    def _as(outcome: Outcome, result: str, detail: str) -> Outcome:
        return Outcome(**{**vars(outcome), "result": result, "detail": detail[:300]})


def leak(shown: str, foreign: Sequence[str]) -> str:
    """Another visitor's code in a text with some words around it; empty if none stands there.

    Digits inside a longer number (a coordinate of a chart, a checksum) are nobody's code.
    """
    found = re.search(rf"(?<![\w.])(?:{'|'.join(foreign)})(?!\w)", shown) if foreign else None
    return shown[max(0, found.start() - 60) : found.end() + 60] if found else ""


def answer_of(conversation: Any) -> str:
    """The first block of the last message if that is an answer, with its escaped signs as they are read."""
    if not conversation or conversation[-1]["role"] != "assistant":
        return ""
    return str(conversation[-1]["content"][0]["text"])
