"""The model's lock: re-entrant, exclusive, and shared fairly between a long embedding job and an answer."""

from __future__ import annotations

import threading
import time
from itertools import pairwise
from typing import Any

import pytest

from grit_app.gritlm import GritLM
from grit_app.gritlm.embed import encoding
from grit_app.gritlm.lock import IDLE_S, ModelLock


def hold(lock: ModelLock, until: threading.Event) -> threading.Thread:
    """A thread that holds the lock, which it has taken when this returns, until the event is set."""
    taken = threading.Event()

    def work() -> None:
        with lock:
            taken.set()
            until.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    assert taken.wait(10)
    return thread


def test_it_is_exclusive_and_re_entrant() -> None:
    lock, end = ModelLock(), threading.Event()
    with lock:
        with lock:
            assert not lock.is_busy, "one's own use does not count"
        started = time.monotonic()
        lock.give_way(10)
        assert time.monotonic() - started < 5
    assert not lock.is_busy
    thread = hold(lock, end)
    assert lock.is_busy
    assert not lock.acquire(blocking=False)
    assert not lock.acquire(timeout=0.01)
    end.set()
    thread.join()
    assert not lock.is_busy
    assert lock.acquire(blocking=False)
    lock.release()


def test_an_error_inside_frees_it() -> None:
    lock = ModelLock()
    with pytest.raises(ValueError), lock:
        raise ValueError
    assert not lock.is_busy


def test_giving_way_ends_when_nobody_is_there() -> None:
    lock = ModelLock()
    with lock:
        pass
    started = time.monotonic()
    lock.give_way(10)
    assert time.monotonic() - started < 5


def test_giving_way_lasts_while_others_work_but_not_longer_than_asked() -> None:
    lock, end = ModelLock(), threading.Event()
    thread = hold(lock, end)
    started = time.monotonic()
    lock.give_way(4 * IDLE_S)
    assert time.monotonic() - started >= 4 * IDLE_S
    end.set()
    thread.join()


def test_an_answer_gets_more_than_one_token_a_batch(tiny_model: GritLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a document is embedded, an answer in another thread must go on at about half its speed."""
    run_trunk = encoding.run_trunk

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.1)
        return run_trunk(*args, **kwargs)

    monkeypatch.setattr(encoding, "run_trunk", slow)
    stop = threading.Event()
    turns = 0

    def answer() -> None:
        nonlocal turns
        while not stop.is_set():
            with tiny_model.lock:
                time.sleep(0.005)
            turns += 1
            time.sleep(0.001)

    thread = threading.Thread(target=answer)
    thread.start()
    at_batch: list[int] = []
    tiny_model.encode([f"text {i} " * 30 for i in range(8)], batch_size=1, progress=lambda *_: at_batch.append(turns))
    stop.set()
    thread.join()
    between = [after - before for before, after in pairwise(at_batch)]
    assert len(between) >= 3
    assert sorted(between)[len(between) // 2] >= 4
