"""The few words of a quoted sentence that answer, judged by their form and place: independent of the model.

    score(span) = weights · features,  the best of all runs of up to MOST_WORDS words

The features tell the kind of thing (number, date, name, …) against what is asked for, how the span begins and ends and
what stands around it, its length, and how near the question's words stand. The weights are those of a softmax over
the spans of a sentence, fitted by `python -m training.fit.spans` on training questions; the kind of model that
Rajpurkar et al. 2016 (SQuAD, section 5.2) report, without its parser.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.keep.keywords import tokens
from grit_app.errors import GritError
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


FILE: Final = Path(__file__).with_name("span_weights.json")
SHA256: Final = "c26e374dfa06aba2186b072c36450cc29803124a6db4c21af0187922d957c204"
"""Of the file of fitted weights, so that a changed one is not taken for it."""


@cache
def weights() -> NDArray[np.float32]:
    """[len(FEATURES)], fitted on 10,208 questions. Raises GritError if the file is not the one that was fitted.

    With the right sentence given, the best span's F1 on the development sets is 43.9 (SQuADShifts, 1,184 questions) and
    43.8 (Natural Questions, 524); a network: 47.1 and 41.4.
    """
    content = FILE.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise GritError(f"{FILE.name} is not the file that was fitted. Install the app again, or fit it anew.")
    by_name = json.loads(content)
    return np.array([by_name[name] for name in FEATURES], dtype=np.float32)


def short_answer(question: str, text: str) -> Span | None:
    """The best run of words of `text`; None if it has none."""
    places, rows = features(question, text)
    if not places:
        return None
    scores = rows @ weights()
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
