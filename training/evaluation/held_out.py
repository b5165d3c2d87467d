"""Measures a model on held-out files in the forms of the training data, along the serving path.

    contrastive   accuracy_at_1, mrr, ndcg_at_10     each query over all passages of the file
    generative    perplexity                         of what the assistant says, by `GritLM.score`
    rag           f1, match                          answers written with the checkpoint's default strategy, greedy
    sts           spearman                           rows {"sentence1", "sentence2", "score"}

Names are `file/metric`. For the public development sets with baselines see `training.evaluate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from grit_app.benchmark.measure.metrics import holds_answer, token_f1
from grit_app.gritlm import GritLM, Sampling
from grit_app.rag.block_caches import gather
from grit_app.rag.strategies import build_layout
from training.config import DataFile
from training.data.formats import (
    ContrastiveSample,
    Dataset,
    GenerativeSample,
    JsonLines,
    RagSample,
    Text,
    open_datasets,
)
from training.evaluation.correlation import spearman

ANSWER_TOKENS = 32


def measure_files(model: GritLM, files: Sequence[str], limit: int | None = None) -> dict[str, float]:
    """`file/metric` → value. `limit` rows of each file, the first ones. Raises DataError for a bad file."""
    values: dict[str, float] = {}
    for path in files:
        name = Path(path).name.split(".")[0]
        if Path(path).is_file() and "sentence1" in (rows := JsonLines(Path(path)))[0]:
            found = similarity(model, rows, limit)
        else:
            found = {}
            for dataset in open_datasets([DataFile(path=path, limit=limit)]):
                found |= _measure(model, dataset)
        values |= {f"{name}/{metric}": value for metric, value in found.items()}
    return values


def _measure(model: GritLM, dataset: Dataset) -> dict[str, float]:
    samples = [dataset[index] for index in range(len(dataset))]
    if dataset.kind == "contrastive":
        return retrieval(model, [s for s in samples if isinstance(s, ContrastiveSample)])
    if dataset.kind == "generative":
        return {"perplexity": perplexity(model, [s for s in samples if isinstance(s, GenerativeSample)])}
    return answers(model, [s for s in samples if isinstance(s, RagSample)])


def retrieval(model: GritLM, samples: Sequence[ContrastiveSample]) -> dict[str, float]:
    """Each query over all different passages of the samples. All of a row's positives count as right."""
    passages = list(dict.fromkeys(t for s in samples for t in (*s.positives, *s.negatives)))
    place = {text: column for column, text in enumerate(passages)}
    scores = encode(model, [s.query for s in samples]) @ encode(model, passages).T
    hits, reciprocal, gains = 0.0, 0.0, 0.0
    for row, sample in enumerate(samples):
        right = [place[text] for text in sample.positives]
        wrong = np.delete(scores[row], right)
        # A tie counts against the model, and so does a number that is none: all vectors alike find nothing.
        ranks = [n + int((~(wrong < own)).sum()) for n, own in enumerate(sorted(scores[row][right], reverse=True))]
        hits += ranks[0] == 0
        reciprocal += 1 / (ranks[0] + 1)
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(ranks))))
        gains += sum(1 / math.log2(rank + 2) for rank in ranks if rank < 10) / ideal
    n = len(samples)
    return {"accuracy_at_1": hits / n, "mrr": reciprocal / n, "ndcg_at_10": gains / n}


def encode(model: GritLM, texts: Sequence[Text]) -> np.ndarray:
    """Vectors [n, hidden] of texts with instructions of their own."""
    vectors = np.zeros((len(texts), model.hidden_size), dtype=np.float32)
    for instruction in sorted({text.instruction for text in texts}):
        rows = [row for row, text in enumerate(texts) if text.instruction == instruction]
        vectors[rows] = model.encode([texts[row].text for row in rows], instruction)
    return vectors


def perplexity(model: GritLM, samples: Sequence[GenerativeSample]) -> float:
    """exp of the mean loss of all response tokens, EOS included."""
    total, tokens = 0.0, 0
    for sample in samples:
        if isinstance(sample.turns, str):
            ids = [*model.prompts.opening(sample.turns), model.prompts.eos_id]
            spans = [(1, len(ids))]
        else:
            roles = ("user", "assistant")
            turns = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(sample.turns)]
            chat = model.prompts.chat(turns, add_generation_prompt=False)
            ids, spans = chat.ids, chat.answer_spans
        for start, stop in spans:
            total += model.score(ids[:start], [ids[start:stop]])[0]
            tokens += stop - start
    return math.exp(-total / max(1, tokens))


def answers(model: GritLM, samples: Sequence[RagSample]) -> dict[str, float]:
    """F1 and match of greedy answers over all passages of a row; a refusal is right where none answers."""
    f1, match = 0.0, 0.0
    for sample in samples:
        expected = sample.answer if sample.answerable else model.config.refusal_sentence
        strategy = model.config.default_strategy
        layout = build_layout(strategy, model.prompts, model.config, sample.question, sample.passages)
        stream = model.stream_ids(layout.tail, gather(model, layout), Sampling(max_new_tokens=ANSWER_TOKENS))
        for _ in stream:
            pass
        f1 += token_f1(stream.text, [expected])
        match += holds_answer(stream.text, [expected])
    return {"f1": f1 / len(samples), "match": match / len(samples)}


def similarity(model: GritLM, rows: JsonLines, limit: int | None) -> dict[str, float]:
    """Spearman correlation of cosines with the scores."""
    count = len(rows) if limit is None else min(limit, len(rows))
    read = [rows[index] for index in range(count)]
    first = model.encode([row["sentence1"] for row in read])
    second = model.encode([row["sentence2"] for row in read])
    return {"spearman": spearman((first * second).sum(1), np.array([float(row["score"]) for row in read]))}
