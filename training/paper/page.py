"""docs/paper.md: every recorded table beside the published one. Numbers come from recordings alone.

A table whose recording is missing is named as missing. `--check` fails if the page is not what the recordings give.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from grit_app.benchmark.show.paper import FOLDER, Section, Table, load_sections, published
from grit_app.errors import InputError

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "paper.md"
HEAD: Final = """# The paper's evidence, measured here

Every published number is the paper's own ({source}); every other one comes from a recording in `assets/paper`,
made by the command that stands above its table. An interval in brackets holds 95 %.
This page is made by `python -m training.paper page`.

The published rows are of models fifty times as large or more. What can be compared is the direction of a difference
inside one table, not the height of a number.
"""


def write(check: bool = False, recordings: Path = FOLDER, path: Path = PAGE) -> None:
    """Writes the page; with `check` raises InputError if it is not what the recordings give."""
    text = build(recordings)
    if check:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise InputError(f"{path.name} is not made from the recordings. Run: python -m training.paper page")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def build(recordings: Path) -> str:
    head = HEAD.format(source=published()["source"])
    return "\n".join([head, *(in_markdown(section) for section in load_sections(recordings))])


def section(name: str, recordings: Path = FOLDER) -> str:
    """One command's part of the page."""
    return next(in_markdown(one) for one in load_sections(recordings) if one.name == name)


def in_markdown(section: Section) -> str:
    parts = [f"## {section.title}\n"]
    if not section.is_recorded:
        parts.append(f"Not recorded yet: `{section.command}`.\n")
    parts += [_table(table) for table in section.tables]
    return "\n".join(parts)


def _table(table: Table) -> str:
    lines: Sequence[Sequence[str]] = [table.head, ["---"] * len(table.head), *table.rows]
    rows = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    notes = "".join(f"\n{note}\n" for note in table.notes)
    return f"{table.title}:\n{notes}\n{rows}\n"
