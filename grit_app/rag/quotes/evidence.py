"""How likely a sentence answers a question, judged by its words alone: cheap, and independent of the model.

    evidence(sentence) = WEIGHTS · features

The features are shares of the question's words (rarer among the candidates counts more), pairs of neighbouring words,
the words of the sentences before and behind, length, place, and whether the sentence holds the kind of thing that is
asked for (a number, a date, a name, a reason). The weights are those of a softmax over the sentences of a passage,
fitted by `python -m training.fit.evidence` on training questions; they are the same for all models.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.keep.keywords import tokens
from grit_app.rag.quotes.sentences import Sentence

Asked = Literal["number", "time", "person", "place", "reason", "manner", "thing"]
ASKED: Final[tuple[Asked, ...]] = get_args(Asked)

FEATURES: Final = (
    "words",
    "pairs",
    "words_before",
    "words_behind",
    "length",
    "new_words",
    "is_first",
    "place",
    "kind",
    "kind_narrow",
    "opens_with_pronoun",
)
WEIGHTS: Final = np.array([7.19, -0.41, 2.50, 1.08, 0.55, -0.83, -0.14, -0.31, 0.54, 1.48, 0.40])

_ASKED: Final[tuple[tuple[Asked, str], ...]] = (
    (
        "number",
        r"\bhow (many|much|old|long|far|tall|big|large|high|often)\b|\bpercent|\b(what|which) (number|share|rate)\b",
    ),
    ("time", r"\bwhen\b|\b(what|which) (year|date|day|month|century|decade|time)\b"),
    ("person", r"\bwho(m|se)?\b"),
    ("place", r"\bwhere\b|\b(what|which) (city|country|state|place|region|town)\b"),
    ("reason", r"\bwhy\b"),
    ("manner", r"\bhow\b"),
)
NUMBER_WORD: Final = (
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|dozen|hundred|thousand|million|billion|half|"
    r"once|twice"
)
TIME_WORD: Final = (
    r"january|february|march|april|may|june|july|august|september|october|november|december|monday|tuesday|wednesday|"
    r"thursday|friday|saturday|sunday|century|years?|days?|night|morning|when|after|before|during|until|spring|summer|"
    r"autumn|winter"
)
_KIND: Final[dict[Asked, str]] = {
    "number": r"\d",
    "time": rf"\b1\d{{3}}\b|\b20\d\d\b|(?i:\b({TIME_WORD})\b)",
    "reason": r"(?i:\b(because|since|so that|due to|in order|to|for|as|reason|therefore|caused?)\b)",
}
_NARROW: Final[dict[Asked, str]] = {
    "number": rf"\d|(?i:\b({NUMBER_WORD})\b)",
    "time": r"\d{3,4}",
    "place": r"(?i:\b(in|at|on|near|from|to|into|north|south|east|west|city|country)\b)",
    "reason": r"(?i:because|so that|due to)",
}
_PRONOUN: Final = re.compile(r"(he|she|it|they|this|these|those|his|her|its|their)\b", re.IGNORECASE)
_NAME: Final = re.compile(r"(?<!^)\b[A-Z]\w+")


def asked_for(question: str) -> Asked:
    """The kind of thing that a question asks for."""
    return next((kind for kind, pattern in _ASKED if re.search(pattern, question, re.IGNORECASE)), "thing")


def evidence(question: str, sentences: Sequence[Sentence]) -> NDArray[np.float64]:
    """For each sentence [n] a score: differences are log-odds of holding the answer, within one set of passages."""
    return features(question, sentences) @ WEIGHTS if sentences else np.zeros(0)


def features(question: str, sentences: Sequence[Sentence]) -> NDArray[np.float64]:
    """[n, len(FEATURES)]."""
    asked = tokens(question)
    wanted, pairs = set(asked), set(pairwise(asked))
    terms = [tokens(sentence.text) for sentence in sentences]
    rarity = _rarity(terms)
    total = sum(rarity(term) for term in wanted) or 1.0
    shares = [sum(rarity(term) for term in set(words) & wanted) / total for words in terms]
    kind = asked_for(question)
    names_asked = {word.lower() for word in re.findall(r"\w+", question)}
    counts = Counter(sentence.passage for sentence in sentences)
    place: Counter[int] = Counter()
    rows: list[list[float]] = []
    for index, (sentence, words) in enumerate(zip(sentences, terms, strict=True)):
        before = index > 0 and sentences[index - 1].passage == sentence.passage
        behind = index + 1 < len(sentences) and sentences[index + 1].passage == sentence.passage
        number = place[sentence.passage]
        place[sentence.passage] += 1
        broad, narrow = _holds(kind, sentence.text, names_asked)
        rows.append(
            [
                shares[index],
                len(set(pairwise(words)) & pairs) / (len(pairs) or 1),
                shares[index - 1] if before else 0.0,
                shares[index + 1] if behind else 0.0,
                math.log1p(len(words)),
                len(set(words) - wanted) / 20,
                float(number == 0),
                number / counts[sentence.passage],
                float(broad),
                float(narrow),
                float(_PRONOUN.match(sentence.text) is not None),
            ]
        )
    return np.array(rows)


def _rarity(terms: Sequence[Sequence[str]]) -> _Rarity:
    return _Rarity(Counter(term for words in terms for term in set(words)), len(terms))


class _Rarity:
    """Inverse document frequency among the candidates: a word that all of them hold tells none apart."""

    def __init__(self, frequency: Counter[str], count: int) -> None:
        self._frequency = frequency
        self._count = count

    def __call__(self, term: str) -> float:
        frequency = self._frequency[term]
        return math.log(1 + (self._count - frequency + 0.5) / (frequency + 0.5))


def _holds(kind: Asked, text: str, names_asked: set[str]) -> tuple[bool, bool]:
    """Whether a text holds what is asked for, by a broad and by a narrow sign."""
    if kind in ("person", "place"):
        names = [name for name in _NAME.findall(text) if name.lower() not in names_asked]
        narrow = len(names) > 2 if kind == "person" else re.search(_NARROW[kind], text) is not None
        return bool(names), narrow
    broad, narrow_sign = _KIND.get(kind), _NARROW.get(kind)
    return (
        broad is not None and re.search(broad, text) is not None,
        narrow_sign is not None and re.search(narrow_sign, text) is not None,
    )
