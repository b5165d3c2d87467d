"""Twenty unedited samples for a model's card: nothing is chosen by how good it is.

python -m training.evaluation.samples --model assets/gritlm-135m --files DIR

Prints Markdown: every fifth of the fifty requests, as the chat answers it, and every second of the twenty questions
over the files in DIR, with the checkpoint's defaults and the pages that the answer cites.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jsonargparse import auto_cli

from grit_app.doors import one_sentence
from grit_app.gritlm import GritLM
from training.evaluation.documents import file_answers
from training.evaluation.talk import replies


def samples(model: GritLM, files: Path) -> Iterator[tuple[str, str]]:
    """(request, answer) in the order of the files in assets/evaluation."""
    for row in replies(model)[::5]:
        yield row["request"], row["answer"]
    for question, answer in file_answers(model, files)[::2]:
        pages = ", ".join(str(page) for page in sorted({c.page for c in answer.citations if c.is_cited}))
        yield f"{question['question']} ({question['file']})", answer.text + (f" [page {pages}]" if pages else "")


def table(rows: Iterator[tuple[str, str]]) -> str:
    """A Markdown table; line ends inside an answer become ` / `."""
    cells = [[" / ".join(text.replace("|", "\\|").split("\n")) for text in row] for row in rows]
    return "\n".join(["| asked | answered |", "|---|---|", *(f"| {asked} | {said} |" for asked, said in cells)])


def main(model: str, files: Path) -> None:
    """Prints the table."""
    with one_sentence():
        print(table(samples(GritLM.from_pretrained(model), files)))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
