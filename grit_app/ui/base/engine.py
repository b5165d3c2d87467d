"""The one model behind the page: loaded in a background thread while the page is already up.

engine = Engine(load); engine.start()      # returns at once
model = engine.model()                     # waits for the loading to end; a sentence if it failed
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from grit_app.errors import Cancelled, GritError, ModelError
from grit_app.gritlm import GritLM
from grit_app.rag.turns.small_talk import small_talk

logger = logging.getLogger("grit_app.ui")

State = Literal["loading", "ready", "busy", "failed"]


class Engine:
    """Loads once, tells how it stands, hands the model out. Safe to use from any thread."""

    def __init__(self, load: Callable[[], GritLM], most_jobs: int = 0, *, warms_up: bool = True) -> None:
        """most_jobs: requests that may be under way at once; the next one is told to come back. 0: any number."""
        self._load = load
        self._most_jobs = most_jobs
        self._warms_up = warms_up
        self._thread: threading.Thread | None = None
        self._model: GritLM | None = None
        self._failure = ""
        self._done = threading.Event()
        self._started_s = time.monotonic()
        self._users = 0
        self._guard = threading.Lock()

    def start(self) -> None:
        """Begin loading, unless it has begun; returns at once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="model-loading", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until loading has ended, well or not."""
        self._done.wait()

    def _run(self) -> None:
        try:
            model = self._load()
            if self._warms_up:
                warm_up(model)
            model.scheduler.limit = self._most_jobs
            self._model = model
            logger.info("model ready after %.1f s", self.seconds)
        except GritError as error:
            self._failure = str(error)
            logger.error("the model could not be loaded: %s", error)
        except Exception:
            self._failure = (
                "The model could not be loaded. The server's log tells why; restart the app once it is mended."
            )
            logger.exception("the model could not be loaded")
        finally:
            self._done.set()

    @property
    def state(self) -> State:
        if not self._done.is_set():
            return "loading"
        if self._model is None:
            return "failed"
        return "busy" if self._users else "ready"

    @property
    def failure(self) -> str:
        """Why loading failed, in a sentence; empty while it has not."""
        return self._failure

    @property
    def seconds(self) -> float:
        """Since the engine was made."""
        return time.monotonic() - self._started_s

    def model(self, cancel: threading.Event | None = None) -> GritLM:
        """The model; waits while it loads. Raises ModelError if loading failed, Cancelled if `cancel` was set first."""
        while not self._done.wait(0.1):
            if cancel is not None and cancel.is_set():
                raise Cancelled("Stopped before the model was loaded.")
        if self._model is None:
            raise ModelError(self._failure)
        return self._model

    def ready_model(self) -> GritLM | None:
        """The model if it is there now, without waiting."""
        return self._model

    @contextmanager
    def using(self, cancel: threading.Event | None = None) -> Iterator[GritLM]:
        """The model, with the state shown as busy meanwhile, and the job counted in other people's places.

        Raises Busy if too many are under way.
        """
        model = self.model(cancel)
        with self._guard:
            self._users += 1
        try:
            with model.scheduler.working(cancel):
                yield model
        finally:
            with self._guard:
                self._users -= 1

    def describe(self) -> dict[str, Any]:
        """The model's description once it is loaded, else an empty dict."""
        return self._model.describe() if self._model is not None else {}


def warm_up(model: GritLM) -> None:
    """One short pass of each kind: the first call pays for lazy set-up, and a visitor's clock should not."""
    model.encode(["warm up"])
    model.generate([{"role": "user", "content": "Hi"}], max_new_tokens=2)
    small_talk(model)
