"""Rule of rows in the protocol in which the model searches while it answers (`grit_app.rag.searching`).

    question of two hops, first passage            → search(the second question)
    the same, both passages, "Searched for: …"     → the answer
    plain question, its passage among others       → the answer: nothing is missing
    plain question, searched for, never found      → refused: searching again is no way out

All are rag rows: a question over passages, in the layouts that every answer has.
"""

from __future__ import annotations

from collections.abc import Iterator

from grit_app.rag.searching.protocol import call, offered
from training.mixture.answers import answered_row, refused_row
from training.mixture.corpus import Corpus, Distractors, Row
from training.mixture.hops import Hop, two_hop_questions
from training.mixture.records import answer_texts

PLAIN = 2
"""Plain questions for each one of two hops."""

NEVER_FOUND = 0.25
"""Of the plain questions."""


def searches(corpus: Corpus) -> Iterator[Row]:
    records, rng = corpus.answered(), corpus.rng("searches")
    distractors = Distractors(records, rng)
    hops = two_hop_questions(records, rng)
    for hop in hops:
        yield from _of_two_hops(corpus, distractors, hop)
    for record in rng.sample(records, min(len(records), PLAIN * len(hops))):
        drawn = distractors.draw(record, corpus.config.distractors)
        row: Row = {"source": "searches"}
        if drawn and rng.random() < NEVER_FOUND:
            yield row | {"question": offered(record["question"], [record["question"]])} | refused_row(drawn)
        else:
            asked = offered(record["question"])
            yield row | {"question": asked} | answered_row([record["context"], *drawn], answer_texts(record)[0])


def _of_two_hops(corpus: Corpus, distractors: Distractors, hop: Hop) -> Iterator[Row]:
    first, second = hop.first["context"], hop.second["context"]
    query = hop.second["question"]
    others = [text for text in distractors.draw(hop.second, corpus.config.distractors) if text not in (first, second)]
    row: Row = {"source": "searches"}
    yield row | {"question": offered(hop.question)} | answered_row([first, *others], call(query))
    both = {"passages": [second, first, *others], "gold": [0, 1]}
    yield row | {"question": offered(hop.question, [query])} | answered_row([], answer_texts(hop.second)[0]) | both
