"""What stands where on the Similarity tab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from grit_app.ui.base import texts
from grit_app.ui.base.downloads import Download, download_button
from grit_app.ui.similarity.neighbours import MAX_LINES

COUNT = f"""(text) => {{
  const count = text.split("\\n").filter((line) => line.trim()).length;
  return `<p class="quiet${{count > {MAX_LINES} ? " slip" : ""}}">${{count.toLocaleString("en")}} of at most """
COUNT += f"""{MAX_LINES:,} lines</p>`;
}}"""


@dataclass(frozen=True)
class Parts:
    """The tab's components."""

    scene: gr.Radio
    query: gr.Textbox
    lines: gr.Textbox
    count: gr.HTML
    upload: gr.UploadButton
    first: gr.Dropdown
    second: gr.Dropdown
    symmetric: gr.Checkbox
    go: gr.Button
    left: gr.HTML
    right: gr.HTML
    moved: gr.HTML
    pairs: gr.Plot
    picture: gr.Plot
    near: gr.HTML
    saved: Download
    link: gr.Button

    @property
    def inputs(self) -> list[Any]:
        """In the order of `views.Asked`."""
        return [self.query, self.lines, self.first, self.second, self.symmetric]

    @property
    def outputs(self) -> list[Any]:
        """In the order of `views.views`."""
        return [self.left, self.right, self.moved, self.pairs, self.picture, self.near, self.saved.value]


def lay_out() -> Parts:
    gr.Markdown(texts.SIMILARITY_INTRO, elem_classes="intro")
    scene = gr.Radio(list(texts.SCENES), value=next(iter(texts.SCENES)), label="Scenes", elem_id="scenes")
    asked = _asked()
    with gr.Row(elem_classes="columns", elem_id="rankings"):
        left = gr.HTML(label="Ranking under instruction A", elem_id="ranking-a", min_height=60, min_width=300, scale=1)
        right = gr.HTML(label="Ranking under instruction B", elem_id="ranking-b", min_height=60, min_width=300, scale=1)
    moved = gr.HTML(label="What moved", elem_id="moved")
    with gr.Row(elem_classes="columns"):
        pairs = gr.Plot(label="Cosine of every pair", show_label=False, elem_id="pairs", min_width=300)
        with gr.Column(min_width=300):
            picture = gr.Plot(label="Map of the texts", show_label=False, elem_id="map")
            near = gr.HTML(label="Neighbours of the chosen text", elem_id="near")
    gr.Markdown(texts.SIMILARITY_NUMBERS, elem_classes="quiet")
    with gr.Row(elem_classes="count-row"):
        saved = download_button("Download all pairs as CSV", "similarity.csv", "text/csv", elem_id="similarity-csv")
        link = gr.Button("Copy a link to this", size="sm", elem_id="similarity-link", min_width=160)
    gr.HTML('<p class="quiet" id="link-told" role="status"></p>')
    return Parts(
        scene=scene,
        left=left,
        right=right,
        moved=moved,
        pairs=pairs,
        picture=picture,
        near=near,
        saved=saved,
        link=link,
        **asked,
    )


def _asked() -> dict[str, Any]:
    first_scene = next(iter(texts.SCENES.values()))
    with gr.Row(elem_classes="columns"):
        with gr.Column(scale=5, min_width=320):
            query = gr.Textbox(
                label="Query",
                value=first_scene.query,
                lines=1,
                max_lines=4,
                elem_id="similarity-query",
                elem_classes="main-box",
            )
            lines = gr.Textbox(
                label="Texts, one a line",
                value="\n".join(first_scene.texts),
                lines=7,
                max_lines=14,
                elem_id="similarity-texts",
            )
            with gr.Row(elem_classes="count-row"):
                count = gr.HTML(
                    f'<p class="quiet">{len(first_scene.texts)} of at most {MAX_LINES:,} lines</p>',
                    label="Number of lines",
                    elem_id="similarity-count",
                )
                upload = gr.UploadButton(
                    "Lines from a file", file_types=[".txt", ".csv"], size="sm", min_width=140, elem_id="lines-file"
                )
        with gr.Column(scale=4, min_width=320):
            first = _instruction("Instruction A", first_scene.first, "instruction-a", "Choose one or write your own.")
            second = _instruction("Instruction B, to compare", first_scene.second, "instruction-b", None)
            symmetric = gr.Checkbox(
                value=first_scene.on_both_sides,
                label="Instruct the texts as well",
                info="Off for search (question against passages); on when both sides are of one kind.",
            )
            with gr.Row(elem_classes="ask-row"):
                go = gr.Button("Compare", variant="primary", elem_id="compare", min_width=120)
    return {
        "query": query,
        "lines": lines,
        "count": count,
        "upload": upload,
        "first": first,
        "second": second,
        "symmetric": symmetric,
        "go": go,
    }


def _instruction(label: str, value: str, elem_id: str, info: str | None) -> gr.Dropdown:
    return gr.Dropdown(
        choices=list(texts.INSTRUCTIONS),
        value=value,
        label=label,
        info=info,
        allow_custom_value=True,
        elem_id=elem_id,
    )
