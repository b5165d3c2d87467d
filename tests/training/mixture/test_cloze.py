"""Questions made from running text: answers stand in the passage, questions do not give them away."""

from __future__ import annotations

import random

from training.mixture.cloze import cloze_questions, passages

TEXT = (
    "The Northern Bridge was opened on 4 May 1932 by John Lang in Sydney. It has 52800 steel plates, and about "
    "160 thousand cars cross it each day. The bridge is a symbol of the city, because painters never finish it. "
    "Its engineer, Ralph Freeman, studied in London.\nA tunnel was added in 1992. It is longer than the bridge and "
    "has two lanes in each direction, so that lorries from the harbour no longer pass through the centre of the town."
)


def test_answers_are_spans_of_the_passage_and_hidden_in_the_question() -> None:
    kinds = set()
    for seed in range(60):
        rng = random.Random(seed)
        for passage in passages(TEXT, rng, 20, 60):
            for cloze in cloze_questions(passage, rng, 5):
                assert passage[cloze.start : cloze.start + len(cloze.answer)] == cloze.answer
                if passage.count(cloze.answer) == 1:
                    assert cloze.answer not in cloze.question
                kinds.add((cloze.answer, cloze.question.split()[0].lower()))
    assert ("4 May 1932", "when") in kinds
    assert ("Ralph Freeman", "who") in kinds
    assert ("52800", "how") in kinds
    assert ("Sydney", "where") in kinds
    assert not any(answer in ("It", "The", "Its", "A") for answer, _ in kinds)


def test_passages_are_whole_sentences_of_the_wanted_length() -> None:
    for seed in range(20):
        found = list(passages(TEXT, random.Random(seed), 20, 60))
        assert found
        for passage in found:
            assert 20 <= len(passage.split()) <= 60
            assert passage.endswith(".") and all(s in TEXT.replace("\n", " ") for s in [passage])
