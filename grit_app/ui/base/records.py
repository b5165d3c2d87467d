"""A conversation as the browser keeps it: all versions of it, and of document answers where their passages stand.

What comes back from a browser is checked as anything that a stranger sends: only roles and texts, only so many of them.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import Any, Final

import gradio as gr

from grit_app.errors import InputError
from grit_app.ui.base.messages import Message, blocks_of, plain

MAX_VERSIONS: Final = 20
MAX_MESSAGES: Final = 400
MAX_CHARACTERS: Final = 2_000_000


VERSION_SCRIPT: Final = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-turn]');
  if (button) { trigger('turn', {by: button.dataset.turn}); }
});
"""


def list_script(kind: str) -> str:
    """The list's own script; what it does stands in `assets/conversations.js`."""
    events = "{open: (data) => trigger('open', data), fresh: () => trigger('fresh', {})}"  # Gradio looks for the names
    return f"window.gritConversations({json.dumps(kind)}, element, {events});"


LIST_HTML: Final = """
<div class="talks-row"><details class="talks"><summary>Conversations<span></span></summary><div class="talks-box">
<div class="talks-head"><input type="search" data-search placeholder="Search" aria-label="Search the conversations">
<label><input type="checkbox" data-temporary> do not keep new ones</label></div>
<ul></ul><p class="quiet talks-none">None are kept yet. They stay in this browser.</p></div></details>
<button type="button" class="plain-button" data-act="fresh">New</button></div>
"""


def new_id() -> str:
    return secrets.token_hex(8)


@dataclass
class Kept:
    """The components that keep a tab's conversations in the browser."""

    talks: gr.HTML
    versions: gr.HTML
    text: gr.Textbox


def keeping(kind: str) -> Kept:
    """The list of conversations above the conversation, and what stores it. Must be called where it shall stand."""
    with gr.Row(elem_classes="talks-bar"):
        talks = gr.HTML(LIST_HTML, label="Conversations", elem_id=f"{kind}-talks", js_on_load=list_script(kind))
        versions = gr.HTML(label="Versions", elem_id=f"{kind}-versions", js_on_load=VERSION_SCRIPT)
    text = gr.Textbox("", label=f"The conversation to keep ({kind})", visible="hidden", interactive=False)
    script = f"(text) => window.gritKeep({json.dumps(kind)}, text)"
    text.change(None, text, None, js=script, api_visibility="private", queue=False)
    return Kept(talks, versions, text)


@dataclass
class Record:
    """One conversation. `versions` are whole histories; trying again or editing a message begins another one.

    sources   turn number → where each passage of that answer stands in the library
    """

    id: str = field(default_factory=new_id)
    versions: list[list[Message]] = field(default_factory=lambda: [[]])
    current: int = 0
    sources: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        return Record()  # Gradio copies a state's first value for each page

    @property
    def history(self) -> list[Message]:
        return self.versions[self.current]

    def keep(self, history: list[Message]) -> None:
        """The version that is shown is now this."""
        self.versions[self.current] = history

    def branch(self, history: list[Message]) -> None:
        """What is shown stays as a version, and the next answer goes into a new one."""
        self.keep(history)
        if len(self.versions) >= MAX_VERSIONS:
            del self.versions[0]
        self.versions.append(list(history))
        self.current = len(self.versions) - 1

    def unbranch(self) -> None:
        """The newest version came to nothing."""
        if len(self.versions) > 1:
            del self.versions[-1]
            self.current = len(self.versions) - 1

    def turn(self, by: int) -> list[Message]:
        """The version before or behind, round the ends."""
        self.current = (self.current + by) % len(self.versions)
        return self.history

    def turns(self) -> list[int]:
        """Numbers of the answers whose sources are known."""
        return [int(number) for number in self.sources if number.isdecimal()]

    def to_json(self) -> str:
        versions = [plain(version) for version in self.versions]
        return json.dumps({"id": self.id, "versions": versions, "current": self.current, "sources": self.sources})


def from_json(text: str) -> Record:
    """The conversation that a browser kept. Raises InputError if it is none."""
    try:
        if len(text) > MAX_CHARACTERS:
            raise ValueError("too long")
        data = json.loads(text)
        versions = [[_message(one) for one in version[:MAX_MESSAGES]] for version in data["versions"][:MAX_VERSIONS]]
        sources = {str(turn): [dict(place) for place in places] for turn, places in data["sources"].items()}
        current = int(data["current"])
        if not versions or not 0 <= current < len(versions):
            raise ValueError("no such version")
        return Record(str(data["id"])[:40], versions, current, sources)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError("This conversation cannot be read any more. Delete it from the list.") from error


def _message(data: dict[str, Any]) -> Message:
    if data["role"] not in ("user", "assistant"):
        raise ValueError("no such role")
    blocks = [{"type": "text", "text": str(block["text"])} for block in blocks_of(data["content"])]
    return {"role": data["role"], "content": blocks}


def version_bar(record: Record) -> str:
    """Which version of the conversation is shown, and the way to the others; empty with one alone."""
    if len(record.versions) < 2:
        return ""
    return (
        '<div class="versions"><button type="button" class="plain-button" data-turn="-1" aria-label="Version before">‹'
        f'</button><span>version {record.current + 1} of {len(record.versions)}</span><button type="button" '
        'class="plain-button" data-turn="1" aria-label="Next version">›</button></div>'
    )
