"""Answers through the app's path: with the right passage, with retrieved ones, refusals, and by strategy."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from grit_app.benchmark.inputs.passages import PassagePool
from grit_app.benchmark.inputs.questions import Question
from grit_app.benchmark.measure import quality
from grit_app.benchmark.measure.metrics import exact_match, holds_answer, token_f1
from grit_app.documents.library import Hit
from grit_app.gritlm import GritLM, Sampling
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Done
from grit_app.rag.run import AnswerMode
from grit_app.rag.strategies import REFERENCE, STRATEGIES
from training.evaluation.baselines import overlap_sentence
from training.evaluation.ranking import items_by_group
from training.evaluation.suite import Item, Suite

MODES: tuple[AnswerMode, ...] = ("quote", "short", "free")
STRATEGY_MODES: tuple[AnswerMode, ...] = ("short", "free")
"""A quote and its short answer are the same choice; F1 tells more of the latter."""

CACHE_STRATEGIES = (REFERENCE, "docs_cache", "docs_query_cache")

RETRIEVED = 5
NEW_TOKENS = 32


def answers(model: GritLM, pool: PassagePool, items: Sequence[Item]) -> dict[str, dict[str, dict[str, float]]]:
    """{"gold" | "retrieved": {mode: {exact_match, f1, contains}}}, in percent, beside the best-overlap sentence."""
    given = {item: pool.hits([item.context]) for item in items}
    found = {item: quality.search(model, pool, item.question, RETRIEVED) for item in items}
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name, passages in (("gold", given), ("retrieved", found)):
        result[name] = {
            mode: _judged((_ask(model, pool, item, mode, passages[item]), item) for item in items) for mode in MODES
        }
        result[name]["overlap_sentence"] = _judged(
            (overlap_sentence(item.question, passages[item][0].chunk.text if passages[item] else ""), item)
            for item in items
        )
    return result


def by_set(model: GritLM, pool: PassagePool, suite: Suite, limit: int | None, seed: int) -> dict[str, Any]:
    """`answers` for each set and over all; the sets weigh by their numbers of questions drawn."""
    share = None if limit is None else max(1, limit // 3)
    results = {name: answers(model, pool, suite.draw((name,), share, seed)) for name in ("wiki", "users", "nq")}
    counts = {name: len(suite.draw((name,), share, seed)) for name in results}
    total = sum(counts.values())
    overall: dict[str, dict[str, dict[str, float]]] = {}
    for passages, modes in results["wiki"].items():
        overall[passages] = {
            mode: {
                metric: sum(counts[name] * results[name][passages][mode][metric] for name in results) / total
                for metric in metrics
            }
            for mode, metrics in modes.items()
        }
    return {"all": overall, **results, "n": counts}


def refusals(model: GritLM, pool: PassagePool, items: Sequence[Item], suite: Suite, seed: int) -> dict[str, float]:
    """Shares of questions that the app's default settings refuse.

    answerable     asked of all passages; the right passage given
    unanswerable   asked of all passages but those of the question's article; another article's passage given
    """
    groups = items_by_group(suite.items)
    everything = {text: pool.document_id(text) for text in pool.texts}
    generator = random.Random(seed)
    refused: dict[str, list[bool]] = {"all": [], "right": [], "without_own": [], "other": []}
    for item in items:
        own = groups[item.group] | {item.context}
        elsewhere = [document for text, document in everything.items() if text not in own]
        documents = {
            "all": None,
            "right": [everything[item.context]],
            "without_own": elsewhere,
            "other": [generator.choice(elsewhere)],
        }
        for name, chosen in documents.items():
            refused[name].append(not _default(model, pool, item.question, chosen).answerable)
    rates = {name: float(np.mean(values)) for name, values in refused.items()}
    return {
        "unanswerable_refused": (rates["without_own"] + rates["other"]) / 2,
        "answerable_not_refused": 1 - (rates["all"] + rates["right"]) / 2,
        "retrieved_without_own_refused": rates["without_own"],
        "other_passage_refused": rates["other"],
        "retrieved_not_refused": 1 - rates["all"],
        "right_passage_not_refused": 1 - rates["right"],
        "threshold": model.config.answerable_threshold,
    }


def strategies(model: GritLM, items: Sequence[Item], others: Sequence[str], seed: int) -> dict[str, Any]:
    """Every strategy over the five retrieved passages, in two modes: contains, F1, and F1 minus full prefill's."""
    questions = [Question(item.question, item.context, item.answers) for item in items]
    found: dict[str, Any] = {}
    for mode in STRATEGY_MODES:
        setup = quality.Setup(passages="retrieved", mode=mode, new_tokens=NEW_TOKENS, seed=seed)
        records = quality.measure(model, questions, list(STRATEGIES), [RETRIEVED], setup, other_passages=others)[
            "records"
        ]
        found[mode] = {
            record["strategy"]: {
                "contains": record["match"],
                "f1": record["f1"],
                "f1_minus_rag": record["f1_minus_rag"],
                "ci95_low": record["ci95"][0],
                "ci95_high": record["ci95"][1],
            }
            for record in records
        }
    return found


def caches(model: GritLM, items: Sequence[Item], seed: int) -> dict[str, Any]:
    """F1 of free answers over the right passage by strategy: what a joined cache costs there."""
    questions = [Question(item.question, item.context, item.answers) for item in items]
    setup = quality.Setup(new_tokens=NEW_TOKENS, seed=seed)
    records = quality.measure(model, questions, CACHE_STRATEGIES, [1], setup)["records"]
    return {record["strategy"]: {"f1": record["f1"]} for record in records}


def _ask(model: GritLM, pool: PassagePool, item: Item, mode: AnswerMode, hits: Sequence[Hit]) -> str:
    if not hits:
        return ""
    setup = quality.Setup(mode=mode, new_tokens=NEW_TOKENS)
    return quality.ask(model, pool, item.question, model.config.default_strategy, hits, setup).text


def _default(model: GritLM, pool: PassagePool, question: str, documents: Sequence[str] | None) -> Answer:
    sampling = Sampling(max_new_tokens=NEW_TOKENS)
    events = answer(question, pool.library, model, documents=documents, sampling=sampling)
    return next(event.answer for event in events if isinstance(event, Done))


def _judged(pairs: Iterable[tuple[str, Item]]) -> dict[str, float]:
    rows = [
        (exact_match(text, item.answers), token_f1(text, item.answers), holds_answer(text, item.answers))
        for text, item in pairs
    ]
    exact, f1, contains = (100 * float(np.mean(column)) for column in zip(*rows, strict=True))
    return {"exact_match": exact, "f1": f1, "contains": contains}
