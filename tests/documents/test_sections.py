"""Passages of Markdown know the headings above them, outermost first."""

from __future__ import annotations

from grit_app.documents.chunking import chunk_document
from grit_app.documents.read.text.markdown import read_markdown


def test_a_passage_carries_the_headings_and_column_heads_above_it() -> None:
    """`Traps` alone says little; `Chapter 3 › Traps` says where the passage stands."""
    text = "# Chapter 3\n\n" + "It opens here. " * 30 + "\n\n## Traps\n\n" + "A trap is set. " * 60
    document = read_markdown(text + "\n\n| Bird | Eggs |\n|--|--|\n" + "| Gull | 7 |\n" * 60, "a.md", "0" * 64)
    headings = [chunk.heading for chunk in chunk_document(document, lambda t: len(t.split()), 60)]
    assert headings[1] == "Chapter 3"
    assert "Chapter 3 › Traps" in headings and headings[-1] == "Chapter 3 › Traps › Bird Eggs"
