"""The keyword index: BM25 by bm25s, and a score that means the same for every question.

    tokens     small letters, accents off, English endings off, question and function words left out; Chinese, Japanese
               and Thai by pairs of characters
    share      BM25 (Lucene's form: each term gives idf · tf / (tf + k1·(1 − b + b·length/average)), below idf) divided
               by the idf of all the query's terms, also those that occur nowhere: 0 … 1
    score      1.25 · share / (share + 0.25): about 0.77 where each term occurs once, 0 where none does

Without the unknown terms in the divisor a question about something else would score high on its few common words.
"""

import logging
import math
import re
import unicodedata
from collections.abc import Sequence

import bm25s
import numpy as np
from numpy.typing import NDArray

logging.getLogger("bm25s").setLevel(logging.WARNING)

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?|[$€£%]")
_PAIRED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_STOP_WORDS = """
a about above after again all also am an and any are aren't as at be because been before being below between both but
by can can't could couldn't did didn't do does doesn't doing don't down during each few for from further give given
gives had hadn't has hasn't have haven't having he he's her here hers him his how i i'm if in into is isn't it it's
its itself just let let's many may me might more most much must my no nor not of off on once only or other our ours
out over own please same say says she she's should shouldn't so some such tell than that that's the their them then
there there's these they they're this those through to too under until up us very was wasn't we we're were weren't
what what's when where which while who who's whom whose why will with won't would wouldn't you you're your
"""
_NO_PLURALS = {"news", "always", "perhaps", "means", "lens", "series", "species"}
STOP_WORDS = frozenset(_STOP_WORDS.split())


def tokens(text: str) -> list[str]:
    """The index terms of a text, in order."""
    plain = unicodedata.normalize("NFKD", _SUPERSCRIPTS.sub(" ", text).casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFC", plain)):
        if _PAIRED.search(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        elif word not in STOP_WORDS:
            found.append(stem(word.replace("’", "'").removesuffix("'s")))
    return found


def stem(word: str) -> str:
    """The word without common English endings: schools → school, participating, participated → participat."""
    if len(word) < 4 or not word.isascii() or not word.isalpha() or word in _NO_PLURALS:
        return word
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith("sses"):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    for ending in ("ational", "ation", "ions", "ion", "ing", "ed", "ly"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= 3 and re.search("[aeiouy]", rest):
            doubled = len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "lsz"  # planned, but not filled
            word = rest[:-1] if doubled else rest
            break
    if word.endswith("y"):
        return word[:-1] + "i"
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


class KeywordIndex:
    """Built once over a set of texts; never changed after that, so threads may share it."""

    def __init__(self, token_lists: Sequence[Sequence[str]]) -> None:
        self._count = len(token_lists)
        self._frequency: dict[str, int] = {}
        for terms in token_lists:
            for term in set(terms):
                self._frequency[term] = self._frequency.get(term, 0) + 1
        self._model: bm25s.BM25 | None = None
        if self._frequency:
            self._model = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
            self._model.index([list(terms) for terms in token_lists], show_progress=False)

    def idf(self, term: str) -> float:
        frequency = self._frequency.get(term, 0)
        return math.log(1 + (self._count - frequency + 0.5) / (frequency + 0.5))

    def scores(self, query: str) -> NDArray[np.float32]:
        """For each text, in the order of building, how well the query's terms are covered: 0 … 1."""
        terms = sorted(set(tokens(query)))
        known = [t for t in terms if t in self._frequency]
        if self._model is None or not known:
            return np.zeros(self._count, dtype=np.float32)
        share = self._model.get_scores(known) / sum(self.idf(t) for t in terms)
        return np.asarray(1.25 * share / (share + 0.25), dtype=np.float32)
