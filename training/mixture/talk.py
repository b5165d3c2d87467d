"""Rules of generative rows: instructions, and talk about the app."""

from __future__ import annotations

from collections.abc import Iterator

from grit_app.rag.turns.small_talk import exchanges
from training.mixture.corpus import Corpus, Row
from training.mixture.records import Record

CHAT_SOURCES = ("llms_from_scratch", "self_instruct_seed", "open_assistant_sample")
SERVED_NAME, SERVED_MILLIONS = "gritlm-135m", 135
"""As the trained model will call itself."""

MADE_SOURCES = ("made_definition", "made_synonym", "made_example", "made_glossary", "made_simplify")
PROMPT_CHARACTERS = 2400
"""Longer prompts of P3 are left out."""


def chats(corpus: Corpus) -> Iterator[Row]:
    made, rng = corpus.records("instruct_made", list(MADE_SOURCES)), corpus.rng("chats")
    written = corpus.records("instruct_open", list(CHAT_SOURCES))
    for record in written + rng.sample(made, min(len(made), 2 * len(written))):
        if record["output"].strip():
            yield {"text": [_request(record), record["output"]]}


def prompted(corpus: Corpus) -> Iterator[Row]:
    for record in corpus.records("instruct_p3_subset"):
        if record["output"].strip() and len(record["instruction"]) < PROMPT_CHARACTERS:
            yield {"text": [_request(record), record["output"]]}


def own_talk(corpus: Corpus) -> Iterator[Row]:
    if corpus.held_out:  # there is nothing to generalise to
        return
    for one in exchanges(SERVED_NAME, SERVED_MILLIONS):
        yield {"text": [one.request, one.reply]}


def _request(record: Record) -> str:
    return str(record["instruction"]) + (f"\n\n{record['input']}" if record.get("input") else "")
