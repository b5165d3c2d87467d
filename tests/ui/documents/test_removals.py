"""A removed document can come back for a while, and is gone afterwards."""

from __future__ import annotations

import threading
from typing import Any

from grit_app.ui.documents.removals import Removals


class Shelf:
    """Notes what is removed."""

    def __init__(self) -> None:
        self.removed: list[str] = []
        self.happened = threading.Event()

    def remove(self, document_id: str) -> None:
        self.removed.append(document_id)
        self.happened.set()


def begin(removals: Removals, shelf: Any, *documents: str) -> None:
    for document in documents:
        removals.begin("me", shelf, document)


def test_what_is_undone_in_time_stays_and_the_rest_goes() -> None:
    removals, shelf = Removals(undo_s=0.1), Shelf()
    begin(removals, shelf, "a", "b", "b")
    assert set(removals.leaving("me")) == {"a", "b"} and removals.leaving("you") == {}
    assert not removals.undo("you", "a")
    assert removals.undo("me", "a") and not removals.undo("me", "a")
    assert shelf.happened.wait(5)
    assert shelf.removed == ["b"] and removals.leaving("me") == {} and not removals.undo("me", "b")


def test_the_time_that_is_left_is_told() -> None:
    now = 100.0
    removals, shelf = Removals(undo_s=10.0, clock=lambda: now), Shelf()
    begin(removals, shelf, "a")
    now = 104.0
    assert removals.leaving("me") == {"a": 6.0}
    assert removals.undo("me", "a")
