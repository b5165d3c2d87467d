"""From records to the lines of a chart: choosing, grouping, speed-ups, break-even. No drawing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from grit_app.rag.strategies import REFERENCE

Record = dict[str, Any]

KEYS = ("docs", "doc_tokens", "query_tokens")
"""What says that two latency records measured the same work."""


def select(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records whose fields have these values; None leaves a field free."""
    conditions = {key: value for key, value in wanted.items() if value is not None}
    return [record for record in records if all(record[key] == value for key, value in conditions.items())]


def lines(records: Iterable[Record], x: str) -> dict[tuple[str, str], list[Record]]:
    """(strategy, state) → its records in the order of `x`."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault((record["strategy"], record["state"]), []).append(record)
    return {key: sorted(line, key=lambda record: record[x]) for key, line in found.items()}


def baseline_of(record: Record, records: Iterable[Record], baseline: str = REFERENCE) -> Record | None:
    """The baseline's record of the same work, or None."""
    same = select(records, strategy=baseline, **{key: record[key] for key in KEYS})
    return same[0] if same else None


def speed_up(record: Record, records: Iterable[Record], clock: str, baseline: str = REFERENCE) -> float | None:
    """How many times faster than the baseline the record is, by medians of the same run; None without a baseline."""
    reference = baseline_of(record, records, baseline)
    return None if reference is None else reference[clock]["median"] / record[clock]["median"]


def break_even(records: Sequence[Record], strategy: str, state: str, clock: str) -> float | None:
    """Document tokens from which on the strategy stays faster than full prefill; None if it never does.

    Between measured lengths by a straight line in log-log; the shortest measured length if it always is faster.
    """
    points = []
    for record in lines(select(records, strategy=strategy, state=state), "doc_tokens").get((strategy, state), []):
        ratio = speed_up(record, records, clock)
        if ratio is not None:
            points.append((math.log(record["doc_tokens"]), math.log(ratio)))
    if not points or points[-1][1] <= 0:
        return None
    crossing = points[0][0]
    for (x0, y0), (x1, y1) in pairwise(points):
        if y0 <= 0 < y1:
            crossing = x0 + (x1 - x0) * -y0 / (y1 - y0)
    return math.exp(crossing)


def common(records: Iterable[Record], field: str) -> Any:
    """The field's most frequent value: what a chart holds fixed unless told otherwise. None without records."""
    values = [record[field] for record in records]
    return max(sorted(set(values)), key=values.count) if values else None


def rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Flat rows for a table or a CSV file: `x_ms` becomes its median, `x_ms_p10` and so on."""
    flat = []
    for record in records:
        row: dict[str, Any] = {}
        for key, value in record.items():
            if key == "samples":
                continue
            if key == "stages_ms":
                row |= {f"stage_{name}_ms": summary["median"] for name, summary in value.items()}
            elif key.endswith("_ms") and isinstance(value, dict):
                row |= {key: value["median"]} | {f"{key}_{part}": value[part] for part in ("p10", "p90", "min", "n")}
            else:
                row[key] = value
        flat.append(row)
    return flat
