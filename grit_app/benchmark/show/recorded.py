"""Results that ship with the project: `assets/benchmarks/*.json`, each with the hardware it was measured on.

A recording is the unchanged output of a command of this package; its file name ends with the command's name
(`cpu-2-cores.latency.json`). Older ones measured a strategy a second time under its alias: the second is not shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from grit_app.benchmark.show.series import Record, baseline_of, speed_up
from grit_app.benchmark.show.styles import style_of
from grit_app.errors import GritError
from grit_app.places import ASSETS
from grit_app.rag.strategies import ALIASES

FOLDER: Final = ASSETS / "benchmarks"


class RecordingError(GritError):
    """A recorded result is damaged or not of the form that the commands write. The message names the file."""


@dataclass(frozen=True)
class Recording:
    """One run of a command."""

    name: str
    """File name without its endings."""

    command: str
    """latency, quality, throughput or two_models"""

    environment: dict[str, Any]
    records: list[Record]

    @property
    def hardware(self) -> str:
        return str(self.environment.get("hardware", "unknown hardware"))

    @property
    def caption(self) -> str:
        """`AMD EPYC, 2 cores · mini-36m, float32 · 256–8,192 document tokens · 2026-11-21`."""
        model = self.environment.get("model") or {}
        quantization = model.get("quantization", "none")
        precision = str(model.get("dtype", "")) if quantization == "none" else quantization
        date = str(self.environment.get("measured_at", ""))[:10]
        what = ", ".join(part for part in (str(model.get("name", "")), precision) if part)
        return " · ".join(part for part in (self.hardware, *self._conditions(), what, *self._varied(), date) if part)

    def _conditions(self) -> list[str]:
        """What a reader must know before comparing milliseconds with another machine's."""
        cores, threads = self.environment.get("cores"), self.environment.get("threads")
        found = [f"{threads} thread{'s' * (threads != 1)}"] if threads and threads != cores else []
        load = self.environment.get("load_average") or [0.0]
        return [*found, "other programs running"] if cores and load[0] > cores else found

    def _varied(self) -> list[str]:
        """What the records vary, with its range; nothing for commands without lengths."""
        words = {"doc_tokens": "document tokens", "query_tokens": "question tokens", "docs": "documents"}
        found = []
        for key, name in words.items():
            values = {record[key] for record in self.records if key in record}
            if len(values) > 1:
                found.append(f"{min(values):,}–{max(values):,} {name}")
        return found


def load(path: Path) -> Recording:
    """One recording. Raises RecordingError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, command = path.stem.rsplit(".", 1)
        return Recording(
            name,
            command,
            dict(content.get("environment", {})),
            [record for record in content["records"] if record.get("strategy") not in ALIASES],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordingError(
            f"{path.name} is not a result of the benchmark commands ({error}). Measure it again, or remove the file."
        ) from error


def load_all(command: str | None = None, folder: Path = FOLDER) -> list[Recording]:
    """All recordings of a command (None: of every one), by name. An empty list without any."""
    found = [load(path) for path in sorted(folder.glob("*.json"))]
    return [recording for recording in found if command in (None, recording.command)]


def finding(records: list[Record], clock: str = "prefill_ttft_ms") -> str:
    """What the best document cache gains over full prefill on the longest work measured, with runs and spread.

    Of caches in the page cache where there are such: the state after a program's start and one look at the document.
    Never more than counting operations allows: a ratio above that says that the measurement was disturbed.
    Empty if the records hold no cached strategy beside a full prefill of the same work.
    """
    warm = [record for record in records if record["state"] == "warm"]
    found = [
        (record["docs"] * record["doc_tokens"], factor, record)
        for record in warm or records
        if record["cache_bytes"] and (factor := speed_up(record, records, clock)) is not None
    ]
    if not found:
        return ""
    _, factor, record = max(found, key=lambda one: one[:2])
    reference = baseline_of(record, records)
    assert reference is not None, "there is a speed-up"
    documents = "one document" if record["docs"] == 1 else f"{record['docs']} documents"
    where = {"hot": "in memory", "warm": "in the page cache", "cold": "on the disk"}[record["state"]]
    return (
        f"With {documents} of {record['doc_tokens']:,} tokens and the caches {where}, "
        f"“{style_of(record['strategy']).label}” gives the first token {_verdict(factor, record['flop_bound'])}: "
        f"{_spread(record[clock])} instead of {_spread(reference[clock])}."
    )


def _verdict(factor: float, bound: float) -> str:
    if factor < 1.05:
        return "no sooner than full prefill"
    if factor > bound:
        return f"about {bound:.0f} times sooner than full prefill (measured beside other programs: rough)"
    return f"{factor:.0f} times sooner than full prefill (at most {bound:.0f} times, by the operations that are left)"


def _spread(times: dict[str, Any]) -> str:
    """`340 ms (n = 5, 330–360 ms)`."""
    return f"{times['median']:,.0f} ms (n = {times['n']}, {times['p10']:,.0f}–{times['p90']:,.0f} ms)"
