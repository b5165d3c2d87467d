"""The look: one theme on fonts and colours that ship with the app, so that it looks the same offline."""

from __future__ import annotations

from typing import Final

import gradio as gr

from grit_app.places import ASSETS

STYLE_SHEET: Final = ASSETS / "style.css"

MODE_COLOURS: Final = {"full": "#D55E00", "cached": "#0072B2", "accent": "#009E73", "query": "#CC79A7"}
"""Okabe and Ito's palette: told apart with every common kind of colour blindness. One colour per meaning."""

SCRIPTS: Final = (ASSETS / "page.js", ASSETS / "conversations.js", ASSETS / "similarity.js", ASSETS / "groups.js")


def head() -> str:
    """What the page's head holds: the colour schemes and the page's own scripts."""
    scripts = "".join(f"<script>{path.read_text(encoding='utf-8')}</script>" for path in SCRIPTS)
    return f'<meta name="color-scheme" content="light dark">{scripts}'


def theme() -> gr.themes.Base:
    """Quiet neutral surfaces, one strong hue, text contrast of at least 4.5 to 1 in both modes."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        # Weights 400 and 700 only: Gradio's files for 500 and 600 lack letters, and words would mix two fonts.
        font=(gr.themes.LocalFont("IBM Plex Sans", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "ui-monospace", "Consolas", "monospace"),
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )
