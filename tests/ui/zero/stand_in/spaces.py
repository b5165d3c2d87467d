"""Stands for the package of ZeroGPU with its rules: a forked process a call, pickles both ways, a time that ends it."""

from __future__ import annotations

import inspect
import multiprocessing
import pickle
from collections.abc import Callable, Iterator
from typing import Any

CALLS: list[tuple[str, int]] = []
"""(job, seconds asked for) of every call."""

_END = "end of stream"


def GPU(*, duration: Callable[..., int]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(task: Callable[..., Any]) -> Callable[..., Any]:
        def lent(*args: Any) -> Iterator[Any]:
            seconds = duration(*args)
            CALLS.append((task.__name__, seconds))
            context = multiprocessing.get_context("fork")
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(task, pickle.dumps(args), there))
            process.start()
            there.close()
            try:
                while here.poll(20 * seconds):  # the machine that tests may be a busy one
                    answer = pickle.loads(here.recv_bytes())
                    if isinstance(answer, BaseException):
                        raise answer
                    if answer == _END:
                        return
                    yield answer[0]
                raise TimeoutError("GPU task aborted")
            finally:
                process.kill()
                process.join()

        if inspect.isgeneratorfunction(task):
            return lent
        return lambda *args: next(lent(*args))

    return decorate


def _work(task: Callable[..., Any], packed: bytes, pipe: Any) -> None:
    try:
        result = task(*pickle.loads(packed))
        for value in result if inspect.isgeneratorfunction(task) else [result]:
            pipe.send_bytes(pickle.dumps((value,)))
        pipe.send_bytes(pickle.dumps(_END))
    except BaseException as error:
        pipe.send_bytes(pickle.dumps(error))
