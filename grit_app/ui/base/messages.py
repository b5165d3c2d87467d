"""Messages of a conversation: words as a person typed them, answers with the line of numbers under them.

A message view reads Markdown and LaTeX. What a person typed must stand there letter by letter, so it is kept in the
view in an escaped form; `words_of` gives it back. The browser's copy and edit buttons undo it too (`assets/page.js`).
"""

from __future__ import annotations

import re
import threading
from typing import Any, Final

from grit_app.gritlm import GritLM
from grit_app.gritlm.scheduler import Job
from grit_app.ui.base import texts
from grit_app.ui.base.handlers import message_text

Message = dict[str, Any]

_SPECIAL: Final = re.compile(r"""[\\$`*_{}\[\]()<>#+\-.!|~&:;="'^@/]""")
_ESCAPED: Final = re.compile(r"</?span>|&#(\d+);")
_SPACES: Final = re.compile(r"(?:^|(?<=[ \n])) |\t", re.MULTILINE)
NO_BREAK: Final = "\u00a0"


def literal(text: str) -> str:
    """Markdown that shows the text letter by letter: no headings, code, tags, formulas, and every space."""
    marked = _SPECIAL.sub(lambda match: _entity(match.group()), text)
    spaced = _SPACES.sub(lambda match: "&#160;" * (4 if match.group() == "\t" else 1), marked)
    return spaced.replace("\n", "  \n")


def _entity(letter: str) -> str:
    """A formula is looked for in each piece of text: a dollar or backslash that is a piece of its own opens none."""
    entity = f"&#{ord(letter)};"
    return f"<span>{entity}</span>" if letter in "\\$" else entity


def words_behind(shown: str) -> str:
    """The text that `literal` shows. A tab comes back as four spaces, a no-break space as a space."""
    decoded = _ESCAPED.sub(lambda match: chr(int(match.group(1))) if match.group(1) else "", shown)
    return decoded.replace("  \n", "\n").replace(NO_BREAK, " ")


def asked(text: str) -> Message:
    """A person's message."""
    return {"role": "user", "content": literal(text)}


def reply(text: str, note: str = "", details: str = "") -> Message:
    """An answer and its line of numbers as two blocks of one message: the words stay clean for the next turn.

    note      the short line
    details   what a click on it shows
    """
    blocks = [{"type": "text", "text": text}]
    if details:
        note = f"<details><summary>{note}</summary>{details}</details>"
    if note:
        blocks.append({"type": "text", "text": f'<div class="stats">{note}</div>'})
    return {"role": "assistant", "content": blocks}


_STEP: Final = '<div class="step">'


def step(words: str) -> Message:
    """A line that says what is being done before the first word of an answer."""
    return {"role": "assistant", "content": [{"type": "text", "text": f"{_STEP}{words}</div>"}]}


def is_step(message: Message) -> bool:
    """Whether the message only says what is being done: nothing of its answer is there yet."""
    return message["role"] == "assistant" and message_text(blocks_of(message["content"])[:1]).startswith(_STEP)


def in_turn(model: GritLM, job: threading.Event, words: str) -> Message:
    """The step that goes on now, or how many come before it and about how long that takes."""
    before = model.scheduler.place(job).words() if isinstance(job, Job) else ""
    return step(before or words)


def gives_way(model: GritLM, job: threading.Event) -> str:
    """What a measurement says while others need the model; empty while nobody does."""
    before = model.scheduler.place(job).before if isinstance(job, Job) else 0
    return f"waits while others need the model: {before} before you" if before else ""


def blocks_of(content: Any) -> list[Any]:
    return list(content) if isinstance(content, (list, tuple)) else [content]


def words_of(message: Message) -> str:
    """The words of a message: those that were typed, or the answer without its line of numbers."""
    first = message_text(blocks_of(message["content"])[:1])
    return words_behind(first) if message["role"] == "user" else first


def up_to_question(history: list[Message], index: int) -> list[Message]:
    """The conversation up to and with the last question at or before `index`."""
    last = max((i for i, m in enumerate(history[: index + 1]) if m["role"] == "user"), default=-1)
    return history[: last + 1]


def turn_index(index: int | tuple[int, int]) -> int:
    """The message that a chat event is about; Gradio gives a pair where a message has several blocks."""
    return index[0] if isinstance(index, (tuple, list)) else index


def plain(history: list[Message]) -> list[Message]:
    """Roles and text blocks only, as they can be kept and read back; nothing goes on any more when they are."""
    history = [reply("", texts.INTERRUPTED) if is_step(message) else message for message in history]
    return [
        {
            "role": m["role"],
            "content": [{"type": "text", "text": message_text(block)} for block in blocks_of(m["content"])],
        }
        for m in history
    ]
