"""What a visitor chose, kept in the browser and put back after a reload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr


@dataclass(frozen=True)
class Choices:
    """Components and where the browser keeps their values. `restore` with `store` as input, `fields` as outputs."""

    store: gr.BrowserState
    fields: list[Any]

    def restore(self, kept: Any) -> list[Any]:
        """The kept values; where one does not fit its component any more, the component stays as it is."""
        if not isinstance(kept, list) or len(kept) != len(self.fields):
            return [gr.skip()] * len(self.fields)
        return [value if fits(field, value) else gr.skip() for field, value in zip(self.fields, kept, strict=True)]


def remember(name: str, fields: Sequence[Any]) -> Choices:
    """Keeps the fields' values whenever the visitor changes one of them."""
    store = gr.BrowserState(None, storage_key=f"grit-choices-{name}", secret=f"grit-workbench-choices-{name}")
    chosen = list(fields)
    for field in chosen:
        event = field.change if isinstance(field, gr.State) else field.input
        event(
            lambda *values: list(values), chosen, store, queue=False, show_progress="hidden", api_visibility="private"
        )
    return Choices(store, chosen)


def fits(field: Any, value: Any) -> bool:
    """Whether the component may hold the value: what a browser kept may be of an older version, or made up."""
    if isinstance(field, gr.Slider):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and field.minimum <= value <= field.maximum
    if isinstance(field, (gr.Dropdown, gr.Radio)):
        return value in [one[1] if isinstance(one, (tuple, list)) else one for one in field.choices]
    if isinstance(field, gr.State):
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    return isinstance(value, str) and len(value) <= 20_000
