"""From a question to what the page shows of its answer: streamed words, cited sentences, cards, the page picture."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grit_app.documents.library import Hit, Library, Mode
from grit_app.documents.places import boxes
from grit_app.documents.read.pictures import page_picture
from grit_app.errors import DocumentError, InputError
from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.layout import Positions
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Citation, Done, PassageAnswer, Retrieved, Rewritten, Token
from grit_app.rag.reranking import Judgement
from grit_app.rag.run import AnswerMode
from grit_app.rag.turns import follow_up
from grit_app.ui.base import texts
from grit_app.ui.base.handlers import escape, steady
from grit_app.ui.base.messages import Message, literal, reply
from grit_app.ui.base.status import seconds
from grit_app.ui.documents import sources
from grit_app.ui.documents.sources import FOUND_BY

MOST_NEXT = 3
"""Questions that are offered behind an answer."""


@dataclass(frozen=True)
class Turn:
    """The sources of one answer, in citation order."""

    number: int
    hits: list[Hit]
    marks: list[list[tuple[int, int]]]
    """For each hit the spans of its text on which the answer rests."""

    cited: int
    """So many of the hits, from the first, are cited."""

    question: str = ""
    """As it was read; empty for an answer of an earlier visit."""

    def places(self) -> list[dict[str, Any]]:
        """Where the passages stand in the library, for `turn_at`."""
        return [
            {
                "document": hit.chunk.document_id,
                "index": hit.chunk.index,
                "span": [hit.chunk.start, hit.chunk.stop],
                "score": round(float(hit.score), 4),
                "found_by": hit.found_by,
                "marks": self.marks[i] if i < len(self.marks) else [],
                "is_cited": i < self.cited,
            }
            for i, hit in enumerate(self.hits)
        ]

    def cards(self, chosen: int | None) -> str:
        return sources.cards(self.number, self.hits, self.marks, self.cited, chosen)


@dataclass
class Asking:
    """One question on its way. Iterate `frames`; then `turn` is there, also when the visitor stopped it."""

    number: int
    question: str
    strategy: str | None = None
    k: int | None = None
    mode: AnswerMode | None = None
    positions: Positions = "consecutive"
    whole: bool = False
    """Read one document from its beginning to its end."""

    reranked_by: Judgement | None = None
    """The model reorders what was found before it reads."""

    search_mode: Mode = "hybrid"
    answer_tokens: int = 64
    earlier: Sequence[str] = ()
    """Questions of the conversation before this one, the last one last: it may follow on them."""

    turn: Turn = field(init=False)

    def frames(
        self, library: Library, model: GritLM, documents: Sequence[str] | None, cancel: threading.Event
    ) -> Iterator[tuple[Message, str | None]]:
        """(answer so far, cards if they changed)."""
        self.turn = Turn(self.number, [], [], 0)
        self._done: Answer | None = None
        self._cards: str | None = None
        self._read_as = ""
        events = answer(
            self.question,
            library,
            model,
            strategy=self.strategy,
            k=self.k,
            mode=self.mode,
            documents=documents,
            sampling=Sampling(max_new_tokens=self.answer_tokens),
            cancel=cancel,
            positions=self.positions,
            whole=self.whole,
            reranked_by=self.reranked_by,
            search_mode=self.search_mode,
            turns=turns_of(self.earlier),
        )
        text = ""
        for text in steady(self._pieces(events)):
            cards, self._cards = self._cards, None
            yield reply(literal(text)), cards
        if self._done is None:
            yield reply(literal(text), "stopped by you"), None
            return
        self.turn = replace(turn_of(self.number, self._done.citations), question=self._read_as or self.question)
        yield finished(self.number, self._done, self._read_as), self.turn.cards(None)

    def _pieces(self, events: Iterator[Any]) -> Iterator[str]:
        """Words for the stream; the other events are noted on the way."""
        for event in events:
            if isinstance(event, Rewritten):
                self._read_as = event.question
            elif isinstance(event, Retrieved):
                self.turn = Turn(self.number, list(event.hits), [], 0)
                self._cards = self.turn.cards(None)
            elif isinstance(event, Token):
                yield event.text
            elif isinstance(event, Done):
                self._done = event.answer


def turns_of(questions: Sequence[str]) -> list[follow_up.Turn]:
    """Earlier questions as they were read: each may itself have followed on those before it."""
    turns: list[follow_up.Turn] = []
    for question in questions:
        turns.append(follow_up.Turn(follow_up.rewrite(question, turns)))
    return turns


def turn_of(number: int, citations: Sequence[Citation]) -> Turn:
    """The answer's passages as they are numbered, with the sentences on which it rests."""
    marks = [[citation.support] if citation.support else [] for citation in citations]
    return Turn(number, [c.hit for c in citations], marks, sum(c.is_cited for c in citations))


