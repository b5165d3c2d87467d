"""Questions wait their turn, can be taken back, and a failed answer leaves everything as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from grit_app.errors import Cancelled, InputError
from grit_app.ui.base import desk as desks
from grit_app.ui.base.desk import MAX_WAITING, Changed, Desk, Job, converse, waiting
from grit_app.ui.base.messages import Message, reply, words_of
from grit_app.ui.base.records import Record


def echo(question: list[Message], job: Job) -> Iterator[tuple[Message, Any]]:
    for text in ("A", f"A to {job.question}"):
        yield reply(text), None


def said(history: list[Message]) -> list[str]:
    return [words_of(message) for message in history]


@pytest.fixture
def toasts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(desks.gr, "Warning", lambda words, **options: told.append(words))
    return told


def test_questions_are_answered_in_order_and_each_sees_the_answers_before_it() -> None:
    desk = Desk()
    for text in ("one", "two", "three"):
        desk.put(text)
    lengths = []

    def counting(question: list[Message], job: Job) -> Iterator[tuple[Message, Any]]:
        lengths.append(len(question))
        yield from echo(question, job)

    *_, (history, _) = converse(desk, [], counting)
    assert said(history) == ["one", "A to one", "two", "A to two", "three", "A to three"]
    assert lengths == [1, 3, 5] and not desk.is_running


def test_a_question_sent_meanwhile_waits_is_shown_and_is_answered_by_the_same_run() -> None:
    desk = Desk()
    desk.put("first")
    assert "first" in waiting(desk), "it must be seen also before anybody answers"
    run = converse(desk, [], echo)
    next(run)
    assert waiting(desk) == ""
    desk.put("second <b>")
    assert "second &lt;b&gt;" in waiting(desk)
    assert list(converse(desk, [], echo)) == [], "nobody else may answer at a claimed desk"
    *_, (history, _) = run
    assert said(history)[2:] == ["second <b>", "A to second <b>"] and waiting(desk) == ""


def test_a_question_that_waits_is_answered_as_was_chosen_when_it_was_sent() -> None:
    """The run before it answered it with its own settings: a document ticked meanwhile was not searched."""
    desk, used = Desk(), []
    desk.put("first", choices=("quote",))

    def answer(question: list[Message], job: Job) -> Iterator[tuple[Message, Any]]:
        used.append(job.choices)
        if job.question == "first":
            desk.put("second", choices=("free",))
        yield reply("answer"), None

    list(converse(desk, [], answer))
    assert used == [("quote",), ("free",)]


def test_a_waiting_question_can_be_taken_back_once() -> None:
    desk = Desk()
    desk.put("first")
    run = converse(desk, [], echo)
    next(run)
    desk.put("second")
    (job,) = desk.waiting()
    assert desk.take_back(job.number) == "second" and desk.take_back(job.number) == ""
    *_, (history, _) = run
    assert said(history) == ["first", "A to first"]


def test_a_failed_answer_leaves_the_conversation_and_gives_the_question_back(toasts: list[str]) -> None:
    desk = Desk()
    before = [*[{"role": "user", "content": "old"}], reply("old answer")]

    def failing(question: list[Message], job: Job) -> Iterator[tuple[Message, Any]]:
        yield reply("half an ans"), None
        if job.question == "bad":
            raise InputError("That cannot be done. Do this.")

    desk.put("bad")
    desk.put("good")
    *_, (history, _) = converse(desk, before, failing)
    assert said(history) == ["old", "old answer", "good", "half an ans"]
    assert toasts == ["That cannot be done. Do this."]
    number, words = desk.returned_text().split("\n", 1)
    assert number.isdecimal() and words == "bad" and desk.returned_text() == desks.gr.skip()
    assert not desk.is_running and desk.claim() is False


def test_a_failed_retry_brings_the_earlier_answer_back(toasts: list[str]) -> None:
    desk = Desk()
    before = [{"role": "user", "content": "q"}, reply("first answer")]

    def failing(question: list[Message], job: Job) -> Iterator[tuple[Message, Any]]:
        raise MemoryError
        yield

    desk.put("q", base=[], before=before)
    *_, (history, _) = converse(desk, before, failing)
    assert history == before and len(toasts) == 1 and desk.record.versions == [before]


def test_stopping_keeps_what_was_written(toasts: list[str]) -> None:
    desk = Desk()

    def stopped(question: list[Message], job: Job) -> Iterator[tuple[Message, Any]]:
        yield reply("so far"), None
        raise Cancelled("Stopped.")

    desk.put("q")
    *_, (history, _) = converse(desk, [], stopped)
    assert said(history) == ["q", "so far"] and toasts == []


def test_a_cleared_conversation_stays_empty_though_an_answer_was_on_its_way() -> None:
    desk = Desk()
    desk.put("one")
    desk.put("two")
    run = converse(desk, [], echo)
    next(run)
    desk.show(Record())
    *_, (history, _) = run
    assert history == [] and not desk.is_running
    desk.put("three")
    *_, (history, _) = converse(desk, history, echo)
    assert said(history) == ["three", "A to three"]


def test_a_page_that_closes_in_the_middle_frees_the_desk() -> None:
    desk = Desk()
    desk.put("one")
    run = converse(desk, [], echo)
    next(run)
    run.close()
    desk.put("two")
    *_, (history, _) = converse(desk, [], echo)
    assert said(history) == ["two", "A to two"]


def test_every_page_has_a_desk_of_its_own_and_it_has_an_end() -> None:
    desk = Desk()
    desk.put("one")
    assert copy.deepcopy(desk).waiting() == [] and not copy.deepcopy(desk).claim()
    for number in range(MAX_WAITING):
        desk.put(str(number))
    assert desk.is_full


def test_what_changed_is_told_for_a_moment_and_then_no_more() -> None:
    now = 0.0
    changed = Changed(hold_s=1.0, clock=lambda: now)
    assert changed("a", 1, lambda: "first") == "first"
    now = 0.9
    assert changed("a", 1, lambda: "first") == "first" and changed("a", 2, lambda: "second") == "second"
    now = 2.0
    assert changed("a", 2, lambda: "second") == desks.gr.skip()
