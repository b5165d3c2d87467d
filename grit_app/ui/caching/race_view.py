"""The race as HTML: two lanes, each with its clock, its words and its facts. Pure functions of a `Race` and a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from grit_app.benchmark.measure.race import Lane, Race
from grit_app.benchmark.show.styles import style_of
from grit_app.ui.base.handlers import escape
from grit_app.ui.base.status import seconds, size

FRAME_MS = 50.0
LONGEST_SHOW_MS = 12_000.0
"""A longer race is shown faster than it was, and says so."""


def frames(race: Race) -> Iterator[tuple[float, str]]:
    """(time to wait before it, picture): the race at its measured pace, all lanes from one starting line."""
    end = max(lane.total_ms for lane in race.lanes)
    factor = max(1.0, end / LONGEST_SHOW_MS)
    step = FRAME_MS * factor
    elapsed = 0.0
    while elapsed < end:
        yield FRAME_MS / 1000, picture(race, elapsed, factor)
        elapsed += step
    yield FRAME_MS / 1000, picture(race, None, factor)


def picture(race: Race, elapsed_ms: float | None, factor: float = 1.0) -> str:
    """All lanes at one moment; None: at the end, with the verdict."""
    lanes = "".join(_lane(race, lane, elapsed_ms) for lane in race.lanes)
    pace = f"shown {factor:.1f}× faster than it was · " if factor > 1 else ""
    note = f"{pace}measured one after the other, each alone on the device" if elapsed_ms is not None else verdict(race)
    return f'<div class="race">{lanes}</div><p class="race-note" role="status">{note}</p>'


def _lane(race: Race, lane: Lane, elapsed_ms: float | None) -> str:
    style = style_of(lane.strategy)
    now = lane.total_ms if elapsed_ms is None else min(elapsed_ms, lane.total_ms)
    has_begun, is_over = now >= lane.ttft_ms, now >= lane.total_ms
    clock = lane.ttft_ms if has_begun else now
    words = lane.text if elapsed_ms is None else lane.at(now)
    longest = max(other.ttft_ms for other in race.lanes)
    state = "first token" if has_begun else "reading …" if lane.computed_tokens > 64 else "starting …"
    done = '<span class="lane-end">done after ' + escape(seconds(lane.total_ms)) + "</span>" if is_over else ""
    cached = f"{lane.cached_tokens:,} tokens from the cache" if lane.cached_tokens else "nothing from a cache"
    facts = [f"{lane.computed_tokens:,} tokens read", cached]
    if lane.cache_bytes:
        facts.append(
            f"{size(lane.cache_bytes)} of cache, made in {seconds(lane.prepare_ms)} when the document was added"
        )
    return (
        f'<section class="lane" style="--lane:{style.colour}" aria-label="{escape(style.label)}">'
        f'<header><h4>{escape(style.label)}</h4><span class="lane-name">{escape(lane.strategy)}</span></header>'
        f'<div class="clock"><span class="time">{seconds(clock)}</span><span class="what">{state}</span>{done}</div>'
        '<span class="track" aria-hidden="true">'
        f'<span style="width:{100 * min(clock, longest) / longest:.1f}%"></span></span>'
        f'<div class="words">{escape(words) or "&nbsp;"}</div><p class="facts">'
        f"{' · '.join(map(escape, facts))}</p></section>"
    )


def verdict(race: Race) -> str:
    """One sentence: how much sooner, and whether the answers are the same."""
    factor = race.speedup
    said = (
        f"The first token came <b>{factor:.1f} times sooner</b> with the cache"
        if factor >= 1.05
        else "The cache brought the first token no sooner"
    )
    same = "and both gave the same answer" if race.same_answer else "and the answers differ"
    return f"{said}, {same}. Document: {race.doc_tokens:,} tokens."


def preparing(strategies: Sequence[str], current: str | None, idle: str = "waiting for its turn") -> str:
    """Lanes before there is anything to show; `idle`: what is said of those that are not running."""
    items = []
    for strategy in strategies:
        style = style_of(strategy)
        word = "measuring …" if strategy == current else idle
        items.append(
            f'<section class="lane" style="--lane:{style.colour}"><header><h4>{escape(style.label)}</h4>'
            f'<span class="lane-name">{escape(strategy)}</span></header><div class="clock">'
            '<span class="time quiet-time">–</span>'
            f'<span class="what">{word}</span></div><span class="track"></span><div class="words">'
            '&nbsp;</div><p class="facts">&nbsp;</p></section>'
        )
    return (
        f'<div class="race">{"".join(items)}</div><p class="race-note" role="status">'
        "Each lane is measured alone; then both are shown side by side.</p>"
    )


def answers_table(race: Race) -> str:
    """Every strategy's answer beside that of full prefill, with a mark where it differs."""
    reference = race.lanes[0]
    rows = []
    for lane in race.lanes:
        style = style_of(lane.strategy)
        is_same = lane.text.strip() == reference.text.strip()
        mark = "reference" if lane is reference else "same" if is_same else "differs"
        rows.append(
            f'<tr><th scope="row"><span class="swatch" style="background:{style.colour}" '
            f'aria-hidden="true"></span>{escape(style.label)}'
            f'<span class="lane-name">{escape(lane.strategy)}</span></th><td class="answer">'
            f"{escape(lane.text) or '<i>no words</i>'}</td>"
            f'<td><span class="chip {mark}">{mark}</span></td><td class="num">{seconds(lane.ttft_ms)}</td>'
            f'<td class="num">{seconds(lane.total_ms)}</td><td class="num">{lane.cached_tokens:,}</td>'
            f'<td class="num">{lane.computed_tokens:,}</td></tr>'
        )
    head = "".join(
        f"<th scope='col'>{h}</th>" for h in ("Strategy", "Answer", "", "First token", "Total", "Cached", "Read")
    )
    return (
        f'<div class="scroll"><table class="answers"><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div>"
    )
