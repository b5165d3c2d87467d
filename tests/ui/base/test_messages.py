"""Words as a person typed them, through a view that reads Markdown, and back."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from grit_app.ui.base.messages import NO_BREAK, asked, literal, plain, reply, turn_index, up_to_question, words_of

NASTY = [
    "a *star* and _line_ and `code` and ~tilde~",
    "# not a heading",
    "1. not a list",
    "- not a list either",
    "<b>not bold</b> & not an entity &amp; &#40;",
    "[not](a link) ![nor](an image)",
    "a|b|c {curly} ~~gone~~",
    "two\nlines",
    "> not a quote",
    "http://example.org/not_a_link",
    "Total\n=====",
    "Title\n-----",
    "    four spaces",
    "first\n    then four   and three",
    "1) no list\n\n\nafter empty lines",
    "<span>5</span>",
]


@pytest.mark.parametrize("text", NASTY)
def test_text_of_documents_stays_literal_in_markdown(text: str) -> None:
    """A quote with stars or a link in it must look like the passage, and must not become markup of the page."""
    rendered = MarkdownIt("js-default").render(literal(text)).strip()
    assert not set(re.findall(r"</?(\w+)", rendered)) - {"p", "br"}
    if "\n\n" not in text:
        assert rendered.count("<p>") == 1
        inside = re.sub(r"</?p>|<br ?/?>", "", rendered)
        assert html.unescape(inside).replace(NO_BREAK, " ") == text


@pytest.mark.parametrize("text", [*NASTY, "$x^2$ and $$y$$", r"\(z\) \[w\] \n", "mixed: $ \\ < `"])
def test_typed_words_come_back_as_they_were(text: str) -> None:
    assert words_of(asked(text)) == text
    assert words_of(plain([asked(text)])[0]) == text


@pytest.mark.parametrize("text", ["$x^2$ costs $5", r"\(z\)", r"\[w\]", "$$y$$"])
def test_no_formula_is_made_of_typed_words(text: str) -> None:
    """Formulas are looked for between delimiters within one piece of text."""
    pieces = re.split(r"</?span>", literal(text))
    shown = [html.unescape(piece) for piece in pieces]
    assert not any(opening in piece for piece in shown for opening in ("$$", "\\(", "\\["))
    assert all(piece == "$" or "$" not in piece for piece in shown)


def test_trying_again_goes_back_to_the_question() -> None:
    history = [asked("a"), reply("1"), asked("b"), reply("2")]
    assert up_to_question(history, 3) == history[:3]
    assert up_to_question(history, 2) == history[:3]
    assert up_to_question(history, 1) == history[:1]
    assert up_to_question([], 0) == []
    assert turn_index(3) == 3 and turn_index((3, 1)) == 3
