"""The keyword index against BM25 written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_app.documents.keep.keywords import KeywordIndex, stem, tokens

VOCABULARY = ["school", "river", "honey", "grain", "united", "370", "mill", "bee"]
TEXTS = st.lists(st.lists(st.sampled_from(VOCABULARY), max_size=12), min_size=1, max_size=8)


def by_hand(texts: list[list[str]], query: list[str]) -> list[float]:
    """Lucene's BM25 (k1 1.2, b 0.75) over the query's whole idf, in float64, then 1.25 x / (x + 0.25)."""
    average = sum(map(len, texts)) / len(texts)

    def idf(term: str) -> float:
        containing = sum(term in text for text in texts)
        return math.log(1 + (len(texts) - containing + 0.5) / (containing + 0.5))

    scores = []
    for text in texts:
        found = 0.0
        for term in set(query):
            count = text.count(term)
            if count:
                found += idf(term) * count / (count + 1.2 * (1 - 0.75 + 0.75 * len(text) / average))
        share = found / sum(idf(term) for term in set(query))
        scores.append(1.25 * share / (share + 0.25))
    return scores


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(st.sampled_from([*VOCABULARY, "unknown", "zebra"]), min_size=1, max_size=5))
def test_scores_are_bm25_over_the_whole_query(texts: list[list[str]], query: list[str]) -> None:
    indexed = [[stem(word) for word in text] for text in texts]
    scores = KeywordIndex(indexed).scores(" ".join(query))
    expected = by_hand(indexed, [stem(word) for word in query]) if any(texts) else [0.0] * len(texts)
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_a_question_about_something_else_scores_low() -> None:
    """Divided by the known words alone, a question that shares one word of ten would look fully covered."""
    index = KeywordIndex([tokens(f"The schools of county number {i} took part in the study.") for i in range(10)])
    about = index.scores("Which schools took part in the study?").max()
    other = index.scores("Which volcano erupted near the schools of Iceland yesterday morning?").max()
    assert about > 0.6 > 0.3 > other > 0


def test_empty_libraries_and_questions() -> None:
    assert KeywordIndex([]).scores("schools").shape == (0,)
    assert KeywordIndex([[], []]).scores("schools").tolist() == [0, 0]
    assert KeywordIndex([["school"]]).scores("what is it about?").tolist() == [0]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("schools", "school"), ("participated", "participating"), ("cities", "city"), ("running", "runs"),
        ("policies", "policy"), ("classes", "class"), ("planned", "planning"), ("rates", "rate"), ("nations", "nation"),
    ],
)  # fmt: skip
def test_english_forms_meet(a: str, b: str) -> None:
    assert stem(a) == stem(b)


@pytest.mark.parametrize(("a", "b"), [("bus", "bu"), ("news", "new"), ("1990s", "1990"), ("sing", "s"), ("is", "i")])
def test_different_words_stay_different(a: str, b: str) -> None:
    assert stem(a) != stem(b)


def test_what_is_a_term() -> None:
    assert tokens("How many U.S. schools’ principals said “yes”?") == [
        "u",
        "s",
        stem("schools"),
        stem("principals"),
        *tokens("said yes"),
    ]
    assert tokens("Café ÉCOLE") == ["cafe", stem("ecole")]
    assert tokens("85 percent¹⁰") == ["85", stem("percent")]
    assert tokens("図書館") == ["図書", "書館"]
    assert tokens("What is this about?") == []


def test_scores_do_not_depend_on_the_order_of_texts() -> None:
    texts = [["river", "mill"], ["bee", "honey", "bee"], ["grain"]]
    forward, backward = KeywordIndex(texts), KeywordIndex(texts[::-1])
    np.testing.assert_allclose(forward.scores("bee mill"), backward.scores("bee mill")[::-1], rtol=1e-6)
