"""Measured results as the page shows them: finding, charts, table, CSV. Pure functions of records."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Final

import plotly.graph_objects as go

from grit_app.benchmark.environment import hardware_name
from grit_app.benchmark.show import figures, quality_figures, recorded
from grit_app.benchmark.show.recorded import Recording
from grit_app.benchmark.show.series import rows
from grit_app.benchmark.show.styles import style_of
from grit_app.places import BUNDLED_MODEL
from grit_app.rag.strategies import REFERENCE
from grit_app.ui.base import texts
from grit_app.ui.base.handlers import escape

LIVE: Final = "live"
EMPTY: Final = '<p class="quiet">No results yet. Choose a recording, or measure on this machine.</p>'

CHARTS: Final = (
    *("Document length", "Stages", "Question length", "Number of documents"),
    *("Quality and time", "Quality and bytes", "Cache on disk"),
)
TABLE_HEAD: Final = (
    *("Strategy", "Documents", "Tokens", "Question", "State", "Prefill → first token", "Question → first token"),
    *("Total", "Floor", "Cached", "Read", "Cache"),
)

FIRST: Final = (REFERENCE, "prefix_cache", "docs_cache", "docs_query_cache")
"""Strategies that are drawn first: all at once are a thicket."""

Result = dict[str, Any]
"""`{environment, records}` as the benchmark commands write it."""


NOT_MEASURED: Final[dict[str, tuple[str, str]]] = {
    "Question length": (
        "These results hold one length of question.",
        "python -m grit_app.benchmark latency --query_tokens 16,64,256",
    ),
    "Number of documents": (
        "These results hold one number of documents.",
        "python -m grit_app.benchmark latency --docs 1,2,4,8,16",
    ),
    "Quality and time": (
        "No answers of these strategies have been scored yet.",
        "python -m grit_app.benchmark quality --data FILE.jsonl --passages retrieved --k 4",
    ),
    "Quality and bytes": (
        "No answers of these strategies have been scored yet.",
        "python -m grit_app.benchmark quality --data FILE.jsonl --passages retrieved --k 4",
    ),
}
"""Chart → why it may be missing, and what measures it."""


def choices(recordings: Sequence[Recording], live: Result | None) -> list[tuple[str, str]]:
    """What the list of results offers: recordings of the served model, other ones, then the run on this machine."""
    timed = [one for one in recordings if one.command in ("latency", "two_models")]
    timed.sort(key=lambda one: model_name(one.environment) != BUNDLED_MODEL.name)
    listed = [(caption(one), key_of(one)) for one in timed]
    return listed + ([(f"This machine, just now: {hardware_name()}", LIVE)] if live else [])


def key_of(recording: Recording) -> str:
    """Latency recordings go by their names; another command's may share them."""
    return recording.name if recording.command == "latency" else f"{recording.name} ({recording.command})"


def caption(recording: Recording) -> str:
    return f"{recording.caption} · beside two models" if recording.command == "two_models" else recording.caption


def headline(
    records: Sequence[dict[str, Any]], hardware: str, clock: str, memory: str = "", *, is_live: bool = True
) -> str:
    """The finding in a sentence, on which hardware it was measured, and why a race may tell another number."""
    if not records:
        return EMPTY
    sentence = recorded.finding(list(records), clock)
    more = f'<p class="finding">{escape(memory)}</p>' if memory else ""
    other = "" if is_live else f" {texts.OTHER_THAN_THE_RACE}"
    where = f'<p class="quiet">Measured on {escape(hardware)}.{other}</p>'
    return f'<p class="finding">{escape(sentence)}</p>{more}{where}'


def charts(
    records: Sequence[dict[str, Any]], quality: Recording | None, clock: str, model: str = "", *, every: bool = True
) -> list[go.Figure | None]:
    """All charts that the records can fill, in the order of the page; None where there is nothing to draw.

    model   whose times the records are: told where the answers are another model's
    every   all strategies, not only the FIRST ones; where none of these were measured, all there are
    """
    if not every:
        records = [record for record in records if record["strategy"] in FIRST] or records
    if not records:
        return [None] * len(CHARTS)
    several = len({record["docs"] for record in records}) > 1
    questions = len({record["query_tokens"] for record in records}) > 1
    scored = quality.records if quality else []
    models = (model_name(quality.environment) if quality else "", model)
    drawn = [
        figures.ttft_by_document_length(records, clock),
        figures.stage_waterfall(records),
        figures.ttft_by_query_length(records, clock) if questions else None,
        figures.ttft_by_documents(records, clock) if several else None,
        quality_figures.quality_against_ttft(scored, records, models=models) if scored else None,
        quality_figures.quality_against_bytes(scored) if scored else None,
        figures.cache_bytes_by_length(records),
    ]
    return [figure if figure is not None and figure.data else None for figure in drawn]


