"""The paper's tables with this project's recordings beside: `assets/paper/published.json` and `assets/paper/NAME.json`.

A recording is the unchanged output of `python -m training.paper NAME`. Its numbers come into a published table only
where they were measured on the same test set, or as rows of their own under their own set's name. A cell that nobody
measured says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from grit_app.errors import GritError
from grit_app.places import ASSETS

FOLDER: Final = ASSETS / "paper"
NOT_MEASURED: Final = "not measured"
PAIRS: Final = {
    "STSBenchmark": 1379,
    "STS12": 3108,
    "STS13": 1500,
    "STS14": 3750,
    "STS15": 3000,
    "STS16": 1186,
}
"""Of the whole published test sets. A score over fewer is no score of the set, and has no place in its column."""

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """Words above it, its head, and cells as they are shown."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Section:
    """One command's tables: the published one with ours beside, then what was measured with its intervals."""

    name: str
    title: str
    tables: Sequence[Table]
    command: str
    is_recorded: bool
    rows: Rows = ()
    """As recorded."""


SECTIONS: Final = (
    ("table1", "Embedding and writing (tables 1 and 2)", ("table1", "sts", "table2")),
    ("rerank", "Reranking with the same model (table 3)", ("rerank",)),
    ("fewshot", "One example in the embedding's instruction (table 4)", ("fewshot",)),
    ("kto", "Preference tuning after GRIT (table 5)", ("kto",)),
    ("ablations", "Ablations", ()),
    ("rag", "Answers over caches", ("rag", "rag_times")),
)
"""Command, title, published tables."""

METRICS: Final = {
    "retrieval/vectors/recall@1": "recall@1",
    "sts/model": "STS-B",
    "caches/rag_doc_query/f1": "F1, full prefill",
    "caches/docs_cache/f1": "F1, passage cached",
    "caches/docs_query_cache/f1": "F1, passage and question cached",
    "bits_per_byte/stories": "bits a byte",
}
"""What the arms of the ablations are compared by, with the heads of their columns."""


def published(folder: Path = FOLDER) -> dict[str, Any]:
    """The paper's own rows, with their source."""
    loaded: dict[str, Any] = _read(folder / "published.json")
    return loaded


