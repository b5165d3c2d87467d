"""The few words of a quoted sentence that answer, judged by their form and place: independent of the model.

    score(span) = WEIGHTS · features,  the best of all runs of up to MOST_WORDS words

The features tell the kind of thing (number, date, name, …) against what is asked for, how the span begins and ends and
what stands around it, its length, and how near the question's words stand. The weights are those of a softmax over
the spans of a sentence, fitted by `python -m training.fit.spans` on training questions; the kind of model that
Rajpurkar et al. 2016 (SQuAD, section 5.2) report, without its parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.keep.keywords import tokens
from grit_app.rag.quotes.evidence import ASKED, NUMBER_WORD, TIME_WORD, asked_for

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
    """Character spans [n] of the candidates, and [n, len(FEATURES)]. Facts of words first, spans by sums over them."""
    places = [(match.start(), match.end()) for match in re.finditer(r"\S+", text)][:SOUGHT_WORDS]
    raw = [text[a:b] for a, b in places]
    bare = [word.strip(_EDGES) for word in raw]
    count = len(raw)
    first, last = np.triu_indices(count)
    is_word = np.array([bool(word) for word in bare], dtype=bool)
    chosen = (last - first < MOST_WORDS) & is_word[first] & is_word[last]
    first, last = first[chosen], last[chosen]
    if not len(first):
        return [], np.zeros((0, len(FEATURES)), dtype=np.float32)

    shapes = [_shape(word, number == 0) for number, word in enumerate(bare)]
    shape = np.array([SHAPES.index(name) for name in shapes])
    stops = np.array([_STOP.search(word) is not None for word in raw])
    stems = [frozenset(tokens(word)) for word in bare]
    asked_words, head = frozenset(tokens(question)), _head(question)
    in_question = np.array([bool(stem & asked_words) for stem in stems])
    is_head = np.array([head is not None and bool(stem & head) for stem in stems])

    def inside(flags: Sequence[bool] | NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many words of each span have the flag."""
        sums = np.concatenate([[0], np.cumsum(flags)])
        counts: NDArray[np.int64] = sums[last + 1] - sums[first]
        return counts

    length = np.digitize(last - first, LENGTHS[:-1])
    kind = _kinds(bare, shapes, last - first + 1, inside)
    asked = ASKED.index(asked_for(question))
    counted = inside([bool(stem) for stem in stems])
    asked_share = inside(in_question) / np.maximum(counted, 1)
    near_before, near_behind = _nearness(in_question.tolist())
    before = np.array([0.0, *near_before])[first]
    behind = np.array([*near_behind, 0.0])[last + 1]
    is_name = shape == SHAPES.index("name")
    joins_next = np.append(is_name[:-1] & is_name[1:] & ~stops[:-1], False)  # a word and the next are one name
    padded = np.pad(is_head, 3)  # word k stands at k + 3
    around = shape + AROUND.index(SHAPES[0])
    before_word = np.concatenate([[0], np.where(stops, 1, around)])
    behind_word = np.where(stops, 1, np.append(around[1:], 0))
    behind_word[-1] = 0
    columns = [
        _one_hot(asked * len(KINDS) + kind, len(ASKED) * len(KINDS)),
        _one_hot(length, len(LENGTHS)),
        _one_hot(asked * len(LENGTHS) + length, len(ASKED) * len(LENGTHS)),
        _one_hot(shape[first], len(SHAPES)),
        _one_hot(shape[last], len(SHAPES)),
        _one_hot(before_word[first], len(AROUND)),
        _one_hot(behind_word[last], len(AROUND)),
        np.stack(
            [
                asked_share,
                asked_share == 1.0,
                np.append(False, joins_next)[first],
                joins_next[last],
                inside(stops) - stops[last],
                before,
                behind,
                np.maximum(before, behind),
                (padded[:-3] | padded[1:-2] | padded[2:-1])[first],
                inside(is_head) > 0,
                (padded[4:] | np.append(padded[5:], False) | np.append(padded[6:], [False, False]))[last],
                first / count,
                np.array([word[0] in '([“"' for word in raw])[first],
            ],
            axis=1,
        ),
    ]
    return _trimmed(text, places, first, last), np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")


def _one_hot(places: NDArray[np.int64], size: int) -> NDArray[np.float32]:
    return np.eye(size, dtype=np.float32)[places]


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


def _kinds(
    bare: Sequence[str],
    shapes: Sequence[str],
    sizes: NDArray[np.int64],
    inside: Callable[[Sequence[bool]], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """Place in KINDS of each span: a date if a word of it is one, else a number, else by its names."""
    names = inside([shape == "name" for shape in shapes])
    fitting = inside([shape in ("name", "determiner", "preposition") for shape in shapes])
    kinds = [
        inside([_DATE.search(word) is not None for word in bare]) > 0,
        inside([_NUMBER.search(word) is not None for word in bare]) > 0,
        (names > 0) & (fitting == sizes),
        names > 0,
    ]
    return np.select(kinds, [0, 1, 2, 3], default=4)


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


def _trimmed(
    text: str, words: Sequence[tuple[int, int]], first: NDArray[np.int64], last: NDArray[np.int64]
) -> list[tuple[int, int]]:
    """The spans without punctuation at their ends; a bracket that one opens is closed in it."""
    starts = [stop - len(text[start:stop].lstrip(_EDGES)) for start, stop in words]
    ends = [start + len(text[start:stop].rstrip(_EDGES)) for start, stop in words]
    closing = [start + len(text[start:stop].rstrip(_EDGES.replace(")", ""))) for start, stop in words]
    places = []
    for i, j in zip(first.tolist(), last.tolist(), strict=True):
        is_closed = closing[j] > ends[j] and "(" in text[starts[i] : closing[j]]
        places.append((starts[i], closing[j] if is_closed else ends[j]))
    return places


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
