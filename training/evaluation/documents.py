"""Questions over real files, as a new user would ask them: right answers and right pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from grit_app.benchmark.inputs.questions import read_rows
from grit_app.benchmark.measure.metrics import holds_answer
from grit_app.documents.chunking import Chunk, chunk_document
from grit_app.documents.keep.fusion import Mode, cosine, fuse
from grit_app.documents.keep.keywords import KeywordIndex, tokens
from grit_app.documents.library import Library
from grit_app.documents.read.reading import read_document
from grit_app.errors import InputError
from grit_app.gritlm import GritLM
from grit_app.places import ASSETS
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Done
from grit_app.rag.run import AnswerMode
from grit_app.rag.strategies import REFERENCE

QUESTIONS = ASSETS / "evaluation" / "pdf_questions.jsonl"
"""Rows: file, question, pages (from 1), answers."""

TABLES = ASSETS / "evaluation" / "table_questions.jsonl"
"""The same rows; the answer is one cell of a table."""

WAYS: Final[tuple[tuple[str, AnswerMode], ...]] = (
    ("docs_cache", "quote"),
    ("docs_cache", "short"),
    ("docs_cache", "free"),
    ("each_cache", "quote"),
    ("each_cache", "short"),
    ("each_cache", "free"),
    (REFERENCE, "free"),
)
"""Strategies and modes among which a checkpoint's defaults are chosen."""

Rates = dict[str, float]


def file_questions(model: GritLM, folder: Path, questions: Path = QUESTIONS) -> Rates:
    """Shares of questions whose answer holds a right one, whose cited passage stands on a right page, and both.

    Each question is asked over its own file, with the checkpoint's defaults. Raises InputError if a file is not there.
    """
    with _library(model, folder, questions) as (library, rows):
        return _rates(model, library, rows)


def file_answers(model: GritLM, folder: Path, questions: Path = QUESTIONS) -> list[tuple[dict[str, Any], Answer]]:
    """Each question's row, and the answer by the checkpoint's defaults. Raises InputError as `file_questions`."""
    with _library(model, folder, questions) as (library, rows):
        return list(_answers(model, library, rows))


def table_questions(model: GritLM, folder: Path, questions: Path = TABLES) -> Rates:
    """Shares of questions about a cell: answered with just that cell, its row among the passages, cited page right."""
    with _library(model, folder, questions) as (library, rows):
        exact, row_found, paged = 0, 0, 0
        for row, found in _answers(model, library, rows):
            exact += found.text.strip() in row["answers"]
            row_found += any(cell in citation.hit.chunk.text for citation in found.citations for cell in row["answers"])
            paged += bool(_pages(found) & set(row["pages"]))
    total = max(1, len(rows))
    return {"cell_exact": exact / total, "row_found": row_found / total, "right_page": paged / total, "n": float(total)}


def headings_recall(model: GritLM, folder: Path, files: Sequence[Path] = (QUESTIONS, TABLES)) -> dict[str, Rates]:
    """Share of questions with a right passage among the first 1 and 5, for each way to use the headings above passages.

    A passage is right if it stands on a right page and holds a right answer; headings are no part of it. Each question
    searches its own file, with the checkpoint's weight of vectors.
    """
    rows = {questions.stem: list(read_rows(questions)) for questions in files}
    names = dict.fromkeys(str(row["file"]) for some in rows.values() for row in some)
    read = (read_document(folder / name) for name in names)  # once, though several files of questions ask about it
    chunks = [chunk for document in read for chunk in chunk_document(document, model.prompts.count)]
    found: dict[str, Rates] = {}
    for (stem, way), hits in _by_headings(model, chunks, rows).items():
        rates = {f"recall@{k}": sum(any(one[:k]) for one in hits) / max(1, len(hits)) for k in (1, 5)}
        found[f"{stem}/{way}"] = rates | {"n": float(len(hits))}
    return found


