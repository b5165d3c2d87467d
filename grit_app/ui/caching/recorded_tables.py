"""Recorded results that are no chart: throughput beside other programs, what a GPU showed, memory of one model beside
two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grit_app.benchmark.show.recorded import Recording
from grit_app.ui.base.handlers import escape
from grit_app.ui.base.status import size

THROUGHPUT_HEAD: Final = ("Work", "Beside", "Ours", "Theirs", "Ratio")
GPU_HEAD: Final = ("Part", "Of", "Measured")
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


def gpu_tables(recordings: Sequence[Recording]) -> str:
    """Every recording of the command `gpu` as a table under its hardware; empty without any."""
    tables = [_gpu(one) for one in recordings if one.command == "gpu" and one.records]
    return "".join(tables)


def _gpu(recording: Recording) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(record["part"])}</th><td>{escape(_of_what(record))}</td>'
        f"<td>{_gpu_facts(record)}</td></tr>"
        for record in recording.records
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in GPU_HEAD)
    return (
        f'<div class="scroll"><table class="answers"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'<p class="quiet">Measured on {escape(recording.caption)}.</p>'
    )


def _of_what(record: dict[str, Any]) -> str:
    """`decode after 4,096 tokens` without its part's name."""
    words = [str(record["what"])] if "what" in record else []
    words += [f"{record['context']:,} tokens"] if "context" in record else []
    return ", ".join(words)


def _gpu_facts(record: dict[str, Any]) -> str:
    """Every number of the record by its name: medians of times, rates, counts."""
    told = []
    for name, value in record.items():
        if name in ("part", "what", "context"):
            continue
        if isinstance(value, dict) and "median" in value:
            told.append(f"{name.removesuffix('_ms').replace('_', ' ')} {value['median']:,.2f} ms (n = {value['n']})")
        elif isinstance(value, dict):
            inner = ", ".join(f"{key} {number:,}" for key, number in value.items())
            told.append(f"{name.replace('_', ' ')}: {inner or 'none'}")
        else:
            told.append(f"{name.replace('_', ' ')}: {value}")
    return "<br>".join(map(escape, told))


def _work(record: dict[str, Any]) -> str:
    """`embed 150 texts`, `write after 4,096 tokens`."""
    if record["task"] == "encode":
        return f"embed {record['texts']:,} texts"
    return f"write after {record['context']:,} tokens"


def _rate(tokens_per_s: float) -> str:
    return f"{tokens_per_s:,.0f}" if tokens_per_s >= 100 else f"{tokens_per_s:.3g}"


def memory_sentence(environment: dict[str, Any]) -> str:
    """`One model: 170 MB, loaded in 1.2 s. Two models: 340 MB, loaded in 2.5 s.`; empty where it was not measured."""
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
