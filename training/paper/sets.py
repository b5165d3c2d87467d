"""Evaluation data as mteb tasks, made from local files: nothing is fetched.

    STSBenchmark, STS12 … STS16     published/sts_b_test, published/sts12_16 (its README names what is missing of them)
    Banking77Intents                published/banking77_test: a text retrieves texts with its own intent
    ClincIntents                    train/intents_clinc150: logistic regression over 8 texts an intent, 10 draws
    WikiQuestions, SearchQuestions  dev/squadshifts (encyclopedia), dev/nq_qed: question → passage
    CISI                            dev/cisi: query → abstracts

The public names (STSBenchmark, STS12 …) are mteb's own task classes with these rows in them, so that their scores are
computed by mteb alone. The others are tasks of this project in mteb's shapes; mteb computes their scores as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grit_app.benchmark.inputs.questions import read_rows
from grit_app.errors import InputError

STS_SETS = ("STSBenchmark", "STS12", "STS13", "STS14", "STS15", "STS16")
RETRIEVAL_SETS = ("WikiQuestions", "SearchQuestions", "CISI")
CLASSIFICATION_SETS = ("ClincIntents",)
SETS = (*STS_SETS, *RETRIEVAL_SETS, "Banking77Intents", *CLASSIFICATION_SETS)
TEST_SHARE = 0.2
"""Of ClincIntents' rows that are classified; the examples come from the rest."""


@dataclass(frozen=True)
class RetrievalSet:
    """A retrieval task's data. `relevant` maps a query's id to the ids of its passages."""

    queries: dict[str, str]
    corpus: dict[str, str]
    relevant: dict[str, dict[str, int]]


def check_names(names: str) -> str:
    """The names as they are. Raises InputError if one of them is no set's."""
    from training.paper.harness import PUBLISHED

    known = (*SETS, *PUBLISHED)
    unknown = {name.strip() for name in names.split(",") if name.strip()} - set(known)
    if unknown:
        raise InputError(f"There is no set {min(unknown)!r}. Use {', '.join(known)}.")
    return names


def task(name: str, data: Path, limit: int | None = None) -> Any:
    """The mteb task of that name with its rows from the folder `data`. `limit` draws queries or pairs by a seed.

    Raises InputError for an unknown name or a missing file.
    """
    if name in STS_SETS:
        return _sts(name, data, limit)
    if name in ("WikiQuestions", "SearchQuestions", "CISI", "Banking77Intents"):
        return _retrieval_task(name, retrieval_set(name, data, limit))
    if name == "ClincIntents":
        return _clinc(data, limit)
    raise InputError(f"There is no set {name!r}. Use {', '.join(SETS)}.")


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    """Raises InputError if the file is not there."""
    path = data / f"{name}.jsonl.xz"
    if not path.is_file():
        raise InputError(f"{path} is missing. --data is the folder with dev/, published/ and train/.")
    return list(read_rows(path))


def sts_rows(name: str, data: Path) -> list[dict[str, Any]]:
    """sentence1, sentence2, score (0 … 5) of one STS test set."""
    if name == "STSBenchmark":
        return rows(data, "published/sts_b_test")
    return [row for row in rows(data, "published/sts12_16") if row["set"] == name]


def retrieval_set(name: str, data: Path, limit: int | None = None) -> RetrievalSet:
    """Queries, passages and which belong together. `limit` draws queries by a seed; all passages stay."""
    found = _RETRIEVAL[name](data)
    if limit is None or limit >= len(found.queries):
        return found
    kept = sorted(random.Random(0).sample(sorted(found.queries), limit))
    return RetrievalSet({q: found.queries[q] for q in kept}, found.corpus, {q: found.relevant[q] for q in kept})


def _sts(name: str, data: Path, limit: int | None) -> Any:
    import mteb
    from datasets import Dataset

    made = mteb.get_task(name)
    every = sts_rows(name, data)
    if limit is not None and limit < len(every):
        every = random.Random(0).sample(every, limit)  # the first ones would be of one source alone
    kept = [{key: row[key] for key in ("sentence1", "sentence2", "score")} for row in every]
    made.dataset = {"test": Dataset.from_list(kept)}
    made.data_loaded = True
    return made


