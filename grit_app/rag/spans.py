"""The few words of a quoted sentence that answer, judged by their form and place: independent of the model.

    score(span) = WEIGHTS · features,  the best of all runs of up to MOST_WORDS words

The features tell the kind of thing (number, date, name, …) against what is asked for, how the span begins and ends and
what stands around it, its length, and how near the question's words stand. The weights are those of a softmax over
the spans of a sentence, fitted by `python -m training.fit_spans` on training questions; the kind of model that
Rajpurkar et al. 2016 (SQuAD, section 5.2) report, without its parser.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.keywords import tokens
from grit_app.rag.evidence import ASKED, NUMBER_WORD, TIME_WORD, asked_for

MOST_WORDS: Final = 12
SOUGHT_WORDS: Final = 60
"""Words of a longer sentence beyond these are not looked at."""

KINDS: Final = ("date", "number", "name", "named", "plain")
LENGTHS: Final = (1, 2, 3, 5, 8)
SHAPES: Final = ("determiner", "preposition", "conjunction", "pronoun", "verb", "adverb", "name", "number", "other")
AROUND: Final = ("edge", "stop", *SHAPES)

_WORDS: Final[dict[str, frozenset[str]]] = {
    name: frozenset(words.split())
    for name, words in {
        "determiner": "a an the this that these those its his her their our my your each every some any no all both",
        "preposition": "of in on at to for from with by about into over after before between under against during "
        "through as since until near among around within without per than",
        "conjunction": "and or but nor so because if when while although whether which who whom whose where that "
        "how why what unless",
        "pronoun": "he she it they we i you him them us me who himself itself themselves",
        "verb": "is are was were be been being has have had do does did can could may might must will would shall "
        "should became become called named made said says known used",
        "adverb": "not also only very more most then there here too however often usually about approximately",
    }.items()
}
_EDGES: Final = ' ,;:.!?…"“”‘’()[]{}–—*|'
_STOP: Final = re.compile(r"[,;:.!?)\]”\"]$")
_DIGIT: Final = re.compile(r"\d")
_DATE: Final = re.compile(rf"\b1\d{{3}}s?\b|\b20\d\d\b|(?i:\b({TIME_WORD})\b)")
_NUMBER: Final = re.compile(rf"\d|(?i:\b({NUMBER_WORD})\b)")
_HEAD: Final = re.compile(
    r"\b(?:what|which)\s+(?:\w+\s+)?(\w+)|\bhow (?:many|much|long|old|far)\s+(\w+)", re.IGNORECASE
)


@dataclass(frozen=True)
class Span:
    """Words of a sentence, and where they stand in it."""

    text: str
    start: int
    stop: int
    score: float
    """Higher for a clearer answer; compares spans of different sentences too."""


def short_answer(question: str, text: str) -> Span | None:
    """The best run of words of `text`; None if it has none."""
    places, rows = features(question, text)
    if not places:
        return None
    scores = rows @ WEIGHTS
    best = int(scores.argmax())
    start, stop = places[best]
    return Span(text[start:stop], start, stop, float(scores[best]))


FEATURES: Final = (
    *(f"{asked}:{kind}" for asked in ASKED for kind in KINDS),
    *(f"length {asked}:{length}" for asked in ("any", *ASKED) for length in LENGTHS),
    *(f"first:{shape}" for shape in SHAPES),
    *(f"last:{shape}" for shape in SHAPES),
    *(f"before:{shape}" for shape in AROUND),
    *(f"behind:{shape}" for shape in AROUND),
    "asked_words",
    "all_asked",
    "splits_name_before",
    "splits_name_behind",
    "stop_inside",
    "near_before",
    "near_behind",
    "distance",
    "head_before",
    "head_inside",
    "head_behind",
    "place",
    "opens_bracket",
)


def features(question: str, text: str) -> tuple[list[tuple[int, int]], NDArray[np.float32]]:
    """Character spans [n] of the candidates, and [n, len(FEATURES)]."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)][:SOUGHT_WORDS]
    raw = [text[a:b] for a, b in words]
    bare = [word.strip(_EDGES) for word in raw]
    shapes = [_shape(word, number == 0) for number, word in enumerate(bare)]
    asked_words = set(tokens(question))
    stems = [frozenset(tokens(word)) for word in bare]
    in_question = [bool(stem & asked_words) for stem in stems]
    stops = [_STOP.search(word) is not None for word in raw]
    near = _nearness(in_question)
    head = _head(question)
    is_head = [head is not None and bool(stem & head) for stem in stems]
    kind_index = ASKED.index(asked_for(question))
    places: list[tuple[int, int]] = []
    rows: list[list[float]] = []
    for i in range(len(words)):
        if not bare[i]:
            continue
        for j in range(i, min(i + MOST_WORDS, len(words))):
            if not bare[j]:
                continue
            start, stop = _trimmed(text, words[i][0], words[j][1])
            inner = range(i, j + 1)
            counted = [k for k in inner if stems[k]]
            row = _one_hot(
                len(ASKED) * len(KINDS), kind_index * len(KINDS) + _kind(text[start:stop], shapes[i : j + 1])
            )
            length = next((n for n, most in enumerate(LENGTHS) if j - i < most), len(LENGTHS) - 1)
            row += _one_hot(len(LENGTHS), length)
            row += _one_hot(len(ASKED) * len(LENGTHS), kind_index * len(LENGTHS) + length)
            row += _one_hot(len(SHAPES), SHAPES.index(shapes[i])) + _one_hot(len(SHAPES), SHAPES.index(shapes[j]))
            row += _one_hot(len(AROUND), _before(i, shapes, stops)) + _one_hot(len(AROUND), _behind(j, shapes, stops))
            asked_share = sum(in_question[k] for k in counted) / len(counted) if counted else 0.0
            before = near[0][i - 1] if i > 0 else 0.0
            behind = near[1][j + 1] if j + 1 < len(words) else 0.0
            row += [
                asked_share,
                float(asked_share == 1.0),
                float(i > 0 and shapes[i] == "name" == shapes[i - 1] and not stops[i - 1]),
                float(j + 1 < len(words) and shapes[j] == "name" == shapes[j + 1] and not stops[j]),
                float(sum(stops[k] for k in range(i, j))),
                before,
                behind,
                max(before, behind),
                float(i > 0 and any(is_head[max(0, i - 3) : i])),
                float(any(is_head[i : j + 1])),
                float(any(is_head[j + 1 : j + 4])),
                i / len(words),
                float(raw[i][0] in '([“"'),
            ]
            places.append((start, stop))
            rows.append(row)
    return places, np.array(rows, dtype=np.float32).reshape(len(rows), len(FEATURES))