def load_sections(folder: Path = FOLDER) -> list[Section]:
    """All sections in the paper's order. Raises GritError for a damaged file."""
    papers = published()
    sections = []
    for name, title, tables in SECTIONS:
        path = folder / f"{name}.json"
        recording = _read(path) if path.is_file() else None
        shown = [_beside(table, papers[table], recording) for table in tables]
        if recording is not None:
            shown += _measured(recording)
        rows = recording["rows"] if recording else ()
        sections.append(Section(name, title, shown, f"python -m training.paper {name}", recording is not None, rows))
    return sections


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.stem != "published":
            content["rows"], content["model"], content["environment"], content["command"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GritError(
            f"{path.name} is not a recording of training.paper ({error}). Measure it again, or remove the file."
        ) from error
    return dict(content)


def _beside(name: str, table: dict[str, Any], recording: dict[str, Any] | None) -> Table:
    """The published table with our rows at its end, or for `rag` in a column of their own."""
    head = ["", *table["columns"]]
    body = [[row, *(f"{value:g}" for value in values)] for row, values in table["rows"].items()]
    rows = recording["rows"] if recording else []
    model = recording["model"] if recording else "this model"
    if name == "rag":
        ours = {row["strategy"]: f"{row['match']:.1f}" for row in rows if row.get("positions") == "consecutive"}
        head.append(f"Match of {model}, questions over an encyclopedia")
        known = [[*cells, ours.pop(cells[0], NOT_MEASURED)] for cells in body]
        body = known + [
            [strategy, *["not published"] * len(table["columns"]), value] for strategy, value in ours.items()
        ]
    else:
        body += OURS[name](model, rows, table["columns"]) if name in OURS else []
        if not any(cells[0].startswith(model) or model in cells[0] for cells in body):
            body.append([model, *[NOT_MEASURED] * len(table["columns"])])
    notes = [table["note"]] if "note" in table else []
    return Table(f"Published ({table['place']}), and {model}", head, body, notes)


def _similarity(model: str, rows: Rows, columns: Sequence[str]) -> list[list[str]]:
    """A row of each system with vectors: the sets are the published ones."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["table"] in ("similarity", "parity"):
            who = model if row["system"] == "vectors" else row["system"]
            whole = PAIRS[row["task"]]
            is_whole = row["n"] == whole
            part = f"not in full: {row['n']:,} of {whole:,} pairs"
            found.setdefault(who, {})[row["task"]] = percent(row) if is_whole else part
    return [[who, *(cells.get(column, NOT_MEASURED) for column in columns)] for who, cells in found.items()]


def _writing(model: str, rows: Rows, columns: Sequence[str]) -> list[list[str]]:
    found = {
        row["task"]: percent(row) if row.get("is_whole") else f"not in full: {row['n']:,} rows"
        for row in rows
        if row["table"] == "published tasks"
    }
    return [[model, *(found.get(column, NOT_MEASURED) for column in columns)]]


def _before_and_after(systems: Sequence[str]) -> Any:
    """A row of each of our own sets."""

    def made(model: str, rows: Rows, columns: Sequence[str]) -> list[list[str]]:
        found: dict[str, dict[str, str]] = {}
        for row in rows:
            found.setdefault(row["task"], {})[row["system"]] = percent(row)
        return [
            [f"{task}, {model}", *(cells.get(system, NOT_MEASURED) for system in systems)]
            for task, cells in found.items()
        ]

    return made


OURS: Final = {
    "sts": _similarity,
    "table2": _writing,
    "rerank": _before_and_after(("bi-encoder", "relevance")),
    "fewshot": _before_and_after(("0-shot", "1-shot")),
}


def _measured(recording: dict[str, Any]) -> list[Table]:
    """What was recorded, a table for each form of rows; the first one tells the command and the machine."""
    rows = recording["rows"]
    notes = [f"{about(recording)}; `{recording['command']}`", *recording.get("notes", [])]
    if recording.get("limit"):
        notes.append(f"At most {recording['limit']} queries, pairs or questions of a set, drawn by a seed.")
    if has_one_seed(rows):
        notes.append("One seed tells nothing of the noise: no difference here is known to be one.")
    notes += [
        f"{head}: the noise of the seeds is larger than the effect of {'; '.join(noisy)}."
        for metric, head in METRICS.items()
        if (noisy := within_noise(rows, metric)) and not has_one_seed(rows)
    ]
    forms = {
        "answers": ("Measured", _answers),
        "times": ("Measured times", _times),
        "ablations": ("Measured", _arms),
    }
    made = []
    for name, (title, told) in forms.items():
        if own := [row for row in rows if row["table"] == name]:
            made.append(Table(title, *told(own)))
    if others := [row for row in rows if row["table"] not in forms]:
        made.append(Table("Measured", *_intervals(others)))
    return [replace(made[0], notes=notes), *made[1:]] if made else [Table("Measured", [], [], notes)]


def times(section: Section) -> list[dict[str, Any]]:
    """The latency records among a section's rows, for charts."""
    return [row for row in section.rows if row["table"] == "times"]


def _times(rows: Rows) -> tuple[list[str], list[list[str]]]:
    head = ["strategy", "document tokens", "question tokens", "first token, ms", "16 tokens, ms", "cache", "n"]
    body = [
        [
            row["strategy"],
            f"{row['doc_tokens']:,}",
            f"{row['query_tokens']:,}",
            _band(row["question_ttft_ms"]),
            _band(row["total_ms"]),
            f"{row['cache_bytes'] / 1e6:,.1f} MB",
            str(row["total_ms"]["n"]),
        ]
        for row in rows
    ]
    return head, body


def _band(summary: dict[str, float]) -> str:
    return f"{summary['median']:,.0f} ({summary['p10']:,.0f} … {summary['p90']:,.0f})"


def about(recording: dict[str, Any]) -> str:
    """Model, hardware, precision and day of a recording."""
    machine = recording["environment"]
    model = machine.get("model") or {}
    precision = model.get("dtype", "") if model.get("quantization", "none") == "none" else model["quantization"]
    count = machine.get("threads")
    threads = f"{count} thread{'s' * (count != 1)}" if count else ""
    day = str(machine.get("measured_at", ""))[:10]
    weights = f"weights {recording['weights']}" if recording.get("weights") else ""
    facts = (recording["model"], weights, machine.get("hardware") or machine.get("cpu"), threads, precision, day)
    return ", ".join(str(fact) for fact in facts if fact)


def _intervals(rows: Rows) -> tuple[list[str], list[list[str]]]:
    more: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
        "difference": ("against the first", lambda row: interval(row["difference"], signed=True)),
        "ms": ("ms a query", lambda row: f"{row['ms']:.0f}"),
    }
    columns = {name: column for name, column in more.items() if any(name in row for row in rows)}
    head = ["set", "metric", "system", "measured", "n", *(title for title, _ in columns.values())]
    body = [
        [row["task"], row["metric"], row["system"], interval(row), str(row["n"])]
        + [told(row) if name in row else "–" for name, (_, told) in columns.items()]
        for row in rows
    ]
    return head, body


def _answers(rows: Rows) -> tuple[list[str], list[list[str]]]:
    head = ["strategy", "positions", "match", "F1", "F1 − full prefill", "n"]
    body = [
        [
            row["strategy"],
            row["positions"],
            f"{row['match']:.1f}",
            f"{row['f1']:.1f}",
            f"{row['f1_minus_rag']:+.1f} ({row['ci95'][0]:.1f} … {row['ci95'][1]:.1f})",
            str(row["n"]),
        ]
        for row in rows
    ]
    return head, body


def _arms(rows: Rows) -> tuple[list[str], list[list[str]]]:
    """A row for each arm, a column for each metric."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        digits = 1 if row["metric"].endswith("/f1") else 3
        found.setdefault(row["task"], {})[row["metric"]] = interval(row, digits=digits)
    seeds = {row["task"]: str(row["n"]) for row in rows}
    body = [[arm, *(cells.get(metric, "–") for metric in METRICS), seeds[arm]] for arm, cells in found.items()]
    return ["arm", *METRICS.values(), "seeds"], body


def interval(row: dict[str, Any], signed: bool = False, digits: int = 3) -> str:
    form = f"{'+' if signed else ''}.{digits}f"
    if row["low"] == row["high"]:
        return f"{row['value']:{form}} (no interval known)"
    return f"{row['value']:{form}} ({row['low']:{form}} … {row['high']:{form}})"


def percent(row: dict[str, Any]) -> str:
    return f"{100 * row['value']:.2f} ({100 * row['low']:.1f} … {100 * row['high']:.1f})"


def within_noise(rows: Rows, metric: str) -> list[str]:
    """Arms of the ablations whose difference to the recipe may be nothing but the seeds'."""
    own = [row for row in rows if row.get("table") == "ablations" and row["metric"] == metric and "difference" in row]
    return [row["task"] for row in own if row["difference"]["low"] <= 0 <= row["difference"]["high"]]


def has_one_seed(rows: Rows) -> bool:
    """Whether nothing is known of the noise of the ablations."""
    own = [row for row in rows if row.get("table") == "ablations"]
    return bool(own) and all(row["n"] == 1 for row in own)
