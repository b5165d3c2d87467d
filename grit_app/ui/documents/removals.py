"""Documents that a visitor removed and may still have back: they are really removed a few seconds later."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from grit_app.documents.library import Library
from grit_app.errors import GritError

logger = logging.getLogger("grit_app.ui")

UNDO_S: Final = 10.0


class Removals:
    """Keeps the time of each removal. A document that leaves is neither searched nor listed as a document.

    removals.begin(owner, library, document_id)    # gone after UNDO_S
    removals.undo(owner, document_id)              # unless this comes first
    """

    def __init__(self, undo_s: float = UNDO_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._undo_s = undo_s
        self._clock = clock
        self._timers: dict[tuple[str, str], tuple[float, threading.Timer]] = {}
        self._guard = threading.Lock()

    def begin(self, owner: str, library: Library, document_id: str) -> None:
        """Remove the document after the time to undo it; a second call changes nothing."""
        with self._guard:
            if (owner, document_id) in self._timers:
                return
            timer = threading.Timer(self._undo_s, self._remove, (owner, library, document_id))
            timer.daemon = True
            self._timers[owner, document_id] = (self._clock() + self._undo_s, timer)
            timer.start()

    def undo(self, owner: str, document_id: str) -> bool:
        """Takes a removal back. True: it came in time, and the document stays."""
        with self._guard:
            held = self._timers.pop((owner, document_id), None)
        if held:
            held[1].cancel()
        return held is not None

    def leaving(self, owner: str) -> dict[str, float]:
        """Document → seconds until it is gone."""
        now = self._clock()
        with self._guard:
            return {one: max(0.0, at - now) for (who, one), (at, _) in self._timers.items() if who == owner}

    def _remove(self, owner: str, library: Library, document_id: str) -> None:
        with self._guard:
            if self._timers.pop((owner, document_id), None) is None:
                return
        try:
            library.remove(document_id)
        except (GritError, OSError) as error:
            logger.error("a document could not be removed: %s", error)
