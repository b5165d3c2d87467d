"""Marks are the program's work: they must be earned by the passage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from grit_app.rag.citations import align
from grit_app.rag.quotes.sentences import sentences_of


@pytest.fixture(scope="module")
def hits(make_library, tiny_model) -> list[Any]:
    """bees, rivers, study: in this order."""
    library = make_library(tiny_model)
    found = library.search(np.ones(32, dtype=np.float32), "bees rivers study schools honey Elbe", 3)
    library.close()
    return sorted(found, key=lambda hit: hit.chunk.document_name)


def test_each_sentence_points_to_its_own_passage(hits, tiny_model):
    text = "A total of 370 schools participated in the United States. Bees make honey from nectar."
    cited = align(text, hits, tiny_model)
    assert cited.order == [2, 0, 1]  # numbered as they are cited, the uncited one last
    assert cited.marked == (
        "A total of 370 schools participated in the United States. [1] Bees make honey from nectar. [2]"
    )
    assert cited.is_supported


def test_a_sentence_without_support_has_no_mark(hits, tiny_model):
    cited = align("Bees make honey from nectar. The chapel was painted by Michelangelo.", hits, tiny_model)
    assert [numbers for _, numbers in cited.sentences] == [[1], []]
    assert not cited.is_supported


def test_a_number_that_the_passage_lacks_is_never_supported(hits, tiny_model):
    """The words of the passage with another number: the most harmful thing to mark as proven."""
    cited = align("A total of 570 schools participated in the United States.", hits, tiny_model)
    assert cited.supports == {}


def test_support_is_the_sentence_of_the_passage(hits, tiny_model):
    cited = align("370 schools of the United States participated.", hits, tiny_model)
    support = cited.supports[2]
    assert hits[2].chunk.text[support.start : support.stop] == (
        "A total of 370 schools participated in the United States."
    )


def test_nothing_to_cite(hits, tiny_model):
    empty = align("", hits, tiny_model)
    assert (empty.sentences, empty.order, empty.marked, empty.is_supported) == ([], [0, 1, 2], "", False)
    assert align("Bees make honey.", [], tiny_model).sentences == [("Bees make honey.", [])]


def test_sentences_know_their_place():
    passages = ["One stands here. Two follows it.\nA row | 3", "Four."]
    found = sentences_of(passages)
    assert [passages[s.passage][s.start : s.stop] for s in found] == [s.text for s in found]
    assert [s.text for s in found] == ["One stands here.", "Two follows it.", "A row | 3", "Four."]