def _one_hot(size: int, place: int) -> list[float]:
    row = [0.0] * size
    row[place] = 1.0
    return row


def _shape(word: str, is_first: bool) -> str:
    lower = word.lower()
    if _DIGIT.search(word):
        return "number"
    for name, words in _WORDS.items():
        if lower in words:
            return name
    if word[:1].isupper() and not is_first:
        return "name"
    return "other" if not is_first or not word[:1].isupper() else "name"


def _kind(text: str, shapes: Sequence[str]) -> int:
    if _DATE.search(text):
        return 0
    if _NUMBER.search(text):
        return 1
    names = sum(shape == "name" for shape in shapes)
    if names == len(shapes) or (names and all(s in ("name", "determiner", "preposition") for s in shapes)):
        return 2
    return 3 if names else 4


def _before(first: int, shapes: Sequence[str], stops: Sequence[bool]) -> int:
    """What stands before a span: nothing, the end of a clause, or a word of some shape."""
    if first == 0:
        return 0
    return 1 if stops[first - 1] else AROUND.index(shapes[first - 1])


def _behind(last: int, shapes: Sequence[str], stops: Sequence[bool]) -> int:
    if last + 1 >= len(shapes):
        return 0
    return 1 if stops[last] else AROUND.index(shapes[last + 1])


def _nearness(in_question: Sequence[bool], fade: float = 0.8) -> tuple[list[float], list[float]]:
    """For each word, how much of the question stands shortly before it (itself included), and shortly behind it."""
    before: list[float] = []
    behind: list[float] = []
    for found, flags in ((before, in_question), (behind, in_question[::-1])):
        level = 0.0
        for flag in flags:
            level = level * fade + (1 - fade) * flag
            found.append(level)
    return before, behind[::-1]


def _head(question: str) -> frozenset[str] | None:
    """The noun asked for: "city" in "which city", "wheels" in "how many wheels"."""
    match = _HEAD.search(question)
    if match is None:
        return None
    return frozenset(tokens(match[1] or match[2])) or None


def _trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """Without punctuation at the ends; a bracket that the span opens is closed in it."""
    while start < stop and text[start] in _EDGES:
        start += 1
    while stop > start and text[stop - 1] in _EDGES and not (text[stop - 1] == ")" and "(" in text[start:stop]):
        stop -= 1
    return start, stop


WEIGHTS: Final = np.array(
    [
        -0.26, 1.93, -0.74, -0.52, -0.41, 1.97, -0.01, -0.95, -0.37, -0.64, -1.05, -0.49, 1.70, 0.23, -0.40, -0.54,
        -0.49, 1.52, -0.08, -0.40, -0.11, -0.01, -0.13, -0.05, 0.29, -0.11, 0.05, -0.28, 0.03, 0.30, -0.85, -0.26, 0.82,
        0.20, 0.10, 0.19, 0.77, 0.03, -0.64, -0.35, 0.80, 0.57, 0.04, -0.13, -1.28, 1.24, 0.28, 0.07, -0.37, -1.22,
        -0.11, 0.31, 0.14, 0.05, -0.39, 0.14, -0.12, -0.11, -0.03, 0.14, -0.27, -0.26, -0.09, -0.04, 0.66, -0.44, -0.27,
        -0.09, -0.03, 0.83, -1.17, 0.28, 0.06, -0.10, 0.92, -0.18, -1.23, -0.75, 0.45, -0.89, -0.23, 0.94, 1.57, 0.29,
        -1.08, -1.02, -0.49, 0.36, -0.83, -0.26, 1.09, 1.44, 0.79, 0.96, -0.18, 0.38, 0.64, -0.19, -0.17, 0.25, 0.29,
        -1.21, -0.35, -0.38, 1.71, 0.55, -0.87, -0.23, -0.09, -0.16, 0.65, 0.14, -1.03, -0.42, -0.32, 1.22, -3.24,
        -0.54, -0.47, -0.13, 2.29, 1.06, 3.63, -0.11, 1.92, 0.79, -1.00, 0.35,
    ],
    dtype=np.float32,
)  # fmt: skip
"""In the order of FEATURES, fitted on 10,208 questions. With the right sentence given, the best span's F1 on the
development sets is 43.9 (SQuADShifts, 1,184 questions) and 43.8 (Natural Questions, 524); a network: 47.1 and 41.4."""
