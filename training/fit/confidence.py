"""Fits what a checkpoint believes of its own answers, and writes it into its grit_config.json.

    python -m training.fit.confidence --model assets/gritlm-135m --suite data/dev [--limit N] [--files DIR] [--json OUT]

Each question is asked twice over passages found for it: in the whole pool, and in the pool without its own article,
where nothing answers it. The app's own path answers it (rag/answering.py): over each passage alone, over all passages
together, and by a quote. A logistic regression tells right answers from wrong ones (rag/confidence.py); on one half of
the questions it is fitted, on the other it is reported:

    refuse   where the rates of refused unanswerable and of kept answerable questions lie furthest above what is asked
    doubt    above it a share DOUBT_PRECISION of the answers is right
    sure     above it a share SURE_PRECISION of the few words alone is right

The report also holds F1 by strategy. With `--files`, a folder with the files of assets/evaluation/pdf_questions.jsonl,
their questions are asked in every strategy and mode that may be a default, and the one with most right answers on
right pages becomes the checkpoint's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from grit_app.benchmark.inputs.passages import PassagePool
from grit_app.benchmark.measure.metrics import holds_answer, token_f1
from grit_app.benchmark.measure.quality import search
from grit_app.documents.library import Hit
from grit_app.gritlm import GritConfig, GritLM, Sampling
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Done
from grit_app.rag.judge.confidence import BIAS, Features, Kind
from grit_app.rag.run import AnswerMode
from training.evaluation.calibrate import best_threshold, rates
from training.evaluation.documents import best_way, by_way
from training.evaluation.ranking import items_by_group
from training.evaluation.suite import Item, Suite, load_suite

RETRIEVED: Final = 5
NEW_TOKENS: Final = 32
POOL_PASSAGES: Final = 225
"""Among which the five are found."""

DOUBT_PRECISION: Final = 0.5
SURE_PRECISION: Final = 0.8
RIGHT_F1: Final = 0.5
"""An answer is right from here on, or if it holds a right one."""

WAYS: Final[dict[str, tuple[str, AnswerMode]]] = {
    "each_cache": ("each_cache", "free"),
    "docs_cache": ("docs_cache", "free"),
    "rag_doc_query": ("rag_doc_query", "free"),
    "quote": ("docs_cache", "quote"),
}
KIND_OF: Final[dict[str, Kind]] = {"each_cache": "each", "docs_cache": "free", "quote": "quote"}


@dataclass(frozen=True)
class Judged:
    """An answer with its features, and whether it is right."""

    question: int
    features: Features
    is_right: bool
    is_short_right: bool = False
    refuses: bool = False


@dataclass
class Collected:
    """All answers of one draw."""

    answerable: dict[Kind, list[Judged]] = field(default_factory=lambda: {kind: [] for kind in get_args(Kind)})
    unanswerable: dict[Kind, list[Judged]] = field(default_factory=lambda: {kind: [] for kind in get_args(Kind)})
    f1: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})


def collect(model: GritLM, suite: Suite, limit: int, seed: int = 0, ways: Sequence[str] = tuple(WAYS)) -> Collected:
    """Answers to `limit` questions, each with and without its own article among the passages."""
    items = suite.draw(("wiki", "users", "nq"), limit, seed)
    near = suite.draw(("wiki", "users", "nq"), POOL_PASSAGES, seed + 1)
    contexts = list(dict.fromkeys([*(item.context for item in items), *(item.context for item in near)]))
    groups = items_by_group(suite.items)
    found = Collected()
    plain = replace(model.config, confidence={}, answerable_threshold=0.0)
    fitted, model.config = model.config, plain
    try:
        with PassagePool(model, contexts[: max(POOL_PASSAGES, len(items))]) as pool:
            for number, item in enumerate(items):
                own = groups[item.group] | {item.context}
                hits = search(model, pool, item.question, 4 * RETRIEVED)
                elsewhere = [hit for hit in hits if pool.text_of(hit) not in own]
                for way in ways:
                    _ask(model, pool, item, number, way, hits[:RETRIEVED], found)
                    if way in KIND_OF:
                        _ask(model, pool, item, number, way, elsewhere[:RETRIEVED], found, answerable=False)
    finally:
        model.config = fitted
    return found


def _ask(
    model: GritLM,
    pool: PassagePool,
    item: Item,
    number: int,
    way: str,
    hits: Sequence[Hit],
    found: Collected,
    *,
    answerable: bool = True,
) -> None:
    strategy, mode = WAYS[way]
    sampling = Sampling(max_new_tokens=NEW_TOKENS)
    events = answer(item.question, pool.library, model, strategy, mode=mode, hits=hits, sampling=sampling)
    done: Answer = next(event.answer for event in events if isinstance(event, Done))
    if answerable:
        found.f1[way].append(token_f1(done.short if mode == "quote" else done.text, item.answers))
    if way not in KIND_OF:
        return
    kept = (found.answerable if answerable else found.unanswerable)[KIND_OF[way]]
    told = [(a.text, a.features, a.refuses) for a in done.passage_answers] or [
        (done.text, done.features, not done.answerable)
    ]
    for text, features, refuses in told:
        short = answerable and token_f1(done.short, item.answers) >= RIGHT_F1
        right = answerable and not refuses and _is_right(text, item, mode)
        kept.append(Judged(number, features, right, short, refuses))


def _is_right(text: str, item: Item, mode: AnswerMode) -> bool:
    return holds_answer(text, item.answers) or (mode != "quote" and token_f1(text, item.answers) >= RIGHT_F1)


# ---------------------------------------------------------------- fitting


def fit_kind(found: Collected, kind: Kind) -> tuple[dict[str, Any], dict[str, float]]:
    """(weights and thresholds as grit_config.json holds them, the report on the other half)."""
    answerable, unanswerable = found.answerable[kind], found.unanswerable[kind]
    fitted = [row for row in (*answerable, *unanswerable) if row.question % 2 == 0 and not row.refuses]
    weights = fit_weights([row.features for row in fitted], [row.is_right for row in fitted])
    even = best_of(answerable, weights, 0), best_of(unanswerable, weights, 0)
    refuse = best_threshold(np.array([p for p, _ in even[0]]), np.array([p for p, _ in even[1]]))
    everything = [*even[0], *even[1]]
    doubt = max(refuse, precise_from(everything, DOUBT_PRECISION))
    short = [(p, row.is_short_right) for p, row in chosen(answerable, weights, 0)] if kind == "quote" else everything
    sure = max(doubt, precise_from([*short, *((p, False) for p, _ in even[1])], SURE_PRECISION))
    odd = best_of(answerable, weights, 1), best_of(unanswerable, weights, 1)
    refused, kept = rates(np.array([p for p, _ in odd[0]]), np.array([p for p, _ in odd[1]]), refuse)
    report = {
        "unanswerable_refused": refused,
        "answerable_kept": kept,
        "right": float(np.mean([right for _, right in odd[0]])),
        "right_above_doubt": _share([right for p, right in (*odd[0], *odd[1]) if p >= doubt]),
        "above_doubt": float(np.mean([p >= doubt for p, _ in odd[0]])),
        "right_above_sure": _share([right for p, right in (*odd[0], *odd[1]) if p >= sure]),
        "above_sure": float(np.mean([p >= sure for p, _ in odd[0]])),
    }
    return {"weights": weights, "refuse": refuse, "doubt": doubt, "sure": sure}, report


def fit_weights(features: Sequence[Features], right: Sequence[bool]) -> dict[str, float]:
    """Weights of the features as they are, and of the bias, by logistic regression over standardised features.

    Where all answers are right, or all wrong, there is nothing to tell apart: the bias alone, at their share.
    """
    names = sorted({name for row in features for name in row})
    x: NDArray[np.float64] = np.array([[row.get(name, 0.0) for name in names] for row in features])
    share = (sum(right) + 0.5) / (len(right) + 1)
    if len(set(right)) < 2:
        return {BIAS: round(float(np.log(share / (1 - share))), 4)}
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    model = LogisticRegression(C=0.3).fit((x - mean) / scale, np.array(right))
    weights = model.coef_[0] / scale
    bias = float(model.intercept_[0] - weights @ mean)
    return {BIAS: round(bias, 4)} | {name: round(float(w), 4) for name, w in zip(names, weights, strict=True)}


def probability(weights: Mapping[str, float], row: Judged) -> float:
    if row.refuses:
        return 0.0
    logit = weights[BIAS] + sum(weights.get(name, 0.0) * value for name, value in row.features.items())
    return float(1 / (1 + np.exp(-np.clip(logit, -50, 50))))


def chosen(rows: Sequence[Judged], weights: Mapping[str, float], parity: int) -> list[tuple[float, Judged]]:
    """For each question of one half its likeliest answer, with the likelihood."""
    best: dict[int, tuple[float, Judged]] = {}
    for row in rows:
        if row.question % 2 == parity:
            p = probability(weights, row)
            if row.question not in best or p > best[row.question][0]:
                best[row.question] = (p, row)
    return list(best.values())


def best_of(rows: Sequence[Judged], weights: Mapping[str, float], parity: int) -> list[tuple[float, bool]]:
    return [(p, row.is_right) for p, row in chosen(rows, weights, parity)]


def precise_from(rows: Sequence[tuple[float, bool]], precision: float) -> float:
    """The lowest threshold above which at least this share is right; just above 1 where there is none."""
    ordered = sorted(rows, key=lambda row: -row[0])
    right = np.cumsum([is_right for _, is_right in ordered]) / np.arange(1, len(ordered) + 1)
    good = np.flatnonzero(right >= precision)
    return round(float(ordered[int(good[-1])][0]) - 5e-4, 3) if len(good) else 1.001


def _share(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else 0.0


def fit(found: Collected, config: GritConfig) -> tuple[GritConfig, dict[str, Any]]:
    """The configuration with the confidence of every kind that was collected, and the report."""
    report: dict[str, Any] = {"f1": {way: 100 * float(np.mean(f1)) for way, f1 in found.f1.items() if f1}}
    confidence = dict(config.confidence)
    for kind in get_args(Kind):
        if found.answerable[kind]:
            confidence[kind], report[kind] = fit_kind(found, kind)
    return replace(config, confidence=confidence), report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, type=Path, help="folder of the checkpoint")
    parser.add_argument("--suite", required=True, type=Path, help="folder with the development files")
    parser.add_argument("--limit", type=int, default=60, help="questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=Path | None, help="folder with the files of pdf_questions.jsonl")
    parser.add_argument("--json", type=Path | None, help="where to write the report, with every answer's features")
    parser.add_argument("--dry_run", action="store_true", help="do not write into the checkpoint")
    options = parser.parse_args(arguments)
    model = GritLM.from_pretrained(options.model)
    found = collect(model, load_suite(options.suite), options.limit, options.seed)
    config, report = fit(found, model.config)
    if options.files is not None:
        model.config = config
        ways = by_way(model, options.files)
        strategy, mode = best_way(ways)
        config = replace(config, default_strategy=strategy, answer_mode=mode)
        report["files"] = {f"{strategy} {mode}": rates for (strategy, mode), rates in ways.items()}
    print(json.dumps(report, indent=1))
    if options.json:
        rows = {"answerable": found.answerable, "unanswerable": found.unanswerable}
        every = {
            name: {kind: [asdict(row) for row in of] for kind, of in kinds.items()} for name, kinds in rows.items()
        }
        written = {"report": report, "confidence": config.confidence, "f1": found.f1, **every}
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    if not options.dry_run:
        config.save(options.model)
    return 0


if __name__ == "__main__":
    main()
