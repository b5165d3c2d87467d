"""Rules of rag rows: a question over passages, answered or refused."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from grit_app.rag.quotes.sentences import split_sentences
from training.mixture.cloze import cloze_questions, passages
from training.mixture.corpus import Corpus, Distractors, Row, holds
from training.mixture.records import answer_texts

CLOZE_PASSAGES = 2
"""Passages of an article that are asked about."""

LONG_ANSWER = (40, 400)
"""Characters of the first sentences of an explanation."""


def answers(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.answered(), corpus.rng("answers")
    distractors = Distractors(records, rng)
    for record in records:
        drawn = distractors.draw(record, corpus.config.distractors)
        row: Row = {"question": record["question"], "source": record.get("source", "")}
        if drawn and rng.random() < corpus.config.unanswerable:
            yield row | refused_row(drawn)
        else:
            yield row | answered_row([record["context"], *drawn], answer_texts(record)[0])


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
                    yield row | refused_row(others)
                else:
                    yield row | answered_row([text, *others], made.answer)


def one_by_one(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.answered(), corpus.rng("one_by_one")
    distractors = Distractors(records, rng)
    for record in records:
        row: Row = {"question": record["question"], "source": record.get("source", "")}
        if rng.random() < 0.5:
            yield row | answered_row([record["context"]], answer_texts(record)[0])
        elif drawn := distractors.draw(record, 1):
            yield row | refused_row(drawn)


def hard_refusals(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.answered(), corpus.rng("hard_refusals")
    distractors = Distractors(records, rng)
    for record in records:
        answers = answer_texts(record)
        sentences = [sentence.strip() for sentence in split_sentences(record["context"])]
        kept = [sentence for sentence in sentences if not holds(sentence, answers)]
        if len(kept) >= 2 and len(kept) < len(sentences) and not holds(" ".join(kept), answers):
            row: Row = {"question": record["question"], "source": "hard_refusals"}
            others = distractors.draw(record, rng.randint(0, corpus.config.distractors))
            yield row | refused_row([" ".join(kept), *others])


def long_answers(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.records("qa_medquad"), corpus.rng("long_answers")
    by_focus: dict[str, list[str]] = defaultdict(list)
    for record in records:
        by_focus[record["focus"]].append(record["answer"])
    for record in records:
        answer = " ".join(re.split(r"(?<=[.!?])\s+", record["answer"])[:2])
        if LONG_ANSWER[0] < len(answer) < LONG_ANSWER[1] and answer in record["answer"]:
            others = [text for text in by_focus[record["focus"]] if text != record["answer"]]
            drawn = rng.sample(others, min(3, corpus.config.distractors, len(others)))
            row: Row = {"question": record["question"], "source": "long_answers"}
            yield row | answered_row([record["answer"], *drawn], answer)


def answered_row(texts: list[str], answer: str) -> Row:
    """A question's row without the question: the first text gives the answer."""
    return {"passages": texts, "gold": [0], "answer": answer, "answerable": True}


def refused_row(texts: list[str]) -> Row:
    """The same where no text gives it."""
    return {"passages": texts, "gold": [], "answer": "", "answerable": False}