def turn_at(number: int, places: Sequence[dict[str, Any]], library: Library) -> Turn:
    """The sources of an earlier answer from their places. Raises InputError if one is not in the library any more."""
    hits, marks = [], []
    try:
        for place in places:
            chunk = library.chunks(str(place["document"]))[int(place["index"])]
            if "span" in place and place["span"] != [chunk.start, chunk.stop]:
                raise InputError(texts.CUT_SINCE)
            score = min(1.0, max(0.0, float(place["score"])))
            hits.append(Hit(chunk, score, score, 0.0, place["found_by"] if place["found_by"] in FOUND_BY else "both"))
            marks.append([(int(start), int(stop)) for start, stop in place["marks"]])
        return Turn(number, hits, marks, sum(bool(place["is_cited"]) for place in places))
    except (DocumentError, KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError("A document of this answer is not in the library any more. Add it again, then ask.") from error


def finished(number: int, done: Answer, read_as: str = "") -> Message:
    """The whole answer with its marks, what must be said about it, and its numbers.

    read_as   the question as it was understood, where it followed on earlier ones
    """
    understood = f"*{literal(f'Understood as: {read_as}')}*\n\n" if read_as else ""
    race = f' · <a href="#race-{number}">{texts.RACE_LINK}</a>' if done.citations and done.mode != "sources" else ""
    message = reply(understood + body(number, done), short_line(done), statistics(done) + race)
    if each := what_each_says(number, done.passage_answers):
        message["content"].append({"type": "text", "text": each})
    if questions := next_questions(done):
        links = "".join(f'<li><a href="#ask-next">{escape(question)}</a></li>' for question in questions)
        message["content"].append({"type": "text", "text": f'<div class="next">Ask next<ul>{links}</ul></div>'})
    return message


def next_questions(done: Answer) -> list[str]:
    """Questions about what else was found: the headings of passages on which the answer does not rest."""
    if not done.answerable:
        return []
    known = {_topic(citation.hit.chunk.heading) for citation in done.citations if citation.is_cited}
    found = dict.fromkeys(_topic(citation.hit.chunk.heading) for citation in done.citations)
    topics = [one for one in found if one and one not in known and one.lower() not in done.question.lower()]
    return [texts.NEXT_QUESTION.format(topic=topic) for topic in topics[:MOST_NEXT]]


def _topic(heading: str) -> str:
    """The innermost heading; empty for column heads of a table, and for one too long to ask about."""
    topic = heading.rpartition("›")[2].strip(" .:")
    return topic if len(topic) <= 60 and "|" not in topic else ""


def what_each_says(turn: int, answers: Sequence[PassageAnswer]) -> str:
    """Where passages were read one by one: each one's own answer, folded away. Empty for fewer than two."""
    if len(answers) < 2:
        return ""
    said = [
        f'<li><a href="#cite-{turn}-{one.number}">Passage {one.number}</a> '
        + ("does not answer." if one.refuses else f"says: “{escape(one.text)}”{_how_sure(one.confidence)}")
        + "</li>"
        for one in sorted(answers, key=lambda one: one.number)
    ]
    return (
        '<div class="stats each"><details><summary>What each passage says</summary>'
        f"<ul>{''.join(said)}</ul></details></div>"
    )


def _how_sure(confidence: float | None) -> str:
    return "" if confidence is None else f" ({100 * confidence:.0f} % likely right)"


def body(number: int, done: Answer) -> str:
    """Markdown: sentences with links to their passages, then what a reader should know. Text stays literal."""
    if not done.citations and done.strategy != "none":
        return f"**{texts.NO_PASSAGES}**"
    if done.mode == "sources":
        words = texts.SOURCES_ONLY
    elif not done.answerable and done.strategy != "none":
        words = ""
    else:
        words = cited_markdown(number, done.sentences, done.short) or literal(done.text) or "*(no words)*"
    notes = [f"*{literal(note)}*" for note in done.notes]
    return "\n\n".join([part for part in (words, *notes) if part])


def cited_markdown(turn: int, sentences: Sequence[tuple[str, Sequence[int]]], short: str = "") -> str:
    """`One sentence. [1] Another. [2]`, the numbers as links to `#cite-TURN-NUMBER`; the words of `short` in bold."""
    parts = []
    for text, numbers in sentences:
        marks = "".join(f" [\\[{n}\\]](#cite-{turn}-{n})" for n in numbers)
        before, found, behind = text.partition(short) if short else (text, "", "")
        if found:
            short = ""  # once is enough
            found = f"<strong>{literal(found)}</strong>"
        parts.append(literal(before) + found + literal(behind) + marks)
    return " ".join(parts)


MODE_WORDS = {"quote": "quoted", "short": "quoted in short", "free": "free", "sources": "sources only"}


def short_line(done: Answer) -> str:
    """The line before it is opened: how long it took, and how much of the prompt was not read again."""
    cached = f"{done.cached_tokens:,} of {done.prompt_tokens:,} tokens from the cache" if done.cached_tokens else ""
    stopped = "stopped by you" if done.finish_reason == "cancelled" else ""
    return " · ".join(part for part in (seconds(done.timings_ms["total"]), cached, stopped) if part)


def statistics(done: Answer) -> str:
    """What the line under an answer: what came from caches, and the time of each stage."""
    cached = f", {done.cached_tokens:,} of them cached" if done.cached_tokens else ", none cached"
    times = done.timings_ms
    names = {"embed": "embed", "search": "search", "load_cache": "load caches", "prefill": "prefill"}
    stages = ", ".join(f"{word} {seconds(times[key])}" for key, word in names.items() if times.get(key))
    has_words = done.prompt_tokens > 0  # a refusal is decided by the search: the model reads and writes nothing
    first = has_words and times.get("first_token")
    parts = [
        f"first token after {seconds(times['first_token'])} ({stages})" if first else stages,
        f"total {seconds(times['total'])}",
        f"{done.tokens_per_s:.3g} tokens/s" if done.mode == "free" and done.tokens_per_s else "",
        f"{done.prompt_tokens:,} prompt tokens{cached} + {done.new_tokens:,} new" if has_words else "nothing written",
        f"{escape(done.strategy)}, {MODE_WORDS[done.mode]}",
        "stopped by you" if done.finish_reason == "cancelled" else "",
    ]
    return " · ".join(part for part in parts if part)


def source_picture(library: Library, turn: Turn, position: int) -> str:
    """The page of a passage as HTML, or the text around it; where neither is to be had, a sentence that says why."""
    chunk = turn.hits[position].chunk
    marks = turn.marks[position] if position < len(turn.marks) else []
    place = chunk.page_at(marks[0][0]) if marks else chunk.places[0]
    try:
        document = library.document(chunk.document_id)
        if document.kind != "pdf":
            spans = [(chunk.start + a, chunk.start + b) for a, b in marks]
            return sources.text_html(document.text, (chunk.start, chunk.stop), spans, chunk.document_name)
        on_page = chunk.text[place.start - chunk.start : place.stop - chunk.start]
        start, stop = place.start, place.stop
        picture = page_picture(
            library.source(chunk.document_id),
            place.index,
            on_page,
            places=boxes(document.words, place.index, start, stop),
            marks=[
                box
                for a, b in marks
                for box in boxes(document.words, place.index, max(start, chunk.start + a), min(stop, chunk.start + b))
            ],
        )
    except DocumentError as error:
        return f'<p class="quiet">{escape(str(error))}</p>'
    return sources.picture_html(picture, f"{chunk.document_name}, {sources.page_words(place.label, (place.index,))}")
