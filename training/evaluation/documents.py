"""Questions over real files, as a new user would ask them: right answers and right pages."""

from __future__ import annotations

from pathlib import Path

from grit_app.benchmark.inputs.questions import read_rows
from grit_app.benchmark.measure.metrics import holds_answer
from grit_app.documents.library import Library
from grit_app.errors import InputError
from grit_app.gritlm import GritLM
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Done

QUESTIONS = Path(__file__).resolve().parents[2] / "assets" / "evaluation" / "pdf_questions.jsonl"
"""Rows: file, question, pages (from 1), answers."""


def file_questions(model: GritLM, folder: Path, questions: Path = QUESTIONS) -> dict[str, float]:
    """Shares of questions whose answer holds a right one, whose cited passage stands on a right page, and both.

    Each question is asked over its own file, with the checkpoint's defaults. Raises InputError if a file is not there.
    """
    rows = list(read_rows(questions))
    names = list(dict.fromkeys(str(row["file"]) for row in rows))
    library = Library(model, None)
    try:
        reports = library.add([folder / name for name in names], with_caches=False)
        failed = [report.reason for report in reports if report.document_id is None]
        if failed:
            raise InputError(f"A file of the evaluation cannot be used: {failed[0]}")
        ids = {name: report.document_id or "" for name, report in zip(names, reports, strict=True)}
        right, paged, both = 0, 0, 0
        for row in rows:
            events = answer(row["question"], library, model, documents=[ids[row["file"]]])
            found = next(event.answer for event in events if isinstance(event, Done))
            holds, on_page = holds_answer(found.text, row["answers"]), bool(_pages(found) & set(row["pages"]))
            right, paged, both = right + holds, paged + on_page, both + (holds and on_page)
    finally:
        library.close()
    total = max(1, len(rows))
    return {"right_answer": right / total, "right_page": paged / total, "both": both / total, "n": float(len(rows))}


def _pages(found: Answer) -> set[int]:
    return {citation.page for citation in found.citations if citation.is_cited}