def missing(drawn: Sequence[go.Figure | None]) -> str:
    """A card in place of each chart that nothing was measured for: it says so, and names the command that does."""
    empty = [name for name, figure in zip(CHARTS, drawn, strict=True) if figure is None and name in NOT_MEASURED]
    if not empty or not any(drawn):
        return ""
    cards = "".join(
        f'<section class="not-measured"><h4>{name}</h4><p>{NOT_MEASURED[name][0]} To measure it:</p>'
        f"<code>{_unbroken(NOT_MEASURED[name][1])}</code></section>"
        for name in empty
    )
    return f'<div class="not-measured-list">{cards}</div>'


def _unbroken(command: str) -> str:
    """The command as HTML that breaks between words only: a browser would also break after the dashes of an option."""
    return " ".join(f'<span class="word">{escape(word)}</span>' for word in command.split())


def model_name(environment: dict[str, Any]) -> str:
    """The measured model's name; empty where the environment does not tell."""
    return str((environment.get("model") or {}).get("name", ""))


def as_csv(records: Sequence[dict[str, Any]]) -> str:
    """Flat rows with a column for every number that any record has."""
    flat = rows(records)
    names = list(dict.fromkeys(name for row in flat for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()


def numbers_table(records: Sequence[dict[str, Any]]) -> str:
    """The main numbers as an HTML table: medians with their 10–90 % band."""
    body = []
    for r in records:
        times = [
            f"{r[key]['median']:,.1f} <small>({r[key]['p10']:,.1f}–{r[key]['p90']:,.1f})</small>"
            for key in ("prefill_ttft_ms", "question_ttft_ms", "total_ms")
        ]
        cells = [
            f"{r['docs']}",
            f"{r['doc_tokens']:,}",
            f"{r['query_tokens']:,}",
            escape(r["state"]),
            *times,
            f"{r['floor_ms']['median']:,.1f}",
            f"{r['cached_tokens']:,}",
            f"{r['computed_tokens']:,}",
            f"{r['cache_bytes'] / 1e6:,.2f} MB",
        ]
        name = (
            f'<th scope="row">{escape(style_of(r["strategy"]).label)}<span class="lane-name">'
            f"{escape(r['strategy'])}</span></th>"
        )
        body.append(f"<tr>{name}{''.join(f'<td class=num>{cell}</td>' for cell in cells)}</tr>")
    top = "".join(f'<th scope="col">{name}</th>' for name in TABLE_HEAD)
    return (
        f'<div class="scroll"><table class="answers numbers"><thead><tr>{top}</tr></thead><tbody>'
        f"{''.join(body)}</tbody></table></div>"
        '<p class="quiet">Times in milliseconds: median (10–90 %).</p>'
    )


def environment_table(environment: dict[str, Any]) -> str:
    """What the results were measured on, one fact a row; nested facts by their path."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{escape(value)}</td></tr>'
        for name, value in _facts("", environment)
    )
    if not rows:
        return EMPTY
    return f'<div class="scroll"><table class="answers"><tbody>{rows}</tbody></table></div>'


def _facts(path: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [fact for name, one in value.items() for fact in _facts(f"{path} {name}".strip(), one)]
    if isinstance(value, (list, tuple)):
        return [(path, ", ".join(map(str, value)))]
    return [(path, f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))]


POINT: Final = ("strategy", "passages", "k", "mode", "positions", "scheme")
"""What tells one quality record from another."""


def quality_for(recordings: Sequence[Recording], model: str) -> Recording | None:
    """What was recorded of that model's quality, as one (the first of equal points stays); else the first recording."""
    found = [recording for recording in recordings if recording.command == "quality"]
    chosen = [one for one in found if model_name(one.environment) == model] or found[:1]
    if len(chosen) < 2:
        return next(iter(chosen), None)
    points: dict[tuple[Any, ...], dict[str, Any]] = {}
    for record in chain.from_iterable(one.records for one in chosen):
        points.setdefault(tuple(record.get(name) for name in POINT), record)
    return replace(chosen[0], records=list(points.values()))


def progress_line(done: int, expected: int, words: str) -> str:
    """Where the measurement stands."""
    percent = round(100 * done / expected) if expected else 0
    count = f"{done} of {expected} points · " if expected else ""
    return (
        f'<div class="meter"><span role="status">{count}{escape(words)}</span>'
        '<span class="bar" role="progressbar" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><span style="width:{percent}%"></span></span></div>'
    )
