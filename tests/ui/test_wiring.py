"""How the page's events are tied together: what fails is told in a sentence and leaves what is shown as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = """
import json, sys
from pathlib import Path
from grit_app.settings import Settings
from grit_app.ui.serving import assemble

app, _, visitors = assemble(Settings(data_dir=Path(sys.argv[1])), lambda: None)
events = []
every = list(app.fns.values())
for event in every:
    code = getattr(event.fn, "__code__", None)
    after = [one for one in every if one.trigger_after == event._id]
    then = [one.fn for one in after if not one.trigger_only_on_success and not one.trigger_only_on_failure]
    failed = [one.fn for one in after if one.trigger_only_on_failure]
    if event.api_visibility == "private" and code is not None and code.co_qualname.startswith("guarded."):
        events.append({"name": event.fn.__qualname__, "queue": event.queue, "progress": event.show_progress,
                       "outputs": len(event.outputs), "then": len(then),
                       "lost": len([one for one in then if one not in failed])})
print(json.dumps(events))
"""
"""The page needs no model to be built. In a process of its own: Gradio leaves an event loop behind."""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All events whose errors are raised to the page."""
    command = [sys.executable, "-c", BUILD, str(tmp_path_factory.mktemp("wiring"))]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    events: list[dict[str, Any]] = json.loads(built.stdout.splitlines()[-1])
    assert len(events) > 40, "the walk has missed the handlers"
    return events


def test_whatever_may_fail_goes_through_the_queue(guarded: list[dict[str, Any]]) -> None:
    """Outside it an error is an answer of status 500: choosing a removed document for the race told nothing."""
    assert [event["name"] for event in guarded if not event["queue"]] == []


def test_what_is_put_back_afterwards_is_put_back_after_an_error_too(guarded: list[dict[str, Any]]) -> None:
    """Gradio's page runs `then` only after events that did not fail: a race without a question ended all races."""
    assert sum(event["then"] for event in guarded) >= 5, "the walk has missed what follows"
    assert [event["name"] for event in guarded if event["lost"]] == []


def test_nothing_that_may_fail_covers_what_is_shown(guarded: list[dict[str, Any]]) -> None:
    """Where progress is shown, Gradio puts "Error" over all outputs: a full queue wiped both rankings."""
    assert [event["name"] for event in guarded if event["outputs"] and event["progress"] != "hidden"] == []
