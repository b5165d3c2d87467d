"""A process for work on other people's files, with a clock, a limit of memory and a way to stop it.

A file can be made to run forever or to eat all memory, and a thread cannot be stopped. A process can. The work itself
is in worker.py; here is the side that starts it, listens and, when its time is up, kills it.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import grit_app
from grit_app.documents.document import Stage
from grit_app.errors import Cancelled, DocumentError, EncodingNeeded, NoTextFound, PasswordNeeded

Progress = Callable[[Stage, int, int], None]
"""(stage, pages done, all pages)."""
_ERRORS = {c.__name__: c for c in (DocumentError, PasswordNeeded, EncodingNeeded)}
_GRACE_S = 5.0  # the worker sees its own deadline between pages; past this it hangs inside one
_PATIENCE = 10.0  # times the limit, in wall-clock time: a worker that waits for ever spends no processor time


class GaveUp(Exception):
    """The work has no result. `page`: the last one finished of `pages`, from 1; 0: none; -1: it was not opened."""

    def __init__(self, page: int, pages: int) -> None:
        super().__init__(f"after page {page} of {pages}")
        self.page, self.pages = page, pages


class OutOfTime(GaveUp):
    """It showed no progress for as long as it may."""


class BrokeDown(GaveUp):
    """The process died: out of memory, or by a fault in a library."""


def run(
    task: str,
    request: dict[str, Any],
    seconds: float,
    *,
    data: bytes = b"",
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, Any]:
    """What the worker answers to one request.

    task      a name in `worker.TASKS`
    data      bytes that the worker gets besides, e.g. a file that lies on no disk
    seconds   of processor time from one sign of progress to the next: a long file that is read page by page is not hung
    Raises what the worker raised of DocumentError and its kinds; Cancelled; OutOfTime; BrokeDown.
    """
    root = str(Path(grit_app.__file__).resolve().parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-m", "grit_app.documents.read.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)},
    )
    watch = _Watch(process, seconds + _GRACE_S, cancel)
    last_page, pages, result = -1, 0, None
    with process, watch:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: told below
            process.stdin.write(json.dumps({"task": task, **request}).encode() + b"\n" + data)
            process.stdin.close()
        for line in process.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "page" not in answer:
                result = answer
                continue
            watch.signs += 1
            if answer["stage"] == "reading":
                last_page, pages = answer["page"], answer["pages"]
            if progress and answer["page"]:
                progress(answer["stage"], answer["page"], answer["pages"])
    if watch.cancelled:
        raise Cancelled("Stopped.")
    if result is None:
        raise OutOfTime(last_page, pages) if watch.timed_out else BrokeDown(last_page, pages)
    if result.get("error") == "NoTextFound":
        raise NoTextFound(result["message"], result["scanned"])
    if "error" in result:
        raise _ERRORS[result["error"]](result["message"])
    return result


class _Watch:
    """Kills a process that used its seconds of processor time without a sign of progress, or that is cancelled."""

    def __init__(self, process: "subprocess.Popen[bytes]", seconds: float, cancel: threading.Event | None) -> None:
        self.process, self.seconds, self.cancel = process, seconds, cancel
        self.signs = 0
        """Of progress, so far."""
        self.timed_out = self.cancelled = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self.process.kill()
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        signs, spent, begin = 0, 0.0, time.monotonic()
        while not self._done.wait(0.05):
            self.cancelled = self.cancel is not None and self.cancel.is_set()
            now, used = time.monotonic(), _processor_s(self.process.pid)
            if signs != self.signs:
                signs, spent, begin = self.signs, used, now
            self.timed_out = now - begin > _PATIENCE * self.seconds or used - spent > self.seconds
            if self.cancelled or self.timed_out:
                self.process.kill()
                return


def _processor_s(pid: int) -> float:
    """Processor time that the process has used so far; 0 if it has ended."""
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0
