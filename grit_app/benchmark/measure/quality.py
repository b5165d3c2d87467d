"""Answers of every strategy to the same questions over the same passages, against gold answers.

    python -m grit_app.benchmark quality --data FILE.jsonl[.xz] --limit N --seed S --passages gold|retrieved --k 1,2,4,8
                                         --strategies … --json OUT

`passages` gold: the right passage, and for k above 1 other passages of the file beside it (`distractors` says which).
`passages` retrieved: the k best of the file's passages. Greedy. In percent: match (a right answer stands in the given
one), F1 of words, its paired difference to full prefill with a bootstrap interval, and the share of the gap between no
passages and full prefill that a strategy closes. Exact strategies are proven equal in the tests instead.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from grit_app.benchmark import environment
from grit_app.benchmark.inputs.passages import PassagePool
from grit_app.benchmark.inputs.questions import Question, read_questions
from grit_app.benchmark.measure.drift import PASSAGES, next_token_drift
from grit_app.benchmark.measure.metrics import bootstrap_interval, exact_match, holds_answer, token_f1
from grit_app.benchmark.options import load_model, model_folder, model_parser, names, numbers, parse, write_result
from grit_app.documents.library import Hit
from grit_app.errors import InputError
from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.cache.pack import Scheme
from grit_app.gritlm.layout import Positions
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Done
from grit_app.rag.run import AnswerMode
from grit_app.rag.strategies import REFERENCE, STRATEGIES, find_strategy

Passages = Literal["gold", "retrieved"]
Distractors = Literal["near", "random"]
GoldPlace = Literal["first", "last", "random"]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is asked of every strategy."""

    passages: Passages = "gold"
    mode: AnswerMode = "free"
    positions: Positions = "consecutive"
    distractors: Distractors = "near"
    """With gold passages and k above 1: the nearest other passages, or random ones."""

    gold_place: GoldPlace = "first"
    """Where the right passage stands among them."""

    shuffles: int = 1
    """Orders of the retrieved passages that are averaged; 1: best first."""

    schemes: Sequence[Scheme] = ("native",)
    """How the passages' caches are kept, each in turn; strategies that cache none are asked under the first alone."""

    new_tokens: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Score:
    """One question's result, averaged over orders."""

    match: float
    exact: float
    f1: float


def measure(
    model: GritLM,
    questions: Sequence[Question],
    strategies: Sequence[str],
    ks: Sequence[int],
    setup: Setup,
    on_record: Callable[[dict[str, Any]], None] | None = None,
    other_passages: Sequence[str] = (),
) -> dict[str, Any]:
    """`{environment, records}`: a record for each strategy and k. The reference and `none` are measured in any case.

    other_passages   may be retrieved, or stand beside the right passage, besides the passages of the questions
    """
    if not questions:
        raise InputError("There is no question to ask. Raise --limit or give another file.")
    wanted = list(dict.fromkeys(["none", REFERENCE, *strategies]))
    for name in wanted:
        find_strategy(name)
    records = []
    contexts = [*(question.context for question in questions), *other_passages]
    without: list[Score] = []
    reference: dict[int, list[Score]] = {}
    for scheme in setup.schemes:
        stored = {"scheme": scheme, "bytes_per_token": measured_bytes(model, questions[0].context, scheme)}
        stored |= next_token_drift(model, [(q.context, q.question) for q in questions[:PASSAGES]], scheme)
        with PassagePool(model, contexts, scheme=scheme) as pool:
            if not reference:
                without = score_all(model, pool, questions, "none", 1, setup)
                reference = {k: score_all(model, pool, questions, REFERENCE, k, setup) for k in ks}
            for k in ks:
                known = {"none": without, REFERENCE: reference[k]}
                for name in wanted:
                    if scheme != setup.schemes[0] and not find_strategy(name).caches_documents:
                        continue
                    scores = known[name] if name in known else score_all(model, pool, questions, name, k, setup)
                    records.append(_record(stored, name, k, setup, scores, reference[k], without))
                    if on_record:
                        on_record(records[-1])
    return {"environment": environment.describe(model), "records": records}


def score_all(
    model: GritLM, pool: PassagePool, questions: Sequence[Question], strategy: str, k: int, setup: Setup
) -> list[Score]:
    """Each question's score, in order."""
    scores = []
    for number, question in enumerate(questions):
        orders = _orders(model, pool, question, number, k, setup) if find_strategy(strategy).retrieves else [[]]
        judged = [judge(ask(model, pool, question.question, strategy, hits, setup).text, question) for hits in orders]
        scores.append(
            Score(*(sum(getattr(one, name) for one in judged) / len(judged) for name in ("match", "exact", "f1")))
        )
    return scores


def ask(model: GritLM, pool: PassagePool, question: str, strategy: str, hits: Sequence[Hit], setup: Setup) -> Answer:
    """The app's answer from these passages."""
    events = answer(
        question,
        pool.library,
        model,
        strategy,
        mode=setup.mode,
        hits=hits,
        positions=setup.positions,
        sampling=Sampling(max_new_tokens=setup.new_tokens),
    )
    return next(event.answer for event in events if isinstance(event, Done))


def judge(text: str, question: Question) -> Score:
    return Score(
        float(holds_answer(text, question.answers)),
        float(exact_match(text, question.answers)),
        token_f1(text, question.answers),
    )


