"""From what was written to the answer as it is shown: judged, cited, with what a person should know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from grit_app.documents.library import Hit
from grit_app.gritlm.layout import Layout
from grit_app.gritlm.write.decoding import FinishReason
from grit_app.rag.citations import CitedAnswer, align, quoted
from grit_app.rag.events import Answer, Citation, PassageAnswer
from grit_app.rag.judge.confidence import Confidence, Features, Kind, confidence_of
from grit_app.rag.quotes.quoting import Quote
from grit_app.rag.retrieval import Found, answerable
from grit_app.rag.run import Run


@dataclass(frozen=True)
class Written:
    """A text, what writing it took, and what is known of it."""

    text: str
    new_tokens: int = 0
    tokens_per_s: float = 0.0
    finish_reason: FinishReason = "stop"
    kind: Kind | None = None
    """What judges it; None: nothing was read."""

    features: Features = field(default_factory=dict)
    quote: Quote | None = None
    """The quoted sentences, of which `text` is made."""

    short: str = ""
    """The few words of the quote that answer."""

    passage_answers: Sequence[PassageAnswer] = ()
    only: int | None = None
    """Index of the one passage that was read for the text."""


def conclude(run: Run, found: Found, written: Written, layouts: Sequence[Layout]) -> Answer:
    """The whole answer. A text that is too likely wrong becomes the refusal."""
    config = run.model.config
    judge = confidence_of(config, written.kind) if written.kind and written.features else None
    confidence = judge.probability(written.features) if judge else None
    if judge and confidence is not None and confidence < judge.refuse and not found.is_given:
        written = replace(written, text=config.refusal_sentence, quote=None, short="")
    text = written.text.strip()
    is_answerable = answerable(found, text, config)
    short = written.short if is_answerable and _is_sure(judge, confidence) else ""
    if run.mode == "short" and short:
        text = short
    cited = _cite(run, found, written, text) if is_answerable else align("", found.hits, run.model)
    is_doubtful = bool(is_answerable and judge and confidence is not None and confidence < judge.doubt)
    run.notes += _notes(run, written, cited, is_answerable, is_doubtful)
    cached = sum(layout.cached_length for layout in layouts) if written.kind else 0
    computed = sum(len(layout.tail) for layout in layouts) if written.kind else 0
    numbers = {hit: number for number, hit in enumerate(cited.order, 1)}
    return Answer(
        text=text,
        marked=cited.marked if cited.sentences else text,
        answerable=is_answerable if run.mode != "sources" else bool(found.hits),
        short=short,
        confidence=confidence,
        is_doubtful=is_doubtful,
        is_supported=cited.is_supported,
        strategy=run.name,
        mode=run.mode if run.strategy.retrieves else "free",
        citations=tuple(_citations(found.hits, cited)),
        prompt_tokens=cached + computed,
        cached_tokens=cached,
        new_tokens=written.new_tokens,
        tokens_per_s=written.tokens_per_s,
        finish_reason=written.finish_reason,
        timings_ms=_timings(run),
        notes=tuple(run.notes),
        sentences=tuple((sentence, tuple(found_in)) for sentence, found_in in cited.sentences),
        passage_answers=tuple(
            sorted((replace(a, number=numbers[a.hit]) for a in written.passage_answers), key=lambda a: a.number)
        ),
        question=run.question,
        features=written.features,
    )


def _is_sure(judge: Confidence | None, confidence: float | None) -> bool:
    """Few words may stand alone, or in bold; a checkpoint that was not fitted shows them as it always did."""
    return judge is None or confidence is None or confidence >= judge.sure


def _cite(run: Run, found: Found, written: Written, text: str) -> CitedAnswer:
    """A quote knows its passages; what the model wrote is aligned with those that it read."""
    quote = written.quote
    if quote is None:
        return align(text, found.hits, run.model, written.only)
    if text == written.short:
        return quoted([(text, quote.short_from)], found.hits)
    return quoted([(sentence.text, sentence) for sentence in quote.sentences], found.hits)


def _notes(run: Run, written: Written, cited: CitedAnswer, is_answerable: bool, is_doubtful: bool) -> list[str]:
    if written.finish_reason == "cancelled":
        return ["Stopped before its end."]
    if not run.strategy.retrieves or run.mode == "sources":
        return []
    if not is_answerable:
        return ["The documents do not answer this. These passages come nearest."]
    doubt = (
        "This is the closest sentence; it may not answer the question."
        if written.quote
        else ("This is the closest answer found; it may not be right.")
    )
    notes = [doubt] if is_doubtful else []
    if not cited.is_supported:
        notes.append("Not every sentence of this answer is supported by a passage.")
    return notes


def _timings(run: Run) -> dict[str, float]:
    """The published keys: four durations, and two times since the question."""
    parts = run.stages.ms
    return {
        "embed": parts["embed"],
        "search": parts["search"],
        "load_cache": parts["load"] + parts["join"],
        "prefill": parts["tail"],
        "first_token": run.first_token_ms,
        "total": run.elapsed_ms(),
    }


def _citations(hits: Sequence[Hit], cited: CitedAnswer) -> Iterator[Citation]:
    for number, index in enumerate(cited.order, 1):
        chunk = hits[index].chunk
        support = cited.supports.get(index)
        page = chunk.page_at(support.start if support else 0)
        span = (support.start, support.stop) if support else None
        yield Citation(number, hits[index], support is not None, page.index + 1, page.label, span)