def _questions(file: str, keep: Callable[[dict[str, Any]], bool], data: Path) -> RetrievalSet:
    kept = [row for row in rows(data, file) if keep(row) and row["question"].strip()]
    places = {text: f"d{index}" for index, text in enumerate(dict.fromkeys(row["context"] for row in kept))}
    return RetrievalSet(
        {f"q{index}": row["question"] for index, row in enumerate(kept)},
        {place: text for text, place in places.items()},
        {f"q{index}": {places[row["context"]]: 1} for index, row in enumerate(kept)},
    )


def _cisi(data: Path) -> RetrievalSet:
    every = rows(data, "dev/cisi")
    documents = {str(r["id"]): f"{r.get('title', '')} {r['text']}".strip() for r in every if r["type"] == "doc"}
    queries = [row for row in every if row["type"] == "query"]
    return RetrievalSet(
        {f"q{row['id']}": row["text"] for row in queries},
        documents,
        {f"q{row['id']}": {str(d): 1 for d in row["relevant"]} for row in queries},
    )


def _banking(data: Path) -> RetrievalSet:
    """The first ten texts of each intent ask for the others."""
    by_label: dict[str, list[str]] = {}
    for row in rows(data, "published/banking77_test"):
        by_label.setdefault(row["label"], []).append(row["text"])
    queries: dict[str, str] = {}
    corpus: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for label in sorted(by_label):
        texts = by_label[label]
        others = {f"{label}-{index}": text for index, text in enumerate(texts) if index >= 10}
        corpus |= others
        for index, text in enumerate(texts[:10]):
            queries[f"q-{label}-{index}"] = text
            relevant[f"q-{label}-{index}"] = dict.fromkeys(others, 1)
    return RetrievalSet(queries, corpus, relevant)


_RETRIEVAL: dict[str, Callable[[Path], RetrievalSet]] = {
    "WikiQuestions": partial(_questions, "dev/squadshifts_dev", lambda row: "wiki" in row["source"]),
    "SearchQuestions": partial(_questions, "dev/nq_qed_dev", lambda row: True),
    "CISI": _cisi,
    "Banking77Intents": _banking,
}


def _metadata(name: str, kind: Any, main_score: str) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    return TaskMetadata(
        name=name,
        description=f"{name}, made from local files.",
        type=kind,
        main_score=main_score,
        dataset={"path": f"local/{name.lower()}", "revision": "1"},
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        reference=None,
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )


def _retrieval_task(name: str, data: RetrievalSet) -> Any:
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    def keep_gains(self: Any, scores: dict[str, dict[str, float]], *_: Any, **__: Any) -> dict[str, float]:
        self.gains = {query: values["ndcg_cut_10"] for query, values in scores.items()}
        return {}

    body = {"metadata": _metadata(name, "Retrieval", "ndcg_at_10"), "task_specific_scores": keep_gains}
    made = type(name, (AbsTaskRetrieval,), body)()
    made.dataset = {
        "default": {
            "test": {
                "corpus": Dataset.from_list([{"id": key, "text": text} for key, text in data.corpus.items()]),
                "queries": Dataset.from_list([{"id": key, "text": text} for key, text in data.queries.items()]),
                "relevant_docs": data.relevant,
                "top_ranked": None,
            }
        }
    }
    made.data_loaded = True
    return made


def _clinc(data: Path, limit: int | None) -> Any:
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.classification import AbsTaskClassification

    every = list(rows(data, "train/intents_clinc150"))
    labels = {label: index for index, label in enumerate(sorted({row["label"] for row in every}))}
    random.Random(0).shuffle(every)
    cut = int(len(every) * TEST_SHARE)
    test, train = every[:cut][:limit], every[cut:]
    if limit is not None:
        train = _some_of_each(train, 8)
    made = type(
        "ClincIntents", (AbsTaskClassification,), {"metadata": _metadata("ClincIntents", "Classification", "accuracy")}
    )()
    made.dataset = DatasetDict(
        {
            part: Dataset.from_list([{"text": row["text"], "label": labels[row["label"]]} for row in chosen])
            for part, chosen in (("train", train), ("test", test))
        }
    )
    made.data_loaded = True
    return made


def _some_of_each(chosen: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for row in chosen:
        counts[row["label"]] = counts.get(row["label"], 0) + 1
        if counts[row["label"]] <= most:
            kept.append(row)
    return kept
