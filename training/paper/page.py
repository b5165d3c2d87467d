"""docs/paper.md: every recorded table beside the published one. Numbers come from recordings alone.

A table whose recording is missing is named as missing. `--check` fails if the page is not what the recordings give.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from grit_app.errors import InputError
from training.paper.ablations import METRICS, seeds_differ_more_than_arms
from training.paper.recording import FOLDER
from training.paper.table1 import published

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "paper.md"
HEAD: Final = """# The paper's evidence, measured here

Every number in the tables named "measured" comes from a recording in `assets/paper`, made by the command above it.
Every number in the tables named "published" is the paper's own ({source}).
An interval in brackets holds 95 %. This page is made by `python -m training.paper page`.

The published rows are of models fifty times as large or more. What can be compared is the direction of a difference
inside one table, not the height of a number.
"""
SECTIONS: Final = (
    ("table1", "Embedding and writing (tables 1 and 2)", ("table1", "sts", "table2")),
    ("rerank", "Reranking with the same model (table 3)", ("rerank",)),
    ("fewshot", "One example in the embedding's instruction (table 4)", ("fewshot",)),
    ("kto", "Preference tuning after GRIT (table 5)", ("kto",)),
    ("ablations", "Ablations", ()),
    ("rag", "Answers over caches", ("rag",)),
)


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
    papers = published()
    parts = [HEAD.format(source=papers["source"])]
    for name, title, tables in SECTIONS:
        parts.append(f"## {title}\n")
        file = recordings / f"{name}.json"
        if file.is_file():
            parts.append(_measured(json.loads(file.read_text(encoding="utf-8"))))
        else:
            parts.append(f"Not recorded yet: `python -m training.paper {name}`.\n")
        parts += [_published(table, papers[table]) for table in tables]
    return "\n".join(parts)


def _measured(recording: dict[str, Any]) -> str:
    machine = recording["environment"]
    about = ", ".join(str(machine[key]) for key in ("cpu", "device", "dtype") if machine.get(key))
    lines = [f"Measured: {recording['model']}, {about}; `{recording['command']}`\n"]
    rows = recording["rows"]
    lines.append(_answers(rows) if rows and rows[0].get("table") == "answers" else _intervals(rows))
    lines += [
        f"\n{metric}: the seeds of one arm differ as much as the arms do, so nothing can be told from it."
        for metric in METRICS
        if seeds_differ_more_than_arms(rows, metric)
    ]
    return "\n".join(lines) + "\n"


def _intervals(rows: Sequence[dict[str, Any]]) -> str:
    with_price = any("ms" in row for row in rows)
    head = ["set", "metric", "system", "measured", "n", *(["against the first", "ms a query"] if with_price else [])]
    body = []
    for row in rows:
        cells = [row["task"], row["metric"], row["system"], _interval(row), str(row["n"])]
        if with_price:
            cells += [_interval(row["difference"], signed=True), f"{row['ms']:.0f}"] if "ms" in row else ["–", "–"]
        body.append(cells)
    return _table(head, body)


def _answers(rows: Sequence[dict[str, Any]]) -> str:
    head = ["strategy", "positions", "match", "F1", "F1 − full prefill", "n"]
    body = [
        [
            f"`{row['strategy']}`", row["positions"], f"{row['match']:.1f}", f"{row['f1']:.1f}",
            f"{row['f1_minus_rag']:+.1f} ({row['ci95'][0]:.1f} … {row['ci95'][1]:.1f})", str(row["n"]),
        ]
        for row in rows
    ]  # fmt: skip
    return _table(head, body)


def _published(name: str, table: dict[str, Any]) -> str:
    body = [[row, *(f"{value:g}" for value in values)] for row, values in table["rows"].items()]
    return f"Published ({name}):\n\n{_table(['', *table['columns']], body)}\n"


def _interval(row: dict[str, Any], signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{row['value']:{sign}.3f} ({row['low']:{sign}.3f} … {row['high']:{sign}.3f})"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
