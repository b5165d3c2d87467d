"""Errors become sentences, streams become steady updates, foreign text stays text."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator
from itertools import pairwise

import gradio as gr
import pytest

from grit_app.errors import Cancelled, DocumentError, InputError
from grit_app.ui.base.handlers import escape, guarded, keeping, message_text, steady


def test_an_expected_error_reaches_the_visitor_as_its_own_sentence() -> None:
    @guarded
    def handler() -> None:
        raise DocumentError("report.pdf is empty. Choose another file.")

    with pytest.raises(gr.Error) as caught:
        handler()
    assert caught.value.message == "report.pdf is empty. Choose another file."
    assert caught.value.duration is None  # it stays until it is closed


def test_the_sentence_about_a_slip_goes_by_itself() -> None:
    """Until it is closed it would stand over the badge, and on every other tab."""

    @guarded
    def handler() -> None:
        raise InputError("The question is empty. Type one.")

    with pytest.raises(gr.Error) as caught:
        handler()
    assert caught.value.duration == 12


def test_where_progress_is_shown_an_error_is_told_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    toasts: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda text, duration=None: toasts.append(text))

    def fails(error: Exception) -> tuple[int, ...]:
        raise error

    assert keeping(fails, 3)(InputError("Write a query.")) == (gr.skip(),) * 3
    assert keeping(fails, 1)(Cancelled("Stopped.")) == (gr.skip(),)
    assert toasts == ["Write a query."]
    assert keeping(lambda: (1, 2), 2)() == (1, 2)


def test_an_unexpected_error_is_logged_under_an_id_and_tells_nothing_of_the_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A traceback or a path on the page would tell strangers about the server."""

    @guarded
    def handler() -> Iterator[str]:
        yield "begun"
        raise KeyError("/secret/path")

    stream = handler()
    assert next(stream) == "begun"
    with caplog.at_level(logging.ERROR, "grit_app.ui"), pytest.raises(gr.Error) as caught:
        next(stream)
    assert "secret" not in caught.value.message and "KeyError" not in caught.value.message
    number = caught.value.message.rsplit("error ", 1)[1].rstrip(").")
    assert number in caplog.text and "/secret/path" in caplog.text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_an_error_message_with_markup_is_shown_as_text() -> None:
    """A toast renders HTML, and a file's name is part of the message."""

    @guarded
    def handler() -> None:
        raise DocumentError("<img src=x onerror=alert(1)>.pdf is broken.")

    with pytest.raises(gr.Error) as caught:
        handler()
    assert "<img" not in caught.value.message
    assert html.unescape(caught.value.message) == "<img src=x onerror=alert(1)>.pdf is broken."


def test_a_guarded_handler_keeps_its_signature() -> None:
    """Gradio finds `request` and event data by their annotations."""
    import inspect

    def handler(text: str, request: gr.Request) -> str:
        return text

    assert inspect.signature(guarded(handler)) == inspect.signature(handler)


def test_steady_shows_everything_but_not_every_token() -> None:
    """The first piece at once, the last word never lost, in between at most one update an interval."""
    now = 0.0
    pieces = [f"{number} " for number in range(100)]

    def ticking() -> Iterator[str]:
        nonlocal now
        for piece in pieces:
            now += 0.01
            yield piece

    shown = list(steady(ticking(), interval_s=0.05, clock=lambda: now))
    assert shown[0] == pieces[0]
    assert shown[-1] == "".join(pieces)
    assert len(shown) <= 100 * 0.01 / 0.05 + 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(shown))


def test_steady_yields_nothing_for_nothing() -> None:
    assert list(steady([])) == []


def test_escape_covers_quotes_too() -> None:
    assert escape("\"'<>&") == "&quot;&#x27;&lt;&gt;&amp;"


def test_words_of_a_message_in_each_form_in_which_gradio_sends_it() -> None:
    blocks = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    assert message_text("one two") == message_text(blocks) == "one two"
    assert message_text({"type": "file", "file": {}}) == ""
    assert message_text(None) == ""


def test_stopping_is_not_an_error_on_the_page() -> None:
    @guarded
    def handler() -> Iterator[str]:
        yield "so far"
        raise Cancelled("Stopped.")

    assert list(handler()) == ["so far"]
