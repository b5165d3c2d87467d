"""The model behind the page: loaded once, in the background, and honest about how it stands."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from grit_app.errors import Cancelled, ModelError
from grit_app.ui.base.background import Watch, awaited
from grit_app.ui.base.engine import Engine
from grit_app.ui.base.status import badge


def test_the_page_does_not_wait_and_answers_do(tiny_model: Any) -> None:
    gate = threading.Event()

    def load() -> Any:
        gate.wait(20)
        return tiny_model

    engine = Engine(load)
    engine.start()
    assert engine.state == "loading" and engine.ready_model() is None and "Loading" in badge(engine)
    assert "for 0 s" in badge(engine)
    gate.set()
    assert engine.model() is tiny_model
    assert engine.state == "ready"
    with engine.using():
        assert engine.state == "busy" and "Busy" in badge(engine)
    assert engine.state == "ready"
    shown = badge(engine)
    assert "cpu" in shown and "float32" in shown


def test_a_failed_load_is_a_sentence_and_not_a_traceback() -> None:
    def load() -> Any:
        raise RuntimeError("/secret/path is broken")

    engine = Engine(load)
    engine.start()
    with pytest.raises(ModelError, match=r"could not be loaded") as caught:
        engine.model()
    assert "secret" not in str(caught.value) + badge(engine)
    assert engine.state == "failed" and "Failed" in badge(engine)


def test_a_load_that_cannot_fit_says_its_own_sentence() -> None:
    def load() -> Any:
        raise ModelError("The model needs 14 GB and 6 GB are free. Use --quantization 4bit.")

    engine = Engine(load)
    engine.start()
    with pytest.raises(ModelError, match="4bit"):
        engine.model()
    assert "14 GB" in badge(engine)


def test_stop_reaches_an_answer_that_waits_for_the_model() -> None:
    never = threading.Event()
    engine = Engine(lambda: never.wait(60))  # type: ignore[arg-type,return-value]
    engine.start()
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        engine.model(cancel)
    assert time.monotonic() - start < 10
    never.set()


def test_news_of_the_work_arrive_in_order_and_its_result_at_the_end() -> None:
    def work(report: Any) -> str:
        for number in range(5):
            report(number)
            time.sleep(0.01)
        return "done"

    watch: Watch[int, str] = Watch(work, threading.Event(), tick_s=0.005)
    assert [item for news in watch for item in news] == [0, 1, 2, 3, 4]
    assert watch.result == "done"


def test_the_work_s_own_error_is_raised() -> None:
    def work(report: Any) -> None:
        raise ModelError("No.")

    with pytest.raises(ModelError, match=r"No\."):
        list(Watch(work, threading.Event(), tick_s=0.005))


def test_a_page_that_goes_away_cancels_and_waits_for_the_work() -> None:
    """Otherwise the model's lane is free again while the model still works for nobody."""
    cancel, ended = threading.Event(), threading.Event()

    def work(report: Any) -> None:
        cancel.wait(20)
        ended.set()

    stream = iter(Watch(work, cancel, tick_s=0.005))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert cancel.is_set() and ended.is_set()


def test_who_waits_for_a_first_word_is_told_so_at_each_tick() -> None:
    """ "1 before you" was said once, and stood there unchanged until the first word."""

    def words() -> Iterator[str]:
        time.sleep(0.2)
        yield from ("first", "second")

    told = list(awaited(words(), threading.Event(), tick_s=0.02))
    assert told[-2:] == ["first", "second"] and len(told) > 4 and set(told[:-2]) == {None}
    assert list(awaited(iter(()), threading.Event())) == []


def test_an_error_before_the_first_word_is_raised_where_it_is_waited_for() -> None:
    def words() -> Iterator[str]:
        raise ModelError("No.")
        yield ""

    with pytest.raises(ModelError, match=r"No\."):
        list(awaited(words(), threading.Event(), tick_s=0.02))
