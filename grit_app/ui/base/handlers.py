"""What every handler shares: errors become sentences, streams become steady updates, text becomes safe HTML.

An expected error (`GritError`) reaches the visitor as its own sentence. Anything else is logged in full under a short
id, and the visitor reads a sentence with that id: never a traceback, never an internal path.
"""

from __future__ import annotations

import functools
import html
import inspect
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import gradio as gr

from grit_app.errors import Cancelled, GritError, InputError

logger = logging.getLogger("grit_app.ui")

QUEUED: Final[dict[str, Any]] = {
    "concurrency_limit": None,
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""For events that may fail: outside the queue an error is an answer of status 500, and no sentence."""

FLUSH_S: Final = 0.05
"""Text goes to the browser about this often. Per token the page falls behind; slower reads as stutter."""

SLIP_S: Final = 12.0
"""So long the sentence about a slip stays; other errors stay until they are closed."""

Handler = TypeVar("Handler", bound=Callable[..., Any])


def as_visitor_error(error: BaseException) -> gr.Error:
    """The error as the visitor reads it: one sentence, without internals."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, Cancelled):
        return gr.Error(escape(str(error)), visible=False, print_exception=False)
    if isinstance(error, GritError):
        # A toast renders HTML. Quotation marks stay: they are harmless there, and programs read this sentence too.
        # A slip in a field is seen and mended at once: its sentence must not follow the visitor to other tabs.
        duration = SLIP_S if isinstance(error, InputError) else None
        return gr.Error(html.escape(str(error), quote=False), duration=duration, print_exception=False)
    number = secrets.token_hex(3)
    logger.error("error %s", number, exc_info=error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        sentence = "The machine ran out of memory. Use shorter texts or fewer passages, then try again"
    else:
        sentence = "Something went wrong on our side. Try again; if it happens again, report it"
    return gr.Error(f"{sentence} (error {number}).", duration=None, print_exception=False)


def guarded(handler: Handler) -> Handler:
    """The handler with every exception turned into `gr.Error`; plain functions and generators alike."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            has_yielded = False
            try:
                for value in handler(*args, **kwargs):
                    has_yielded = True
                    yield value
            except Cancelled as error:
                # What was shown last stays: the visitor asked for it. But a stream of nothing at all would make Gradio
                # empty the outputs.
                if not has_yielded:
                    raise as_visitor_error(error) from None
            except Exception as error:
                raise as_visitor_error(error) from None

        return stream  # type: ignore[return-value]

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            raise as_visitor_error(error) from None

    return call  # type: ignore[return-value]


def told(error: BaseException) -> None:
    """A toast with the visitor's sentence, where an error is no failure of the event; none for who stopped it."""
    shown = as_visitor_error(error)
    if shown.visible:
        gr.Warning(str(shown.message), duration=shown.duration)


def keeping(handler: Callable[..., tuple[Any, ...]], outputs: int) -> Callable[..., tuple[Any, ...]]:
    """The handler, whose errors are told and leave its outputs as they are.

    For events that show their progress: a failed one would be covered by the word "Error".
    """

    @functools.wraps(handler)
    def call(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            told(error)
            return (gr.skip(),) * outputs

    return call


def afterwards(event: Any, handler: Callable[..., Any], *components: Any, **options: Any) -> None:
    """Runs after the event, whether it failed or not: Gradio's page (6.31) runs `then` only where it did not."""
    event.then(handler, *components, **options)
    event.failure(handler, *components, **options)


def steady(
    pieces: Iterable[str], interval_s: float = FLUSH_S, clock: Callable[[], float] = time.monotonic
) -> Iterator[str]:
    """The text so far, at most once an `interval_s` and once more at the end; the first piece comes at once."""
    text, shown, last = "", "", float("-inf")
    for piece in pieces:
        text += piece
        if clock() - last >= interval_s:
            yield text
            shown, last = text, clock()
    if text != shown:
        yield text


def escape(text: object) -> str:
    """Text for HTML. What comes from a visitor, a document or a model goes through here: gr.HTML does not sanitise."""
    return html.escape(str(text), quote=True)


def message_text(content: Any) -> str:
    """The words of a chat message: handlers receive a string, one block, or a list of blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return str(content.get("text", ""))
    if isinstance(content, (list, tuple)):
        return "".join(message_text(block) for block in content)
    return ""
