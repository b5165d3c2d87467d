"""Tables 1 and 2: what the model embeds and writes, by the two harnesses of the field."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from training.paper import embedder, sets
from training.paper.harness import PUBLISHED, run_published
from training.paper.harness import run as run_harness
from training.paper.local_tasks import NAMES, write_tasks
from training.paper.recording import PaperSettings, Row, correlation_interval, error_interval, mean_interval

ANSWERS: Final = 200
"""Most rows of a written task where no limit is given."""


def measure(settings: PaperSettings) -> list[Row]:
    """Similarity, retrieval, classification, reading, choice and prose; of table 2 what `sets` names, from the hub.

    A row is {table, task, metric, system, value, low, high, n}.

    Raises InputError if MiniLM misses its published score through the same path: then no score here would be worth
    printing.
    """
    rho, n = embedder.parity(settings.data)
    rows = [_row("parity", "STSBenchmark", "spearman", "all-MiniLM-L6-v2", correlation_interval(rho, n))]
    rows += embedding_rows(settings)
    rows += writing_rows(settings)
    for name in settings.chosen(tuple(PUBLISHED)) if settings.sets else []:
        value, error, n = run_published(settings.model, name, settings.limit)
        metric = PUBLISHED[name].metric.split(",")[0]
        row = _row("published tasks", name, metric, "model", error_interval(value, error, n))
        rows.append(row | {"is_whole": settings.limit is None})
    return rows


def embedding_rows(settings: PaperSettings) -> list[Row]:
    rows = []
    systems: list[tuple[str, Any, tuple[str, ...]]] = [
        ("vectors", embedder.GritEncoder(settings.model, bool(settings.model.config.retrieval_instruction)), sets.SETS),
        ("fused search", embedder.FusedSearch(settings.model), sets.RETRIEVAL_SETS),
    ]
    for system, encoder, names in systems:
        for name in settings.chosen(names):
            found = embedder.evaluate(encoder, [sets.task(name, settings.data, settings.limit)])[name]
            rows.append(_embedding_row(name, system, found))
    return rows


def _embedding_row(name: str, system: str, found: embedder.Scores) -> Row:
    if name in sets.STS_SETS:
        return _row(
            "similarity", name, "spearman", system, correlation_interval(found.scores["cosine_spearman"], found.n)
        )
    if name in sets.CLASSIFICATION_SETS:
        return _row("classification", name, "accuracy", system, mean_interval(found.samples))
    return _row("retrieval", name, "ndcg_at_10", system, mean_interval(found.samples))


def writing_rows(settings: PaperSettings) -> list[Row]:
    count = settings.limit or ANSWERS
    metrics = {"reading": ("f1", "exact_match"), "choice": ("acc", "acc_norm"), "prose": ("bits_per_byte",)}
    rows = []
    with TemporaryDirectory() as folder:
        path = write_tasks(settings.data, Path(folder), count)
        for name in NAMES:
            scores = run_harness(settings.model, [name], chat=name != "prose", limit=None, folder=path)[name]
            n = (path / f"{name}.jsonl").read_bytes().count(b"\n")
            for metric in metrics[name]:
                error = scores.get(f"{metric}_stderr,none", 0.0)
                rows.append(_row("writing", name, metric, "model", error_interval(scores[f"{metric},none"], error, n)))
    return rows


def _row(table: str, task: str, metric: str, system: str, interval: dict[str, float]) -> Row:
    return {"table": table, "task": task, "metric": metric, "system": system} | interval