def _orders(model: GritLM, pool: PassagePool, question: Question, number: int, k: int, setup: Setup) -> list[list[Hit]]:
    """The passages of one question in each order to be asked; the same for every strategy."""
    generator = random.Random(f"{setup.seed} {number} {k}")
    if setup.passages == "retrieved":
        hits = search(model, pool, question.question, k)
        return [hits, *(generator.sample(hits, len(hits)) for _ in range(setup.shuffles - 1))]
    others = _distractors(model, pool, question, k - 1, generator, setup.distractors)
    places = {"first": 0, "last": len(others), "random": generator.randint(0, len(others))}
    at = places[setup.gold_place]
    first = [*others[:at], question.context, *others[at:]]
    orders = [first, *(generator.sample(first, len(first)) for _ in range(setup.shuffles - 1))]
    return [pool.hits(texts) for texts in orders]


def search(model: GritLM, pool: PassagePool, question: str, k: int) -> list[Hit]:
    """The k best passages of the pool, as the app finds them."""
    vector = model.encode([question], model.config.retrieval_instruction)[0]
    return pool.library.search(vector, question, k)


def _distractors(
    model: GritLM, pool: PassagePool, question: Question, count: int, generator: random.Random, kind: Distractors
) -> list[str]:
    """Passages that do not hold the answer."""
    if count < 1:
        return []
    if kind == "near":
        found = [pool.text_of(hit) for hit in search(model, pool, question.question, 4 * count + 8)]
    else:
        found = generator.sample(pool.texts, min(len(pool.texts), 4 * count + 8))
    wrong = [text for text in dict.fromkeys(found) if text != question.context]
    return [text for text in wrong if not holds_answer(text, question.answers)][:count]


def measured_bytes(model: GritLM, text: str, scheme: Scheme) -> float:
    """Bytes of keys and values of one token as they are kept, scales included."""
    (encoding,) = model.encode_iter([text], return_cache=True)
    assert encoding.cache is not None
    cache = encoding.cache.packed(scheme)
    return round(cache.nbytes / cache.length, 1)


def _record(
    stored: dict[str, Any],
    name: str,
    k: int,
    setup: Setup,
    scores: Sequence[Score],
    reference: Sequence[Score],
    without: Sequence[Score],
) -> dict[str, Any]:
    differences = [100 * (own.f1 - full.f1) for own, full in zip(scores, reference, strict=True)]
    gap = _mean(reference, "f1") - _mean(without, "f1")
    recovered = (_mean(scores, "f1") - _mean(without, "f1")) / gap if abs(gap) > 1e-9 else None
    return {
        "strategy": name,
        "passages": setup.passages if find_strategy(name).retrieves else "none",
        "k": k,
        "n": len(scores),
        "mode": setup.mode,
        "positions": setup.positions,
        "match": _mean(scores, "match"),
        "exact_match": _mean(scores, "exact"),
        "f1": _mean(scores, "f1"),
        "f1_minus_rag": sum(differences) / len(differences),
        "ci95": list(bootstrap_interval(differences, setup.seed)),
        "gap_recovered": None if recovered is None else 100 * recovered,
        **(stored if find_strategy(name).caches_documents else {"scheme": stored["scheme"], "bytes_per_token": 0}),
    }


def _mean(scores: Sequence[Score], name: str) -> float:
    """In percent."""
    return float(100 * sum(getattr(score, name) for score in scores) / len(scores))


def main(argv: Sequence[str]) -> int:
    """The command `quality`; gives the exit code."""
    parser = model_parser("quality", "Answers by strategy against gold answers.")
    parser.add_argument(
        "--data", type=Path, required=True, help="Rows of question, context, answers; .jsonl or .jsonl.xz."
    )
    parser.add_argument("--limit", type=int, default=100, help="Questions drawn from the file.")
    parser.add_argument("--passages", type=Passages, default="gold", help="The right passage, or those retrieved.")
    parser.add_argument("--k", type=numbers, default=[1], help="Numbers of passages, such as 1,2,4,8.")
    parser.add_argument("--strategies", type=names, default=list(STRATEGIES), help="Names, separated by commas.")
    parser.add_argument("--mode", type=AnswerMode, default="free", help="Written answers, or quoted ones.")
    parser.add_argument("--positions", type=Positions, default="consecutive", help="colliding: as published.")
    parser.add_argument("--schemes", type=names, default=["native"], help="How caches are kept: native,int8,int4.")
    parser.add_argument("--distractors", type=Distractors, default="near", help="near or random wrong passages.")
    parser.add_argument("--gold_place", type=GoldPlace, default="first", help="first, last or random.")
    parser.add_argument("--shuffles", type=int, default=1, help="Orders of the passages that are averaged.")
    parser.add_argument("--pool", type=int, default=500, help="Other passages of the file that may be found.")
    parser.add_argument("--new_tokens", type=int, default=32, help="Longest written answer.")
    options = parse(parser, argv)
    setup = Setup(**{knob.name: options[knob.name] for knob in fields(Setup)})
    unknown = set(options.schemes) - set(get_args(Scheme))
    if unknown or not options.schemes:
        raise InputError(f"--schemes takes {', '.join(get_args(Scheme))}, not {', '.join(unknown) or 'nothing'}.")
    if options.limit < 1 or min(options.k) < 1 or options.shuffles < 1:
        raise InputError("--limit, --k and --shuffles must be at least 1.")
    questions = read_questions(options.data, options.limit, options.seed)
    others = [question.context for question in read_questions(options.data, options.pool, options.seed + 1)]
    with model_folder(options) as folder:
        model = load_model(options, folder)
        result = measure(model, questions, options.strategies, options.k, setup, other_passages=others)
    write_result(result, options.json)
    return 0
