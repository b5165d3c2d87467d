"""Rules of contrastive rows: a query, its passages, and passages that are none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from training.mixture.corpus import Corpus, Distractors, Row
from training.mixture.records import Record

PARAGRAPH = (150, 900)
"""Characters of a paragraph that tells what its article is about."""


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


def subjects(corpus: Corpus) -> Iterator[Row]:
    rng = corpus.rng("subjects")
    for record in corpus.records("wikipedia"):
        paragraphs = [p for p in record["text"].split("\n") if PARAGRAPH[0] < len(p) < PARAGRAPH[1]]
        if len(paragraphs) >= 2:
            query, positive = rng.sample(paragraphs, 2)
            yield {"query": query, "pos": [positive], "neg": []}


def neighbours(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("pairs_neighbours"):
        yield {"query": record["query"], "pos": record["pos"], "neg": record["neg"]}
