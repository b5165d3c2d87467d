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
    """One sentence: the largest speed-up over full prefill among document caches, where it was measured, and its bound.

    Of caches in the page cache where there are such: the state after a program's start and one look at the document.
    Empty if the records hold no cached strategy beside a full prefill of the same work.
    """
    warm = [record for record in records if record["state"] == "warm"]
    best: tuple[float, Record] | None = None
    for record in warm or records:
        factor = speed_up(record, records, clock)
        if record["cache_bytes"] and factor is not None and (best is None or factor > best[0]):
            best = (factor, record)
    if best is None:
        return ""
    factor, record = best
    reference = baseline_of(record, records)
    assert reference is not None, "there is a speed-up"
    documents = "one document" if record["docs"] == 1 else f"{record['docs']} documents"
    where = {"hot": "in memory", "warm": "in the page cache", "cold": "on the disk"}[record["state"]]
    verdict = f"{factor:.0f} times sooner" if factor >= 1.05 else "no sooner"
    name = style_of(record["strategy"]).label
    took, instead = record[clock]["median"], reference[clock]["median"]
    return (
        f"With {documents} of {record['doc_tokens']:,} tokens and the caches {where}, “{name}” gives the first token "
        f"{verdict} than full prefill: after {took:,.0f} ms instead of {instead:,.0f} ms. Counting operations allows "
        f"{record['flop_bound']:.0f} times."
    )
