"""A small library over text files, with a tiny random model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TEXTS = {
    "rivers.txt": (
        "The Elbe rises in the Giant Mountains. It reaches the North Sea after 1,094 kilometres. "
        "Its largest tributary is the Vltava, which flows through Prague."
    ),
    "bees.txt": (
        "Bees make honey from nectar. They store it in combs made of wax. A colony holds up to 40000 workers. "
        "The queen lays all the eggs of the colony."
    ),
    "study.txt": (
        "The study took place in 2011. A total of 370 schools participated in the United States. "
        "Students were tested in reading at the end of grade four."
    ),
}


@pytest.fixture(scope="session")
def make_library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`make_library(model, texts=TEXTS)` → a library in memory that holds them."""
    from grit_app.documents.library import Library

    def make(model: Any, texts: dict[str, str] = TEXTS) -> Library:
        folder: Path = tmp_path_factory.mktemp("texts")
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        library = Library(model, None)
        reports = library.add([folder / name for name in texts])
        assert [report.state for report in reports] == ["ready"] * len(texts)
        return library

    return make


@pytest.fixture
def library(tiny_model: Any, make_library: Callable[..., Any]) -> Iterator[Any]:
    made = make_library(tiny_model)
    yield made
    made.close()
