"""What answering a question gives, step by step and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from grit_app.documents.library import Hit

STAGES = ("embed", "search", "load_cache", "prefill", "first_token", "total")
"""Keys of `timings_ms`. The first four are durations; `first_token` and `total` run from the question."""


@dataclass(frozen=True)
class PassageAnswer:
    """What the model answers over one passage alone: an event where passages are read one by one."""

    hit: int
    """Index of the passage among the retrieved ones, best first."""

    text: str
    refuses: bool
    """The passage does not answer, says the model."""

    confidence: float | None = None
    """How likely the answer is right; None if the checkpoint has no fitted confidence."""

    features: Mapping[str, float] = field(default_factory=dict)
    """What the confidence is made of."""

    number: int = 0
    """Of the passage under the answer, from 1; known at the end."""

    def to_json(self) -> dict[str, Any]:
        confidence = None if self.confidence is None else round(self.confidence, 4)
        return {"number": self.number, "text": self.text, "refuses": self.refuses, "confidence": confidence}


@dataclass(frozen=True)
class Citation:
    """A retrieved passage as it is numbered under the answer."""

    number: int
    """From 1; `[number]` in the answer."""

    hit: Hit
    is_cited: bool
    page: int
    """From 1: the page of the supporting sentence, else the passage's first."""

    page_label: str
    """As printed on that page."""

    support: tuple[int, int] | None = None
    """Characters of the passage that support the answer."""

    def to_json(self) -> dict[str, Any]:
        chunk = self.hit.chunk
        return {
            "number": self.number,
            "file": chunk.document_name,
            "page": self.page,
            "page_label": self.page_label,
            "text": chunk.text,
            "score": round(self.hit.score, 4),
            **({"by_ocr": True} if chunk.by_ocr else {}),
        }


@dataclass(frozen=True)
class Answer:
    """The whole answer with all that is known about it."""

    text: str
    """Without marks."""

    marked: str
    """With `[n]` behind each sentence that a passage supports."""

    answerable: bool
    is_supported: bool
    """Every sentence is supported by a passage."""

    strategy: str
    """As it was asked for: an alias stays."""

    mode: Literal["quote", "short", "free", "sources"]
    citations: tuple[Citation, ...]
    """All retrieved passages, cited ones first."""

    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    tokens_per_s: float
    finish_reason: str
    timings_ms: dict[str, float]
    notes: tuple[str, ...] = field(default=())
    """Sentences that a person should read with the answer."""

    short: str = ""
    """The few words of a quote that answer, where that is sure enough; empty for other answers."""

    confidence: float | None = None
    """How likely the answer is right; None if the checkpoint has no fitted confidence for this kind of answer."""

    is_doubtful: bool = False
    """Below the checkpoint's second threshold: the closest text, which may not answer."""

    passage_answers: tuple[PassageAnswer, ...] = field(default=())
    """Where passages were read one by one, each one's own answer, in the order of their numbers."""

    question: str = ""
    """As it was read: rewritten where it followed on earlier turns."""

    features: Mapping[str, float] = field(default_factory=dict)
    """What the confidence is made of."""

    sentences: tuple[tuple[str, tuple[int, ...]], ...] = field(default=())
    """`text` cut into sentences, each with the numbers of the passages that support it."""

    searches: tuple[str, ...] = field(default=())
    """What the model asked to be searched for while it answered."""

    def to_json(self, skipped: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
        """The answer as values for JSON. `skipped` lists the files that could not be read, with the reasons."""
        return {
            "answer": self.marked,
            "answerable": self.answerable,
            "strategy": self.strategy,
            "citations": [citation.to_json() for citation in self.citations],
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "new_tokens": self.new_tokens,
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "skipped": [dict(entry) for entry in skipped],
            "question": self.question,
            "mode": self.mode,
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "notes": list(self.notes),
            "passage_answers": [answer.to_json() for answer in self.passage_answers],
            "searches": list(self.searches),
        }


@dataclass(frozen=True)
class Rewritten:
    """The question followed on earlier turns and is read as this one."""

    question: str


@dataclass(frozen=True)
class Retrieved:
    """The passages were found."""

    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Searching:
    """The model asked for this to be searched for before it answers."""

    query: str


@dataclass(frozen=True)
class FirstToken:
    """The answer begins, so long after the question."""

    ms: float


@dataclass(frozen=True)
class Token:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class Done:
    """The last event."""

    answer: Answer


Event = Rewritten | Retrieved | Searching | PassageAnswer | FirstToken | Token | Done
