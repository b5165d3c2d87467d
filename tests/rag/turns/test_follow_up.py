"""Questions that lean on the one before are made whole; questions that stand alone stay as they are."""

from __future__ import annotations

import pytest

from grit_app.rag.turns.follow_up import Turn, rewrite

MUSEUM = Turn("When is the museum open?", "Daily from ten to six.")
TOWER = Turn("Who designed the Eiffel Tower?", "The engineer Gustave Eiffel and his company.")
FEES = Turn("How much is the fee for students?", "It is 4 euros.")


@pytest.mark.parametrize(
    ("turn", "question", "expected"),
    [
        (MUSEUM, "And on Thursdays?", "When is the museum open on Thursdays?"),
        (MUSEUM, "and in winter", "When is the museum open in winter?"),
        (MUSEUM, "What about the library?", "When is the museum open? And the library?"),
        (MUSEUM, "Where is it?", "Where is the museum?"),
        (MUSEUM, "And where is it?", "Where is the museum?"),
        (MUSEUM, "Why?", "When is the museum open? Why?"),
        (MUSEUM, "What is its address?", "What is the museum's address?"),
        (FEES, "And for children?", "How much is the fee for children?"),
        (TOWER, "When was it finished?", "When was the Eiffel Tower finished?"),
        (TOWER, "When did he die?", "When did Gustave Eiffel die?"),
        (Turn("What is written there?"), "Who wrote it?", "What is written there? Who wrote it?"),
    ],
)
def test_a_question_that_follows_reads_by_itself(turn: Turn, question: str, expected: str) -> None:
    assert rewrite(question, [turn]) == expected


@pytest.mark.parametrize(
    "question",
    [
        "How deep is the harbour?",
        "When was the lighthouse built and who paid for it?",
        "How long does it take to walk around the island?",
        "What does this report say about schools?",
        "Which fish that live in the bay are protected?",
        "Is it allowed to swim in the lake?",
        "Andes: how high are they?",
    ],
)
def test_a_question_that_stands_alone_is_left_alone(question: str) -> None:
    assert rewrite(question, [MUSEUM]) == question


def test_without_earlier_turns_nothing_is_changed() -> None:
    assert rewrite("And on Thursdays?", []) == "And on Thursdays?"
    assert rewrite("Why?", [Turn("  ")]) == "Why?"


def test_the_last_turn_counts_and_rewriting_is_quick() -> None:
    assert rewrite("And on Thursdays?", [TOWER, MUSEUM]) == "When is the museum open on Thursdays?"
    long = "the " * 20_000
    assert rewrite(f"{long}it?", [Turn(f"When is {long}open?")])
