"""Texts that a program has in hand, kept as documents without a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grit_app.documents.library import Library
from grit_app.gritlm import GritLM

TEXTS = {
    "bees": ["Bees make honey from nectar."],
    "again": ["Bees make honey from nectar."],
    "river": ["The river rises."],
}


def test_texts_are_whole_passages_and_searched_like_files(tiny_model: GritLM, tmp_path: Path) -> None:
    library = Library(tiny_model, tmp_path / "data")
    ids = library.add_passages(TEXTS)
    assert ids[0] == ids[1] != ids[2] and [info.name for info in library.documents()] == ["bees", "river"]
    assert [chunk.text for chunk in library.chunks(ids[2])] == ["The river rises."]
    vector = tiny_model.encode(["The river rises."])[0]
    assert library.search(vector, "The river rises.", 1)[0].chunk.document_id == ids[2]
    assert library.cache_bytes() == 0 and library.cache_for(library.chunks(ids[0])[0])[1] == "built"
    library.close()
    again = Library(tiny_model, tmp_path / "data")
    assert [info.name for info in again.documents()] == ["bees", "river"]
    again.close()


def test_vectors_that_are_known_are_taken_as_they_are(tiny_model: GritLM) -> None:
    library = Library(tiny_model)
    vectors = np.eye(2, 32, dtype=np.float32)
    ids = library.add_passages({"a": ["x y", "z"]}, vectors)
    assert library.search(vectors[1], "", 1, mode="vectors")[0].chunk.text == "z"
    assert [chunk.index for chunk in library.chunks(ids[0])] == [0, 1]
    library.close()
