"""Make the data of the GRIT stage from the corpus, by fixed rules and a seed: nothing is generated.

    python -m training.mixture --config training/recipes/mini-mixture.yaml --output_dir runs/mini/mixture

Writes one JSON Lines file for each rule below into `output_dir/train`, in the forms of
`training.data.formats`, and the same from the held-out records (`training.scratch.corpus.is_held_out`: whole
articles) into `output_dir/held_out`.

contrastive
  questions     question → its passage; hard negatives: other passages of the same article without the answer in them
  squad         question → the sentence or paragraph that answers it
  sections      "Title: heading" → a paragraph of that section; hard negatives: other sections of the article
  openings      article title → its first paragraph
  paraphrases   sentence → the same said otherwise (both directions)
  definitions   "What does X mean?" → definition, and glossary terms
  medical       question → answer; negatives: other answers on the same subject
  intents       request → another with the same intent; negatives: requests with other intents
rag
  answers       question over its passage and distractors of the same article (else of another); a part of the
                questions stands over distractors only, which then must not hold the answer: refused
  cloze         the same with questions made from encyclopedia articles (`training.scratch.cloze`)
generative
  chats         definitions and short instructions
  small_talk    greetings, questions about the app itself (small_talk.jsonl, written by hand), trivia: few and short, to
                be learned by heart
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse import auto_cli

from training.scratch.cloze import cloze_questions, passages
from training.scratch.corpus import CorpusError, Record, answer_texts, is_held_out, read_records

log = logging.getLogger(__name__)

Row = dict[str, object]


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

    negatives: int = 4
    """Hard negatives a contrastive row carries (training draws among them)."""

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


def questions(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.answered(), corpus.rng("questions")
    distractors = Distractors(records, rng)
    for record in records:
        negatives = distractors.draw(record, corpus.config.negatives)
        yield {"query": record["question"], "pos": [record["context"]], "neg": negatives}


def squad(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("pairs_squad_train_questions"):
        yield {"query": record["query"], "pos": [record["positive"]], "neg": []}


def sections(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.records("pairs_wikipedia_section"), corpus.rng("sections")
    articles: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        articles[record["title"]].append(record)
    for record in records:
        others = [o["positive"] for o in articles[record["title"]] if o["query"] != record["query"]]
        negatives = rng.sample(others, min(corpus.config.negatives, len(others)))
        yield {"query": record["query"], "pos": [record["positive"]], "neg": negatives}


def openings(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("wikipedia"):
        yield {"query": record["title"], "pos": [record["text"].split("\n")[0]], "neg": []}


def paraphrases(corpus: Corpus) -> Iterator[Row]:
    rng = corpus.rng("paraphrases")
    for record in corpus.records("pairs_paraphrase"):
        pair = [record["sentence1"], record["sentence2"]]
        rng.shuffle(pair)
        yield {"query": pair[0], "pos": [pair[1]], "neg": []}


def definitions(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("dictionary_wordnet"):
        yield {"query": f'What does "{record["words"][0]}" mean?', "pos": [record["definition"]], "neg": []}
    for record in corpus.records("glossary_textbooks"):
        yield {"query": f"What is {record['term']}?", "pos": [record["definition"]], "neg": []}


def medical(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.records("qa_medquad"), corpus.rng("medical")
    by_focus: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_focus[record["focus"]].append(record)
    for record in records:
        others = [o["answer"] for o in by_focus[record["focus"]] if o["answer"] != record["answer"]]
        negatives = rng.sample(others, min(corpus.config.negatives, len(others)))
        yield {"query": record["question"], "pos": [record["answer"]], "neg": negatives}


def intents(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.records("intents_clinc150"), corpus.rng("intents")
    by_label: dict[str, list[str]] = defaultdict(list)
    for record in records:
        by_label[record["label"]].append(record["text"])
    labels = sorted(by_label)
    for record in records:
        same = [text for text in by_label[record["label"]] if text != record["text"]]
        if same:
            others = rng.sample([label for label in labels if label != record["label"]], corpus.config.negatives)
            yield {
                "query": record["text"],
                "pos": [rng.choice(same)],
                "neg": [rng.choice(by_label[label]) for label in others],
            }


def answers(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.answered(), corpus.rng("answers")
    distractors = Distractors(records, rng)
    for record in records:
        drawn = distractors.draw(record, corpus.config.distractors)
        row: Row = {"question": record["question"], "source": record.get("source", "")}
        if drawn and rng.random() < corpus.config.unanswerable:
            yield row | {"passages": drawn, "gold": [], "answer": "", "answerable": False}
        else:
            gold = {"gold": [0], "answer": answer_texts(record)[0], "answerable": True}
            yield row | {"passages": [record["context"], *drawn]} | gold


def cloze(corpus: Corpus) -> Iterator[Row]:
    rng = corpus.rng("cloze")
    for record in corpus.records("wikipedia"):
        texts = list(passages(record["text"], rng))
        for text in rng.sample(texts, min(CLOZE_PASSAGES, len(texts))):
            for made in cloze_questions(text, rng, 1):
                others = [t for t in texts if t != text and not holds(t, [made.answer])]
                others = rng.sample(others, min(corpus.config.distractors, len(others)))
                row: Row = {"question": made.question, "source": "cloze"}
                if others and rng.random() < corpus.config.unanswerable:
                    yield row | {"passages": others, "gold": [], "answer": "", "answerable": False}
                else:
                    yield row | {"passages": [text, *others], "gold": [0], "answer": made.answer, "answerable": True}


CLOZE_PASSAGES = 2
"""Passages of an article that are asked about."""

CHAT_SOURCES = ("llms_from_scratch", "self_instruct_seed", "open_assistant_sample")
TALK_SOURCES = ("chatterbot_corpus",)
OWN_TALK = Path(__file__).with_name("small_talk.jsonl")
OWN_TALK_TIMES = 10
MADE_SOURCES = ("made_definition", "made_synonym", "made_example", "made_glossary", "made_simplify")


def chats(corpus: Corpus) -> Iterator[Row]:
    made, rng = corpus.records("instruct_made", list(MADE_SOURCES)), corpus.rng("chats")
    written = corpus.records("instruct_open", list(CHAT_SOURCES))
    for record in written + rng.sample(made, min(len(made), 2 * len(written))):
        request = record["instruction"] + (f"\n\n{record['input']}" if record.get("input") else "")
        if record["output"].strip():
            yield {"text": [request, record["output"]]}


def small_talk(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("instruct_open", list(TALK_SOURCES)):
        yield {"text": [record["instruction"], record["output"]]}
    own = [] if corpus.held_out else list(read_records(OWN_TALK))  # there is nothing to generalise to
    for record in own * OWN_TALK_TIMES:
        for request in record["requests"]:
            yield {"text": [request, record["reply"]]}


RULES: dict[str, Callable[[Corpus], Iterator[Row]]] = {
    "questions": questions,
    "squad": squad,
    "sections": sections,
    "openings": openings,
    "paraphrases": paraphrases,
    "definitions": definitions,
    "medical": medical,
    "intents": intents,
    "answers": answers,
    "cloze": cloze,
    "chats": chats,
    "small_talk": small_talk,
}


def write_rule(corpus: Corpus, rule: str) -> int:
    """One file; gives its number of rows. The rows are a random draw in random order."""
    config = corpus.config
    rows = list(RULES[rule](corpus))
    corpus.rng(f"order of {rule}").shuffle(rows)
    if rule in config.limits:
        limit = config.limits[rule] / (10 if corpus.held_out else 1)
        rows = rows[: max(1, int(limit * config.fraction))]
    elif config.fraction < 1:
        rows = rows[: max(1, int(len(rows) * config.fraction))]
    path = config.output_dir / ("held_out" if corpus.held_out else "train") / f"{rule}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return len(rows)


def run(config: MixtureConfig) -> dict[str, int]:
    """Make all files; gives the rows of each training file."""
    unknown = sorted(set(config.limits) - set(RULES))
    if unknown:
        raise CorpusError(f"limits names {unknown}, which are no rules. There are {sorted(RULES)}.")
    counts = {}
    for rule in RULES:
        counts[rule] = write_rule(Corpus(config, held_out=False), rule)
        held_out = write_rule(Corpus(config, held_out=True), rule)
        log.info("%-12s %6d rows, %5d held out", rule, counts[rule], held_out)
    return counts


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(auto_cli(MixtureConfig, as_positional=False))
    except CorpusError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
