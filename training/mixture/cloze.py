"""Questions made from running text by fixed rules: a sentence's name, number or date becomes what is asked for.

    "The bridge was opened in 1932 by John Lang."  →  "when was the bridge opened in by John Lang?"  →  "1932"

Clumsy as they are, such cloze questions teach where in a passage an answer of the asked kind stands; readers trained on
nothing else reach half of the score of readers trained on written questions (Lewis et al. 2019, arXiv 1906.04980).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“])")
WORD = re.compile(r"\S+")

MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
NAME = r"(?:[A-Z][\w’'.-]*\w|[A-Z])"
SMALL = r"(?:(?:of|the|de|von|van)\s+){1,2}"
KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("time", re.compile(rf"\b(?:\d{{1,2}} {MONTH}(?: \d{{4}})?|{MONTH} \d{{1,2}}(?:, \d{{4}})?|{MONTH} \d{{4}})\b")),
    ("time", re.compile(r"\b(?:1[0-9]\d\d|20[0-2]\d)s?\b|\bthe \d{1,2}(?:st|nd|rd|th) century\b")),
    ("number", re.compile(r"(?<![\w.,-])[$€£]?\d[\d,.]*\d?(?:%| percent| per cent| million| billion)?(?![\w-])")),
    ("number", re.compile(r"\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|fifty)\b")),
    ("name", re.compile(rf"\b{NAME}(?:\s+(?:{SMALL})?{NAME})*")),
    ("reason", re.compile(r"(?<=because )[^.,;]{12,80}(?=[.,;])")),
    ("thing", re.compile(r"(?<= is )an? [a-z][^.,;()]{6,50}(?=[.,;]| that | which | in | of )")),
)
ASKED = {
    "time": ("when", "when", "what year", "on what date", "in what year"),
    "number": ("how many", "how many", "how much", "what number of"),
    "name": ("who", "what", "which", "what", "who"),
    "place": ("where", "where", "in which place", "in what country", "in which city"),
    "reason": ("why",),
    "thing": ("what",),
}
PLACE_BEFORE = re.compile(r"\b(?:in|at|near|from|to)\s+$")
SENTENCE_OPENERS = """
The A An In On At It He She They We I This That These Those As But And Or If When While After Before For
From With By His Her Its Their There Some Many Most Other Such However Although Since During Under
Between Both Each One Two Three Also Because Until Despite Among Like To Of Not No All Any Another What
Who Where Why How Which You My Our
"""
NEVER_NAMES = frozenset(SENTENCE_OPENERS.split())
REACH = 13
"""Words on either side of the answer that a question keeps at most."""


@dataclass(frozen=True)
class Cloze:
    """One made question; `answer` stands word for word in the passage at `start`."""

    question: str
    answer: str
    start: int


def passages(text: str, rng: random.Random, shortest: int = 40, longest: int = 110) -> Iterator[str]:
    """Runs of whole sentences of `shortest` to `longest` words, one after the other."""
    kept: list[str] = []
    wanted = rng.randint(shortest, longest)
    for sentence in (s for paragraph in text.split("\n") for s in SENTENCE_END.split(paragraph)):
        words = len(sentence.split())
        if kept and sum(len(s.split()) for s in kept) + words > wanted:
            if sum(len(s.split()) for s in kept) >= shortest:
                yield " ".join(kept)
            kept, wanted = [], rng.randint(shortest, longest)
        if words <= longest:
            kept.append(sentence)
    if sum(len(s.split()) for s in kept) >= shortest:
        yield " ".join(kept)


def cloze_questions(passage: str, rng: random.Random, most: int) -> list[Cloze]:
    """Up to `most` questions in random order. No two share an answer, and no sentence gives more than two."""
    found: dict[str, Cloze] = {}
    start = 0
    for sentence in SENTENCE_END.split(passage):
        start = passage.index(sentence, start)
        candidates = list(_answers(sentence))
        for kind, begin, end in rng.sample(candidates, min(2, len(candidates))):
            answer = sentence[begin:end]
            if passage.count(answer) <= 2 and answer not in found:
                found[answer] = Cloze(_question(sentence, begin, end, kind, rng), answer, start + begin)
    made = [cloze for cloze in found.values() if len(cloze.question.split()) >= 4]
    return rng.sample(made, min(most, len(made)))


def _answers(sentence: str) -> Iterator[tuple[str, int, int]]:
    """(kind, start, stop) of the spans that may be asked for; the first kind that takes a place keeps it."""
    taken: list[tuple[int, int]] = []
    for kind, pattern in KINDS:
        for match in pattern.finditer(sentence):
            begin, end = match.span()
            if kind == "name":
                while (first := sentence[begin:end].split(" ")[0]) in NEVER_NAMES and len(first) < end - begin:
                    begin += len(first) + 1
                # A single capital at the beginning of a sentence is a name only where more of them say so.
                if sentence[begin:end] in NEVER_NAMES or (begin == 0 and " " not in sentence[begin:end]):
                    continue
            if begin >= end or any(begin < stop and start < end for start, stop in taken):
                continue
            taken.append((begin, end))
            yield ("place" if kind == "name" and PLACE_BEFORE.search(sentence[:begin]) else kind), begin, end


def _question(sentence: str, begin: int, end: int, kind: str, rng: random.Random) -> str:
    asked = rng.choice(ASKED[kind])
    before = WORD.findall(sentence[:begin])[-REACH:]
    behind = WORD.findall(sentence[end:])[:REACH]
    if before and before[0] in NEVER_NAMES:
        before[0] = before[0].lower()
    if behind and not any(c.isalnum() for c in behind[0]):
        behind = behind[1:]
    if before and rng.random() < 0.3:
        words = [*_thinned(before, rng), *asked.split(), *_thinned(behind[:4], rng)]
    else:
        if before and PLACE_BEFORE.search(before[-1] + " ") and kind in ("time", "place"):
            before = before[:-1]
        words = [*asked.split(), *_thinned(before, rng), *_thinned(behind, rng)]
    text = " ".join(words).strip(' ,;:.!?"“”').replace(" ,", ",")
    if rng.random() < 0.6:
        text = text[:1].upper() + text[1:]
    return text + ("?" if rng.random() < 0.85 else "")


def _thinned(words: Sequence[str], rng: random.Random) -> list[str]:
    """The words, some left out, sometimes two neighbours in the other order: questions are not copies of sentences."""
    kept = [word for word in words if rng.random() > 0.12]
    if len(kept) > 3 and rng.random() < 0.2:
        i = rng.randrange(len(kept) - 1)
        kept[i], kept[i + 1] = kept[i + 1], kept[i]
    return kept
