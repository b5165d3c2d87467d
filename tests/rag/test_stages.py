"""The clock of an answer's stages."""

from __future__ import annotations

import time

from grit_app.rag.stages import PARTS, StageTimes


def test_stages_are_read_apart_and_add_up() -> None:
    """A stage entered twice holds both times; time between stages belongs to none; an observer settles before each."""
    settled = []

    class Observer(StageTimes):
        def settle(self) -> None:
            settled.append(1)

    stages = Observer()
    with stages.stage("load"):
        time.sleep(0.02)
    time.sleep(0.05)
    with stages.stage("load"):
        time.sleep(0.02)
    stages.add("tail", 7.0)
    assert 40 <= stages.ms["load"] < 2000  # a busy machine sleeps long
    assert stages.ms["tail"] == 7.0 and len(settled) == 4
    assert tuple(stages.ms) == PARTS
