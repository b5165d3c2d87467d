"""Downloads that never touch the server's disk: the text goes to the page, and the page makes the file.

A file output would leave visitors' texts in a folder from which anyone with the address can fetch them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import gradio as gr


@dataclass(frozen=True)
class Download:
    """A button and the hidden box that holds the text to save; give `value` as an output."""

    button: gr.Button
    value: gr.Textbox


def download_button(label: str, file_name: str, mime_type: str, elem_id: str, text: str = "") -> Download:
    """A button that saves what its hidden box holds under `file_name`."""
    value = gr.Textbox(text, label=f"{label} (text)", visible="hidden", interactive=False)
    button = gr.Button(label, size="sm", elem_id=elem_id, min_width=160)
    button.click(None, value, None, js=save_as(file_name, mime_type), api_visibility="private")
    return Download(button, value)


def save_as(file_name: str, mime_type: str) -> str:
    """The script that saves a text, its argument, as a file; an empty one it leaves."""
    return f"""(text) => {{
        if (!text) {{ return; }}
        const link = document.createElement("a");
        link.href = URL.createObjectURL(new Blob([text], {{type: {json.dumps(mime_type)}}}));
        link.download = {json.dumps(file_name)};
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    }}"""
