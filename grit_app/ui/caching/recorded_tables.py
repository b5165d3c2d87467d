"""Recorded results that are no chart: throughput beside other programs, memory of one model beside two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grit_app.benchmark.show.recorded import Recording
from grit_app.ui.base.handlers import escape
from grit_app.ui.base.status import size

THROUGHPUT_HEAD: Final = ("Work", "Beside", "Ours", "Theirs", "Ratio")
NO_THROUGHPUT: Final = (
    '<p class="quiet">No throughput is recorded yet. <code>python -m grit_app.benchmark throughput</code> measures '
    "it.</p>"
)


def throughput_table(recordings: Sequence[Recording]) -> str:
    """Every throughput recording as a table under its hardware."""
    tables = [_throughput(one) for one in recordings if one.command == "throughput" and one.records]
    return "".join(tables) or NO_THROUGHPUT


def _throughput(recording: Recording) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(_work(record))}</th><td>{escape(record["peer"])}</td>'
        f'<td class="num">{_rate(record["ours_tokens_per_s"])}</td>'
        f'<td class="num">{_rate(record["peer_tokens_per_s"])}</td>'
        f'<td class="num"><b>{record["ratio"]:.2f}×</b></td></tr>'
        for record in recording.records
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in THROUGHPUT_HEAD)
    return (
        f'<div class="scroll"><table class="answers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="quiet">Tokens per second. Measured on {escape(recording.caption)}.</p>'
    )


def _work(record: dict[str, Any]) -> str:
    """`embed 150 texts`, `write after 4,096 tokens`."""
    if record["task"] == "encode":
        return f"embed {record['texts']:,} texts"
    return f"write after {record['context']:,} tokens"


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.3g}"


def memory_sentence(environment: dict[str, Any]) -> str:
    """`One model: 170 MiB, loaded in 1.2 s. Two models: 340 MiB, loaded in 2.5 s.`; empty where it was not measured."""
    both = environment.get("two_models")
    if not isinstance(both, dict):
        return ""
    words = {"unified": "One model", "two_models": "Two models"}
    told = [
        f"{words[name]}: {size(facts['memory_bytes'])} of memory, loaded in {facts['load_s']:.1f} s."
        for name, facts in both.items()
        if name in words
    ]
    return " ".join(told)
