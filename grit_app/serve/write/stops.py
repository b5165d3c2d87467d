"""Stop strings: an answer ends before the first of them, and no part of one is ever shown."""

from __future__ import annotations

from collections.abc import Sequence


class StopFinder:
    """Takes an answer's text piece by piece and gives what is certain not to belong to a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """The text that may be shown now. Nothing more comes once `found` is true."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found, self._held = True, ""
            return text[: min(places)]
        held = self._beginning(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back: the answer ended, so it is no stop string."""
        held, self._held = self._held, ""
        return "" if self.found else held

    def _beginning(self, text: str) -> int:
        """Characters at the end of `text` that a stop string might begin with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
