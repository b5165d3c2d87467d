"""Table 4: one example in the instruction of the embedding, against none."""

from __future__ import annotations

from typing import Final

from training.paper import embedder, sets
from training.paper.recording import PaperSettings, Row, mean_interval

RETRIEVAL_EXAMPLE: Final = '\n\nFor example given "{}", you should retrieve "{}"'
OTHER_EXAMPLE: Final = '\n\nFor example given "{}", it would match with "{}"'
"""The published wordings. Source: GRIT (arXiv 2402.09906), section on few-shot embedding, and its repository."""

EXAMPLE_CHARACTERS: Final = 300
NAMES: Final = ("WikiQuestions", "SearchQuestions", "Banking77Intents")


def measure(settings: PaperSettings) -> list[Row]:
    """nDCG@10 with no and with one example behind the instruction, for each set."""
    embedder.parity(settings.data)
    rows = []
    for name in settings.chosen(NAMES):
        encoder = embedder.GritEncoder(settings.model, instructions=True)  # one: passages are embedded once
        for shots, example in ((0, ""), (1, _example(name, settings))):
            encoder.example = example
            found = embedder.evaluate(encoder, [sets.task(name, settings.data, settings.limit)])[name]
            rows.append(
                {"table": "few-shot", "task": name, "metric": "ndcg_at_10", "system": f"{shots}-shot"}
                | mean_interval(found.samples)
            )
    return rows


def _example(name: str, settings: PaperSettings) -> str:
    """A pair of the set's own kind from the training files, so that no query of the set is its own example."""
    if name == "Banking77Intents":
        texts = [row["text"] for row in sets.rows(settings.data, "train/intents_clinc150") if row["label"] == "balance"]
        return OTHER_EXAMPLE.format(texts[0], texts[1])
    row = sets.rows(settings.data, "train/pairs_squad_train_questions")[0]
    return RETRIEVAL_EXAMPLE.format(row["query"], row["positive"][:EXAMPLE_CHARACTERS])
