"""Short embedding requests of several callers in common forwards: the vectors of each alone, and nobody passed over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from grit_app.errors import Cancelled, InputError
from grit_app.gritlm.scheduler import Job
from grit_app.serve.embedder import Embedder
from tests.serve.conftest import until


@pytest.fixture
def embedder(load_tiny: Callable[..., Any]) -> Iterator[Embedder]:
    counted: list[int] = []
    made = Embedder(load_tiny("llama"), lambda: counted.append(1))
    made.forwards = counted  # type: ignore[attr-defined]
    yield made
    made.close()


@contextmanager
def busy(embedder: Embedder) -> Iterator[None]:
    """The model in somebody else's hands, and one request taken already: what follows gathers."""
    model = embedder._model
    with ThreadPoolExecutor(1) as pool:
        with model.scheduler:
            first = pool.submit(embedder.encode, "first", ["a"], "", Job())
            until(lambda: model.scheduler.is_busy and any(line.waiting for line in model.scheduler._lines.values()))
            yield
        first.result(20)


def gathered(embedder: Embedder) -> int:
    return sum(map(len, embedder._waiting.values()))


def test_requests_that_come_together_share_a_forward(embedder: Embedder) -> None:
    """Texts of other lengths and instructions beside them change no vector."""
    model = embedder._model
    asked = [
        (f"owner {n % 3}", [f"Bees number {n} make honey.", "Wax." * (1 + n)], "Represent" * (n % 2)) for n in range(9)
    ]
    wanted = [model.encode(texts, instruction) for _, texts, instruction in asked]
    with ThreadPoolExecutor(len(asked)) as pool:
        with busy(embedder):
            found: list[Future[Any]] = [pool.submit(embedder.encode, *one, Job()) for one in asked]
            until(lambda: gathered(embedder) == 18)
        for future, vectors in zip(found, wanted, strict=True):
            np.testing.assert_allclose([one.vector for one in future.result(20)], vectors, atol=1e-5)
    assert len(embedder.forwards) <= 4, "nine requests and the first one"  # type: ignore[attr-defined]


def test_an_owner_with_many_texts_leaves_room_for_the_others(embedder: Embedder) -> None:
    ended: list[str] = []

    def ask(owner: str, texts: list[str]) -> None:
        embedder.encode(owner, texts, "", Job())
        ended.append(owner)

    with ThreadPoolExecutor(2) as pool, busy(embedder):
        pool.submit(ask, "many", ["bee " * 200] * 30)
        until(lambda: gathered(embedder) == 30)
        pool.submit(ask, "one", ["bee " * 190])
        until(lambda: gathered(embedder) == 31)
    assert ended == ["one", "many"]


def test_who_gives_up_is_forgotten_and_a_fault_is_the_asker_s(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grit_app.serve import embedder as module

    job = Job()
    with ThreadPoolExecutor(1) as pool, busy(embedder):
        given_up = pool.submit(embedder.encode, "x", ["bee"] * 3, "", job)
        until(lambda: gathered(embedder) == 3)
        job.set()
        with pytest.raises(Cancelled):
            given_up.result(20)
        assert gathered(embedder) == 0
    with pytest.raises(InputError, match="Text 1 is empty"):
        embedder.encode("x", ["bee", " "], "", Job())

    def broken(*_: object) -> None:
        raise RuntimeError("one forward")

    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_prompts", broken)
        with pytest.raises(RuntimeError, match="one forward"):
            embedder.encode("x", ["bee"], "", Job())
    assert len(embedder.encode("x", ["bee"], "", Job())) == 1


def test_closing_ends_who_waits(load_tiny: Callable[..., Any]) -> None:
    embedder = Embedder(load_tiny("llama"), lambda: None)
    with ThreadPoolExecutor(1) as pool, embedder._model.scheduler:
        waiting = pool.submit(embedder.encode, "x", ["bee"], "", Job())
        until(lambda: threading.active_count() > 1 and embedder._thread.is_alive())
        embedder.close()
        with pytest.raises(Cancelled):
            waiting.result(20)
