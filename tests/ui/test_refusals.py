"""What cannot be asked now is a sentence, and leaves conversation, box and what waits as they were; in both tabs."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from grit_app.settings import Settings
from grit_app.ui.base import texts
from grit_app.ui.base.desk import MAX_WAITING, Desk
from grit_app.ui.base.messages import Message, asked, reply
from grit_app.ui.chat.handlers import ChatHandlers
from grit_app.ui.documents.answer_handlers import AnswerHandlers
from grit_app.ui.documents.removals import Removals

Begin = Callable[[str, Desk], Any]
Again = Callable[[list[Message], Desk], Any]
NOBODY: Any = None  # neither model nor visitors are asked before a question's turn has come


def tabs() -> list[tuple[Begin, Again]]:
    """How a question begins, and how an earlier one is tried again, in each tab."""
    chat, answers = ChatHandlers(NOBODY, NOBODY), AnswerHandlers(NOBODY, NOBODY, Settings(), Removals())
    retry: Any = SimpleNamespace(index=1)
    return [
        (lambda question, desk: chat.begin(question, desk, ""), lambda had, desk: chat.retried(had, desk, retry, "")),
        (answers.begin, lambda had, desk: answers.retried(had, desk, retry)),
    ]


@pytest.fixture(params=[0, 1], ids=["chat", "documents"])
def tab(request: pytest.FixtureRequest) -> tuple[Begin, Again]:
    return tabs()[request.param]


@pytest.fixture
def toasts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    told: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda text, duration=None: told.append(text))
    return told


def skips(outputs: Any) -> bool:
    return all(one == gr.skip() for one in (outputs if isinstance(outputs, tuple) else (outputs,)))


@pytest.mark.parametrize("words", ["", "   ", "\n\t"])
def test_an_empty_question_is_nothing(tab: tuple[Begin, Again], words: str, toasts: list[str]) -> None:
    desk = Desk()
    assert skips(tab[0](words, desk)) and (desk.jobs, desk.returned, toasts) == ([], [], [])


def test_a_full_desk_says_so_and_gives_the_question_back(tab: tuple[Begin, Again], toasts: list[str]) -> None:
    begin, again = tab
    desk = Desk()
    for number in range(MAX_WAITING):
        begin(f"question {number}", desk)
    waiting = list(desk.jobs)
    assert skips(begin("one more", desk))
    assert (desk.jobs, desk.returned, toasts) == (waiting, ["one more"], [texts.DESK_FULL])

    history = [asked("first"), reply("answer")]
    shown = again(history, desk)
    assert shown[0] == history and skips(shown[1:])
    assert desk.jobs == waiting and toasts == [texts.DESK_FULL] * 2, "trying again said nothing in one of the tabs"