def _by_headings(
    model: GritLM, chunks: Sequence[Chunk], rows: dict[str, list[dict[str, Any]]]
) -> dict[tuple[str, str], list[list[bool]]]:
    """(file of questions, way) → for each question, which of its passages, best first, are right.

    Ways: keywords alone, vectors alone and both fused, each over the text alone or with its headings before it.
    """
    texts = {"text": [c.text for c in chunks], "with headings": [f"{c.heading}\n{c.text}".strip() for c in chunks]}
    keywords = {way: KeywordIndex([tokens(text) for text in many]) for way, many in texts.items()}
    vectors = {way: model.encode(many) for way, many in texts.items()}
    asked = [(stem, row) for stem, some in rows.items() for row in some]
    questions = model.encode([row["question"] for _, row in asked])
    found: dict[tuple[str, str], list[list[bool]]] = {}
    modes: tuple[Mode, ...] = ("keywords", "vectors", "hybrid")
    for mode, embedded, indexed in itertools.product(modes, texts, texts):
        if mode != "hybrid" and embedded != indexed:
            continue  # one of the two alone counts
        name = f"vectors {embedded}, keywords {indexed}" if mode == "hybrid" else f"{mode} {indexed}"
        for (stem, row), vector in zip(asked, questions, strict=True):
            words = keywords[indexed].scores(row["question"])
            own = [number for number, chunk in enumerate(chunks) if chunk.document_name == row["file"]]
            cosines = {number: cosine(vectors[embedded][number], vector) for number in own}
            ranked = fuse(cosines, {n: float(words[n]) for n in own}, 5, mode, model.config.vector_weight)
            found.setdefault((stem, name), []).append([_is_right(chunks[number], row) for number, _ in ranked])
    return found


def _is_right(chunk: Chunk, row: dict[str, Any]) -> bool:
    return bool({page + 1 for page in chunk.pages} & set(row["pages"])) and holds_answer(chunk.text, row["answers"])


def by_way(
    model: GritLM, folder: Path, questions: Path = QUESTIONS, ways: Sequence[tuple[str, AnswerMode]] = WAYS
) -> dict[tuple[str, AnswerMode], Rates]:
    """The same for each strategy and mode."""
    with _library(model, folder, questions) as (library, rows):
        return {(strategy, mode): _rates(model, library, rows, strategy, mode) for strategy, mode in ways}


def best_way(found: dict[tuple[str, AnswerMode], Rates]) -> tuple[str, AnswerMode]:
    """The way with most right answers on right pages; then most right answers; then the first of those measured."""
    return max(found, key=lambda way: (found[way]["both"], found[way]["right_answer"], found[way]["right_page"]))


@contextmanager
def _library(model: GritLM, folder: Path, questions: Path) -> Iterator[tuple[Library, list[dict[str, Any]]]]:
    """A library of the files, and the rows of the questions, each with its document's id."""
    rows = list(read_rows(questions))
    names = list(dict.fromkeys(str(row["file"]) for row in rows))
    library = Library(model, None)
    try:
        reports = library.add([folder / name for name in names], with_caches=False)
        failed = [report.reason for report in reports if report.document_id is None]
        if failed:
            raise InputError(f"A file of the evaluation cannot be used: {failed[0]}")
        ids = {name: report.document_id or "" for name, report in zip(names, reports, strict=True)}
        yield library, [row | {"document": ids[row["file"]]} for row in rows]
    finally:
        library.close()


def _rates(
    model: GritLM,
    library: Library,
    rows: Sequence[dict[str, Any]],
    strategy: str | None = None,
    mode: AnswerMode | None = None,
) -> Rates:
    right, paged, both = 0, 0, 0
    for row, found in _answers(model, library, rows, strategy, mode):
        holds, on_page = holds_answer(found.text, row["answers"]), bool(_pages(found) & set(row["pages"]))
        right, paged, both = right + holds, paged + on_page, both + (holds and on_page)
    total = max(1, len(rows))
    return {"right_answer": right / total, "right_page": paged / total, "both": both / total, "n": float(len(rows))}


def _answers(
    model: GritLM,
    library: Library,
    rows: Sequence[dict[str, Any]],
    strategy: str | None = None,
    mode: AnswerMode | None = None,
) -> Iterator[tuple[dict[str, Any], Answer]]:
    for row in rows:
        events = answer(row["question"], library, model, strategy, mode=mode, documents=[row["document"]])
        yield row, next(event.answer for event in events if isinstance(event, Done))


def _pages(found: Answer) -> set[int]:
    return {citation.page for citation in found.citations if citation.is_cited}
