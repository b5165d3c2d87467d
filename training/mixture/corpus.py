"""What the rules of a mixture draw from: records of the corpus, and passages that do not hold an answer."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from training.mixture.records import CorpusError, Record, answer_texts, is_held_out, read_records

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class InstructionConfig:
    """An instruction for a part of a rule's queries."""

    text: str
    share: float = 1.0
    both: bool = False
    """Before positives and negatives too: for texts of one kind on either side."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise CorpusError(f"instructions: the share of {self.text!r} must lie in (0, 1], not {self.share}.")


@dataclass(frozen=True, kw_only=True)
class MixtureConfig:
    """What is made, and how much of it."""

    data_dir: Path
    output_dir: Path
    seed: int = 0
    fraction: float = 1.0
    """Scales `limits`: 0.01 is a rehearsal."""

    limits: dict[str, int] = field(default_factory=dict)
    """Rule → most rows of its training file; the held-out file gets up to a tenth of it. Rules not named: all rows."""

    rules: list[str] = field(default_factory=list)
    """What is made; empty: every rule."""

    negatives: int = 4
    """Hard negatives a contrastive row carries (training draws among them)."""

    most_negatives: dict[str, int] = field(default_factory=dict)
    """Rule → fewer negatives than that."""

    instructions: dict[str, InstructionConfig] = field(default_factory=dict)
    """Rule → the instruction of a part of its queries."""

    passage_characters: int | None = None
    """Longer passages are cut at a word; a row whose answer is cut off is left out."""

    distractors: int = 5
    """Passages without the answer that a rag row carries."""

    unanswerable: float = 0.25
    """Share of the questions that stand over distractors only."""

    question_sources: list[str] = field(default_factory=lambda: ["squadshifts_new_wiki"])
    """Sources of qa_squadshifts that are used. The others are users' own texts without a clear chain of licences."""


@dataclass(frozen=True)
class Corpus:
    """Records of one part (training or held-out) of the corpus files."""

    config: MixtureConfig
    held_out: bool

    def records(self, name: str, only: list[str] | None = None) -> list[Record]:
        return [
            record
            for record in read_records(self.config.data_dir / f"{name}.jsonl.xz")
            if is_held_out(record) == self.held_out and (only is None or record["source"] in only)
        ]

    def answered(self) -> list[Record]:
        """Questions with a passage: SquadShifts, tales, single sentences, whole-sentence answers."""
        records = self.records("qa_squadshifts", self.config.question_sources)
        for name in ("qa_fairytale", "qa_qamr", "qa_selqa"):
            records += self.records(name)
        return [record for record in records if answer_texts(record) and answer_texts(record)[0].strip()]

    def rng(self, rule: str) -> random.Random:
        return random.Random(f"{self.config.seed}:{rule}:{self.held_out}")


def passages_by_article(records: list[Record]) -> dict[str, list[str]]:
    """Title → its different passages. Records without a title (single sentences) share one entry."""
    articles: dict[str, dict[str, None]] = defaultdict(dict)
    for record in records:
        articles[str(record.get("title") or "")].setdefault(record["context"])
    return {title: list(passages) for title, passages in articles.items()}


def holds(text: str, answers: list[str]) -> bool:
    """Whether any of the answers stands in the text as whole words, in any case."""
    return any(re.search(rf"(?<!\w){re.escape(a.strip())}(?!\w)", text, re.IGNORECASE) for a in answers if a.strip())


class Distractors:
    """Passages for a question that do not hold its answer: of its article first, then of any."""

    def __init__(self, records: list[Record], rng: random.Random) -> None:
        self.articles = passages_by_article(records)
        self.everything = sorted({passage for passages in self.articles.values() for passage in passages})
        self.rng = rng

    def draw(self, record: Record, count: int) -> list[str]:
        answers = answer_texts(record)
        title = str(record.get("title") or "")
        near = [p for p in self.articles[title] if title and p != record["context"] and not holds(p, answers)]
        drawn = self.rng.sample(near, min(count, len(near)))
        for _ in range(20 * count):
            if len(drawn) >= count:
                break
            other = self.rng.choice(self.everything)
            if other != record["context"] and other not in drawn and not holds(other, answers):
                drawn.append(other)
        return drawn
