"""Choices survive a reload, and what does not fit any more is left alone."""

from __future__ import annotations

import gradio as gr

from grit_app.ui.base.choices import Choices, fits


def test_only_values_that_the_component_may_hold_come_back() -> None:
    slider, radio = gr.Slider(1, 16, value=3), gr.Radio([("Quote", "quote"), ("Free", "free")], value="free")
    box, state = gr.Textbox(), gr.State([])
    assert fits(slider, 4) and not fits(slider, 99) and not fits(slider, "4") and not fits(slider, True)
    assert fits(radio, "quote") and not fits(radio, "gone")
    assert fits(box, "words") and not fits(box, None) and not fits(box, "x" * 30_000)
    assert fits(state, ["id"]) and not fits(state, [1]) and not fits(state, "id")


def test_a_kept_list_of_another_version_changes_nothing() -> None:
    fields = [gr.Slider(1, 16, value=3), gr.Textbox()]
    choices = Choices(gr.BrowserState(None), fields)
    assert choices.restore([5, "a"]) == [5, "a"]
    for kept in (None, [], [5], "nonsense"):
        assert choices.restore(kept) == [gr.skip(), gr.skip()]
    assert choices.restore([99, "a"])[1] == "a"
