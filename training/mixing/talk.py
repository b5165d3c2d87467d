"""Rules of generative rows: instructions, and talk about the app."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.mixing.corpus import Corpus, Row
from training.scratch.corpus import Record, read_records

CHAT_SOURCES = ("llms_from_scratch", "self_instruct_seed", "open_assistant_sample")
TALK_SOURCES = ("chatterbot_corpus",)
OWN_TALK = Path(__file__).parents[1] / "small_talk.jsonl"
OWN_TALK_TIMES = 10
MADE_SOURCES = ("made_definition", "made_synonym", "made_example", "made_glossary", "made_simplify")
PROMPT_CHARACTERS = 2400
"""Longer prompts of P3 are left out."""


def chats(corpus: Corpus) -> Iterator[Row]:
    made, rng = corpus.records("instruct_made", list(MADE_SOURCES)), corpus.rng("chats")
    written = corpus.records("instruct_open", list(CHAT_SOURCES))
    for record in written + rng.sample(made, min(len(made), 2 * len(written))):
        if record["output"].strip():
            yield {"text": [_request(record), record["output"]]}


def small_talk(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("instruct_open", list(TALK_SOURCES)):
        yield {"text": [record["instruction"], record["output"]]}
    own = [] if corpus.held_out else list(read_records(OWN_TALK))  # there is nothing to generalise to
    for record in own * OWN_TALK_TIMES:
        for request in record["requests"]:
            yield {"text": [request, record["reply"]]}


def prompted(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("instruct_p3_subset"):
        if record["output"].strip() and len(record["instruction"]) < PROMPT_CHARACTERS:
            yield {"text": [_request(record), record["output"]]}


def own_talk(corpus: Corpus) -> Iterator[Row]:
    for record in [] if corpus.held_out else list(read_records(OWN_TALK)):
        for request in record["requests"]:
            yield {"text": [request, record["reply"]]}


def self_answers(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("chats_self_answers"):
        yield {"text": record["text"]}


def _request(record: Record) -> str:
    return str(record["instruction"]) + (f"\n\n{record['input']}" if record.get("input") else "")
