"""Where a visitor's questions wait while one is answered: one desk a page and conversation.

    desk.put(question)                      # from any event, at any time
    for history, extra in converse(desk, history, answer): ...     # one event answers, whichever claims the desk

Nothing that was sent is lost: it waits in order, is shown, and can be taken back. An answer that fails leaves the
conversation as it was before, and its question goes back to the visitor.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import gradio as gr

from grit_app.errors import Cancelled
from grit_app.ui.base.handlers import afterwards, escape, told
from grit_app.ui.base.messages import Message, asked
from grit_app.ui.base.records import Record

MAX_WAITING: Final = 20
SCRIPT: Final = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-take]');
  if (button) { trigger('take', {id: button.dataset.take}); }
});
"""


@dataclass(frozen=True)
class Job:
    """A question to be answered.

    choices  the visitor's settings as they were when it was sent: another run may answer it
    base     the conversation that it continues; None: whatever the conversation is when its turn comes
    before   what a failure brings back
    """

    number: int
    question: str
    base: list[Message] | None = None
    before: list[Message] | None = None
    choices: tuple[Any, ...] = ()


class Desk:
    """Questions in order, and whether somebody answers them. Safe to use from any thread."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.returned: list[str] = []
        """Questions whose answers failed: they go back into the box."""
        self.record = Record()
        """The conversation that is shown, with its versions."""
        self.is_running = False
        self.is_cleared = False
        self._count = 0
        self._guard = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Desk:
        return Desk()  # Gradio copies a state's first value for each page

    def put(
        self,
        question: str,
        base: list[Message] | None = None,
        before: list[Message] | None = None,
        choices: tuple[Any, ...] = (),
    ) -> bool:
        """Whether its turn is now. False also when the desk is full: then it was not taken (see `is_full`)."""
        with self._guard:
            self._count += 1
            is_next = not self.is_running and not self.jobs
            self.jobs.append(Job(self._count, question, base, before, choices))
            return is_next

    @property
    def is_full(self) -> bool:
        return len(self.jobs) >= MAX_WAITING

    def claim(self) -> bool:
        """Whether the caller is the one that answers now."""
        with self._guard:
            if self.is_running or not self.jobs:
                return False
            self.is_running, self.is_cleared = True, False
            return True

    def next(self) -> Job | None:
        """The next question; None ends the caller's turn at the desk."""
        with self._guard:
            if self.jobs:
                return self.jobs.pop(0)
            self.is_running = False
            return None

    def release(self) -> None:
        """The caller went away in the middle: others may claim."""
        with self._guard:
            self.is_running = False

    def take_back(self, number: int) -> str:
        """The waiting question of this number, which waits no more; empty if it is not there."""
        with self._guard:
            found = next((job for job in self.jobs if job.number == number), None)
            if found:
                self.jobs.remove(found)
            return found.question if found else ""

    def waiting(self) -> list[Job]:
        """Those whose turn has not come; also the first, while documents are read for it."""
        with self._guard:
            return list(self.jobs)

    def show(self, record: Record) -> None:
        """Another conversation takes the place of this one: nothing waits, and a running answer is not shown."""
        with self._guard:
            self.jobs.clear()
            self.record = record
            self.is_cleared = self.is_running

    def returned_text(self) -> Any:
        """The questions that came back, under a line with their number: the same one may come back twice."""
        with self._guard:
            texts, self.returned = self.returned, []
            self._count += 1
            return f"{self._count}\n" + "\n".join(texts) if texts else gr.skip()


def emptied(elem_id: str, others: int) -> str:
    """Script of an event that sends a box's text: the box is empty at once, and what is typed from then on stays.

    Emptied by the server's reply, the box would lose what is typed meanwhile, and a second Enter would send twice.
    others   how many inputs the event has behind the text
    """
    rest = ", ".join(f"input{n}" for n in range(others))
    return f"(text, {rest}) => [window.gritTake({elem_id!r}, text), {rest}]"


BACK: Final = """(text, box) => {
  const words = text.slice(text.indexOf("\\n") + 1);
  return words ? (box.trim() ? `${words}\\n${box}` : words) : box;
}"""


def giving_back(event: Any, state: gr.State, box: gr.Textbox) -> None:
    """After the event, questions whose answers failed go back before what is in the box by then."""
    back = gr.Textbox("", label="What comes back", visible="hidden", interactive=False)
    options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    afterwards(event, lambda desk: desk.returned_text(), state, back, concurrency_limit=None, **options)
    back.change(None, [back, box], box, js=BACK, queue=False, **options)


def waiting(desk: Desk) -> str:
    """The questions that wait, each with a button that takes it back."""
    jobs = desk.waiting()
    if not jobs:
        return ""
    rows = "".join(
        f'<li><span class="waiting-text">{escape(job.question)}</span><button type="button" data-take="{job.number}" '
        f'aria-label="Take back: {escape(job.question[:60])}">Take back</button></li>'
        for job in jobs
    )
    return f'<ol class="waiting" aria-label="Waiting for their turn">{rows}</ol>'


class Changed:
    """Hands a value on for a moment after it changed, and then no more.

    A page that redraws everything at each token falls behind; one that is told once may never know, for Gradio's page
    leaves frames out when many come at once.
    """

    def __init__(self, hold_s: float = 1.5, clock: Callable[[], float] = time.monotonic) -> None:
        self._hold_s = hold_s
        self._clock = clock
        self._since: dict[str, tuple[Any, float]] = {}

    def __call__(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, if `key` changed a moment ago; else nothing for the page to do."""
        now = self._clock()
        if name not in self._since or self._since[name][0] != key:
            self._since[name] = (key, now)
        return make() if now - self._since[name][1] < self._hold_s else gr.skip()


Frames = Iterator[tuple[Message, Any]]
Answer = Callable[[list[Message], Job], Frames]
"""(conversation that ends with the question, job) → (answer so far, whatever else the page shows)."""


def converse(desk: Desk, history: list[Message], answer: Answer) -> Iterator[tuple[list[Message], Any]]:
    """Answers what lies on the desk, one question after another. (conversation, what else changed or None)."""
    if not desk.claim():
        return
    try:
        while (job := desk.next()) is not None:
            with closing(_one(desk, job, history, answer)) as frames:
                for history, extra in frames:
                    if desk.is_cleared:
                        break
                    yield history, extra
            if desk.is_cleared:
                desk.is_cleared, history = False, desk.record.history
    finally:
        desk.release()
    yield history, None


def _one(desk: Desk, job: Job, history: list[Message], answer: Answer) -> Generator[tuple[list[Message], Any]]:
    base = history if job.base is None else job.base
    before = history if job.before is None else job.before
    record, is_branch = desk.record, job.base is not None
    if is_branch:
        record.branch(before)
    question = [*base, asked(job.question)]
    shown = question
    record.keep(shown)
    yield shown, None
    try:
        for last, extra in answer(question, job):
            shown = [*question, last]
            record.keep(shown)
            yield shown, extra
    except Cancelled:
        if shown is question:  # stopped while it waited
            desk.returned.append(job.question)
            yield _restored(record, before, is_branch), None
    except Exception as error:
        told(error)
        desk.returned.append(job.question)
        yield _restored(record, before, is_branch), None


def _restored(record: Record, before: list[Message], is_branch: bool) -> list[Message]:
    if is_branch:
        record.unbranch()
    record.keep(before)
    return before
