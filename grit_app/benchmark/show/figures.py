"""Records → Plotly figures. Pure functions: every number drawn is a number of a record, or a ratio of two.

Each figure works on light and dark pages, shows a strategy in the same colour, line and marker everywhere (styles.py),
labels lines directly, and tells all of a point's numbers on hover.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import plotly.graph_objects as go

from grit_app.benchmark.show.series import Record, break_even, common, lines, select, speed_up
from grit_app.benchmark.show.styles import (
    STAGE_COLOURS,
    STAGE_PATTERNS,
    STAGE_WORDS,
    STATE_WORDS,
    layout,
    name_of,
    style_of,
)
from grit_app.rag.strategies import REFERENCE

CLOCKS = {
    "prefill_ttft_ms": "retrieval done → first token",
    "question_ttft_ms": "question → first token",
    "total_ms": "question → end of the answer",
}


def ttft_by_document_length(
    records: Sequence[Record],
    clock: str = "prefill_ttft_ms",
    docs: int | None = None,
    query_tokens: int | None = None,
    states: Collection[str] | None = None,
    floors: bool = True,
) -> go.Figure:
    """Time against document tokens, log-log, with floors, break-even points and speed-ups at the longest length.

    docs, query_tokens   what is held fixed; None: what most records have. So in the other figures
    states               of caches; None: one that was measured, preferably "warm". So in the other figures
    """
    fixed = {"docs": docs, "query_tokens": query_tokens}
    return _by_length(records, "doc_tokens", "document tokens", clock, states, floors, **fixed)


def ttft_by_query_length(
    records: Sequence[Record],
    clock: str = "prefill_ttft_ms",
    docs: int | None = None,
    doc_tokens: int | None = None,
    states: Collection[str] | None = None,
    floors: bool = True,
) -> go.Figure:
    """Time against question tokens, log-log."""
    fixed = {"docs": docs, "doc_tokens": doc_tokens}
    return _by_length(records, "query_tokens", "question tokens", clock, states, floors, **fixed)


def ttft_by_documents(
    records: Sequence[Record],
    clock: str = "prefill_ttft_ms",
    doc_tokens: int | None = None,
    query_tokens: int | None = None,
    states: Collection[str] | None = None,
) -> go.Figure:
    """Time against the number of documents that share the same total of tokens."""
    fixed = {"doc_tokens": doc_tokens, "query_tokens": query_tokens}
    return _by_length(records, "docs", "documents", clock, states, False, **fixed)


def _by_length(
    records: Sequence[Record],
    x: str,
    x_title: str,
    clock: str,
    states: Collection[str] | None,
    floors: bool,
    **fixed: int | None,
) -> go.Figure:
    fixed = {key: common(records, key) if value is None else value for key, value in fixed.items()}
    shown = [*(states if states is not None else preferred_state(records)), "none"]
    chosen = [record for record in select(records, **fixed) if record["state"] in shown]
    figure = go.Figure()
    for (strategy, state), line in lines(chosen, x).items():
        name = _short_name(strategy, state, shown)
        figure.add_trace(_line(name, strategy, state, line, chosen, x, clock))
        if floors:
            figure.add_trace(_floor(name, strategy, line, x))
        crossing = break_even(chosen, strategy, state, clock) if x == "doc_tokens" and strategy != REFERENCE else None
        if crossing is not None and crossing > line[0][x]:
            _mark_break_even(figure, crossing, style_of(strategy).colour)
    notes = [words for words in (in_words(fixed), _caches_in_words(chosen), _runs_in_words(chosen, clock)) if words]
    if floors:
        notes.append("dotted: the floor that operations and bytes set")
    axis = {"type": "log", "tickvals": sorted({record[x] for record in chosen}), "tickformat": ",d"}
    figure.update_layout(layout(f"Time from {CLOCKS[clock]}", x_title, "milliseconds", notes, xaxis=axis, height=540))
    _finish_log_axis(figure, chosen, clock, floors)
    _label_ends(figure, chosen, x, clock)
    return figure


def _runs_in_words(records: Sequence[Record], clock: str) -> str:
    """How many measurements stand behind each point."""
    counts = sorted({record[clock]["n"] for record in records})
    if not counts:
        return ""
    runs = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"medians of {runs} runs, band 10–90 %" if counts[-1] > 1 else "one run a point: rough"


def _short_name(strategy: str, state: str, shown: Sequence[str]) -> str:
    """Without the state of the caches where all lines share it: then it stands under the title, once."""
    return name_of(strategy, state if len(shown) > 2 else "none")


def _caches_in_words(records: Sequence[Record]) -> str:
    """`caches in the page cache`, if there is one state of caches."""
    states = sorted({record["state"] for record in records} - {"none"})
    return f"caches {STATE_WORDS.get(states[0], states[0])}" if len(states) == 1 else ""


def _finish_log_axis(figure: go.Figure, records: Sequence[Record], clock: str, floors: bool) -> None:
    """Labels at 1, 2 and 5, written out: Plotly's own say `5` for 5, 50 and 500 alike."""
    if not records:
        figure.update_yaxes(type="log")
        return
    low = min([r[clock]["p10"] for r in records] + [r["floor_ms"]["min"] for r in records if floors])
    high = max(r[clock]["p90"] for r in records)
    ends = [math.log10(max(low, 1e-3)) - 0.08, math.log10(max(high, 1e-3)) + 0.08]
    powers = range(math.floor(ends[0]), math.ceil(ends[1]) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    figure.update_yaxes(type="log", range=ends, tickvals=ticks, ticktext=[f"{tick:,.10g}" for tick in ticks])


LABEL_GAP_PX = 15.0
PLOT_PX = 320.0
"""About the height that title, axis and legend leave for the lines."""


def _label_ends(figure: go.Figure, records: Sequence[Record], x: str, clock: str) -> None:
    """The speed-up at the end of each line, moved apart where lines end close together."""
    ends = []
    for (strategy, _), line in lines(records, x).items():
        factor = speed_up(line[-1], records, clock) if line[-1]["cache_bytes"] else None
        if factor is not None:
            ends.append((math.log10(line[-1][clock]["median"]), line[-1][x], strategy, factor))
    if not ends:
        return
    low, high = figure.layout.yaxis.range
    ends.sort()
    places = [(height - low) / (high - low) * PLOT_PX for height, *_ in ends]
    for (height, at, strategy, factor), place, moved in zip(ends, places, spread(places, LABEL_GAP_PX), strict=True):
        # The number in the letters of the page: on white, half of the colours are too pale for small print.
        dot = f'<span style="color:{style_of(strategy).colour}">●</span>'
        figure.add_annotation(
            x=math.log10(at),
            y=height,
            yshift=moved - place,
            xshift=8,
            xanchor="left",
            showarrow=False,
            text=f"{dot} <b>{factor:.0f}×</b>" if factor >= 10 else f"{dot} <b>{factor:.1f}×</b>",
            name=f"end of {strategy}",
        )
    figure.update_layout(margin={"r": 60})


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as needed to be at least `gap` apart; their order stays.

    Neighbours that touch form a block that is centred on the mean of its places.
    """
    blocks: list[list[float]] = []
    for place in places:
        blocks.append([place])
        while len(blocks) > 1 and _start(blocks[-1], gap) - _start(blocks[-2], gap) < gap * len(blocks[-2]) - 1e-9:
            last = blocks.pop()
            blocks[-1] += last
    return [_start(block, gap) + i * gap for block in blocks for i in range(len(block))]


def _start(block: Sequence[float], gap: float) -> float:
    return sum(block) / len(block) - gap * (len(block) - 1) / 2


def in_words(fixed: Mapping[str, int | None]) -> str:
    """`1 document, 4,096 document tokens`."""
    names = {"docs": "document", "doc_tokens": "document token", "query_tokens": "question token"}
    return ", ".join(f"{value:,} {names[key]}{'s' * (value != 1)}" for key, value in fixed.items() if value is not None)


def preferred_state(records: Sequence[Record]) -> list[str]:
    """The state that lines show unless told otherwise: several at once would be a thicket."""
    measured = {record["state"] for record in records}
    return [state for state in ("warm", "hot", "cold") if state in measured][:1]


def _mark_break_even(figure: go.Figure, crossing: float, colour: str) -> None:
    told = {"text": f"break-even {crossing:,.0f}", "textangle": -90, "font": {"size": 11}, "name": "break-even"}
    figure.add_vline(crossing, line={"color": colour, "dash": "dot", "width": 1}, opacity=0.6, annotation=told)


def _line(
    name: str, strategy: str, state: str, line: Sequence[Record], records: Sequence[Record], x: str, clock: str
) -> go.Scatter:
    style = style_of(strategy)
    medians = [record[clock]["median"] for record in line]
    return go.Scatter(
        x=[record[x] for record in line],
        y=medians,
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [record[clock]["p90"] - median for record, median in zip(line, medians, strict=True)],
            "arrayminus": [median - record[clock]["p10"] for record, median in zip(line, medians, strict=True)],
            "thickness": 1,
        },
        mode="lines+markers",
        name=name,
        line={"color": style.colour, "dash": style.dash},
        marker={"symbol": style.marker, "size": 9, "opacity": {"warm": 0.85, "cold": 0.6}.get(state, 1.0)},
        hovertext=[hover(record, records) for record in line],
        hoverinfo="text",
        cliponaxis=False,
    )


def _floor(name: str, strategy: str, line: Sequence[Record], x: str) -> go.Scatter:
    return go.Scatter(
        x=[record[x] for record in line],
        y=[record["floor_ms"]["min"] for record in line],
        mode="lines",
        name=f"{name}: floor",
        line={"color": style_of(strategy).colour, "dash": "dot", "width": 1},
        opacity=0.6,
        showlegend=False,
        hovertext=[f"{name}: floor {record['floor_ms']['min']:,.1f} ms" for record in line],
        hoverinfo="text",
    )


def hover(record: Record, records: Sequence[Record]) -> str:
    """All numbers of a latency record, in lines of text."""
    told = [f"<b>{name_of(record['strategy'], record['state'])}</b>"]
    told.append(
        f"{record['doc_tokens']:,} document tokens in {record['docs']}, {record['query_tokens']:,} question tokens"
    )
    for clock, words in CLOCKS.items():
        summary = record[clock]
        factor = speed_up(record, records, clock)
        ratio = "" if factor is None or record["strategy"] == REFERENCE else f", {factor:.1f}× faster"
        told.append(
            f"{words}: {summary['median']:,.1f} ms ({summary['p10']:,.1f}–{summary['p90']:,.1f}, "
            f"n={summary['n']:.0f}){ratio}"
        )
    told.append(f"floor {record['floor_ms']['min']:,.1f} ms; bound by operations {record['flop_bound']:.1f}×")
    told.append(f"{record['cached_tokens']:,} tokens cached, {record['computed_tokens']:,} computed")
    told.append(f"{record['cache_bytes'] / 1e6:,.1f} MB of cache read")
    if record.get("beyond_trained_context"):
        told.append("longer than the model was trained for: speed only")
    return "<br>".join(told)


def stage_waterfall(
    records: Sequence[Record],
    docs: int | None = None,
    doc_tokens: int | None = None,
    query_tokens: int | None = None,
    with_decode: bool = False,
) -> go.Figure:
    """Where the time goes: one bar for each strategy and state, one part for each stage, in the order of running."""
    longest = max((record["doc_tokens"] for record in records), default=None)
    wanted = {
        "docs": common(records, "docs") if docs is None else docs,
        "doc_tokens": longest if doc_tokens is None else doc_tokens,
        "query_tokens": common(records, "query_tokens") if query_tokens is None else query_tokens,
    }
    clock = "total_ms" if with_decode else "question_ttft_ms"
    chosen = sorted(select(records, **wanted), key=lambda record: -record[clock]["median"])
    names = [name_of(record["strategy"], record["state"]) for record in chosen]
    figure = go.Figure()
    for stage, colour in STAGE_COLOURS.items():
        if stage == "decode" and not with_decode:
            continue
        times = [record["stages_ms"].get(stage, {"median": 0.0})["median"] for record in chosen]
        if any(times):
            words = STAGE_WORDS[stage]
            figure.add_trace(
                go.Bar(
                    y=names,
                    x=times,
                    name=words,
                    orientation="h",
                    marker={"color": colour, "pattern": {"shape": STAGE_PATTERNS[stage], "size": 5}},
                    hovertemplate=f"%{{y}}<br>{words}: %{{x:,.1f}} ms<extra></extra>",
                )
            )
    figure.update_layout(
        layout(
            "Stage by stage",
            "milliseconds",
            "",
            [in_words(wanted)],
            barmode="stack",
            bargap=0.55,
            height=210 + 44 * len(chosen),
            yaxis={"autorange": "reversed", "showticklabels": False, "showgrid": False, "automargin": False},
        )
    )
    figure.update_xaxes(rangemode="tozero")
    _name_bars(figure, chosen, names, clock)
    _cut_long_bars(figure, chosen, names, clock)
    return figure


def _name_bars(figure: go.Figure, chosen: Sequence[Record], names: Sequence[str], clock: str) -> None:
    """Names and times above the bars: beside them they would take a phone's whole width."""
    for name, record in zip(names, chosen, strict=True):
        text = f"{name}: <b>{record[clock]['median']:,.0f} ms</b>"
        figure.add_annotation(
            xref="x domain",
            x=0,
            y=name,
            xanchor="left",
            yshift=18,
            showarrow=False,
            text=text,
            name="bar",
            font={"size": 11},
        )


def _cut_long_bars(figure: go.Figure, chosen: Sequence[Record], names: Sequence[str], clock: str) -> None:
    """Ends the axis a little behind the slowest cached strategy: full prefill would press the others to the edge."""
    cached = [record[clock]["median"] for record in chosen if record["cache_bytes"]]
    longer = [
        (name, record[clock]["median"])
        for name, record in zip(names, chosen, strict=True)
        if cached and record[clock]["median"] > 2 * max(cached)
    ]
    if not longer:
        return
    end = 1.25 * max(cached)
    figure.update_xaxes(range=[0, end])
    for name, time_ms in longer:
        told = {"text": f"<b>to {time_ms:,.0f} ms →</b>", "font": {"color": "white"}, "bgcolor": "rgba(0,0,0,0.6)"}
        figure.add_annotation(x=end, y=name, xanchor="right", showarrow=False, name="cut", **told)


def cache_bytes_by_length(records: Sequence[Record], docs: int | None = None) -> go.Figure:
    """Bytes of stored cache against document tokens; one line for each strategy that stores one."""
    wanted = common(records, "docs") if docs is None else docs
    stored = [record for record in select(records, docs=wanted) if record["cache_bytes"]]
    unique = {(record["strategy"], record["doc_tokens"]): {**record, "state": "none"} for record in stored}
    same: dict[tuple[tuple[int, int], ...], list[str]] = {}
    for (strategy, _), line in lines(unique.values(), "doc_tokens").items():
        same.setdefault(tuple((r["doc_tokens"], r["cache_bytes"]) for r in line), []).append(strategy)
    figure = go.Figure()
    for points, strategies in same.items():
        style = style_of(strategies[0])
        name = " = ".join(style_of(strategy).label for strategy in strategies)
        figure.add_trace(
            go.Scatter(
                x=[tokens for tokens, _ in points],
                y=[size / 1e6 for _, size in points],
                mode="lines+markers",
                name=name.replace(" = ", "<br>= "),
                line={"color": style.colour, "dash": style.dash},
                marker={"symbol": style.marker, "size": 9},
                hovertemplate="%{x:,} tokens: %{y:,.2f} MB<extra></extra>",
            )
        )
    rates = sorted(record["cache_bytes"] / record["doc_tokens"] for record in stored)
    ends = dict.fromkeys(f"{rate:,.0f}" for rate in (*rates[:1], *rates[-1:]))
    notes = [f"{' to '.join(ends)} bytes per document token"] if ends else []
    figure.update_layout(layout("Cache on disk", "document tokens", "MB", notes, showlegend=True))
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(rangemode="tozero", tickformat=",d")
    return figure
