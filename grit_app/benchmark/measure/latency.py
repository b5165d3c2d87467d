"""Time to the first token, by strategy, length and state of the caches: `python -m grit_app.benchmark latency`.

    python -m grit_app.benchmark latency --shape mini-36m --doc_tokens 256,1024,4096 --json OUT

All strategies of one length take turns in one process, after warm-up, so that a slow minute of the machine hits all of
them. Documents have exactly the stated length (texts.py), nothing is cut, the floors come from rates measured in the
same run. The question of each repeat is a few tokens longer or shorter than the stated length, another one for each, so
that every forward has a length that it had not seen; the first run of a case is told apart as `first_use_ms`.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from grit_app.benchmark import environment
from grit_app.benchmark.inputs.texts import TextMaker
from grit_app.benchmark.measure.baseline import check_baseline
from grit_app.benchmark.measure.cases import STATES, TWO_MODELS, Case, Shelf, State, Workload
from grit_app.benchmark.measure.floors import ModelSize, Rates, floor_summary, measure_rates
from grit_app.benchmark.options import (
    load_model,
    model_folder,
    model_parser,
    names,
    numbers,
    parse,
    teller,
    write_result,
)
from grit_app.benchmark.timing import summarize
from grit_app.errors import Cancelled, InputError
from grit_app.gritlm import GritLM
from grit_app.gritlm.cache.pack import Scheme
from grit_app.rag.strategies import ALIASES, REFERENCE, STRATEGIES, build_layout, find_strategy

Record = dict[str, Any]
OnRecord = Callable[[Record], None]

LIBRARY_PASSAGES = 1000
"""Passages in the library that is searched: a book or two."""

BASELINE_TOKENS = 2048
"""Length at which full prefill is compared with plain transformers, unless shorter ones are measured."""

LENGTHS_APART = 5
"""Questions of the repeats have up to so many tokens more or less than the stated number."""

SLOW_RUN_S = 1.0
"""A run that takes longer is repeated less often."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure."""

    strategies: Sequence[str] = tuple(STRATEGIES)
    doc_tokens: Sequence[int] = (256, 1024, 4096)
    """Tokens of all documents of a question together."""

    query_tokens: Sequence[int] = (16,)
    docs: Sequence[int] = (1,)
    states: Sequence[State] = STATES
    new_tokens: int = 16
    """Length of the answers: what lies between the first token and `total_ms`."""

    repeats: int | None = None
    """Runs of each case; None: 20, or 5 where a run takes seconds."""

    seconds: float | None = None
    """Stop repeating when this time is over; every case still runs once. None: no limit."""

    scheme: Scheme = "native"
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.strategies) - {*STRATEGIES, *ALIASES, TWO_MODELS})
        if unknown:
            raise InputError(f"There is no strategy {unknown[0]!r}. Known: {', '.join(STRATEGIES)}, {TWO_MODELS}.")
        if strange := sorted(set(self.states) - set(STATES)):
            raise InputError(f"There is no cache state {strange[0]!r}. Known: {', '.join(STATES)}.")
        for name in ("doc_tokens", "query_tokens", "docs"):
            if min(getattr(self, name), default=0) < 1:
                raise InputError(f"{name} needs at least one number, each 1 or more.")
        if max(self.docs) > min(self.doc_tokens):
            raise InputError(f"{min(self.doc_tokens)} document tokens cannot be split into {max(self.docs)} documents.")
        if self.new_tokens < 1 or (self.repeats is not None and self.repeats < 1):
            raise InputError("new_tokens and repeats must be at least 1.")

    def repeats_of(self, one_run_s: float) -> int:
        return self.repeats or (5 if one_run_s > SLOW_RUN_S else 20)


def measure(
    model: GritLM,
    plan: Plan | None = None,
    *,
    retriever: GritLM | None = None,
    on_record: OnRecord | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, Any]:
    """`{environment, records}`: one record for each strategy, length and state.

    retriever   the second copy of the weights for the strategy `two_models`
    on_record   called with each record as soon as its group of strategies is done
    cancel      an event; once set, the records so far are returned, and the environment says `"cancelled": true`
    """
    plan = plan or Plan()
    if TWO_MODELS in plan.strategies and retriever is None:
        raise InputError("two_models needs the weights loaded a second time. Run `benchmark two_models`.")
    facts = environment.describe(model) | {"plan": asdict(plan), "cancelled": False, "left_out": []}
    records: list[Record] = []
    rates: list[Rates] = []
    try:
        for record in _records(model, plan, retriever, rates, facts["left_out"], cancel):
            records.append(record)
            if on_record is not None:
                on_record(record)
    except Cancelled:
        facts["cancelled"] = True
    if rates:
        facts["rates"] = {f.name: round(max(getattr(rate, f.name) for rate in rates)) for f in fields(Rates)}
    return {"environment": facts, "records": records}


def _records(
    model: GritLM,
    plan: Plan,
    retriever: GritLM | None,
    rates: list[Rates],
    left_out: list[str],
    cancel: threading.Event | None,
) -> Iterator[Record]:
    groups = [(d, t, q) for d in plan.docs for t in plan.doc_tokens for q in plan.query_tokens]
    maker = TextMaker(model.prompts, model.tokenizer.get_vocab(), plan.seed)
    deadline = None if plan.seconds is None else time.monotonic() + plan.seconds
    with (
        tempfile.TemporaryDirectory(prefix="grit-latency-") as folder,
        closing(Shelf(model, Path(folder), [maker.words(60) for _ in range(LIBRARY_PASSAGES)], plan.scheme)) as shelf,
    ):
        for number, (docs, doc_tokens, query_tokens) in enumerate(groups):
            if doc_tokens + query_tokens + plan.new_tokens + 128 > model.context:
                left_out.append(
                    f"{docs} documents of {doc_tokens} tokens together: beyond the context of {model.context}"
                )
                continue
            work = _workload(maker, docs, doc_tokens, query_tokens)
            cases = _cases(model, plan, work, shelf, retriever, cancel)
            if not rates or plan.seconds is None:  # with little time one reading has to do
                rates.append(measure_rates(model))
            share = None if deadline is None else (deadline - time.monotonic()) / (len(groups) - number)
            _take_turns(cases, plan, share, cancel)
            yield from [_record(case, docs, rates) for case in cases]
            shelf.clear()


def _workload(maker: TextMaker, docs: int, doc_tokens: int, query_tokens: int) -> Workload:
    lengths = [doc_tokens // docs + (index < doc_tokens % docs) for index in range(docs)]
    around = [query_tokens + sign * apart for apart in range(1, LENGTHS_APART + 1) for sign in (1, -1)]
    return Workload(
        maker.text(query_tokens),
        [maker.text(length) for length in lengths],
        query_tokens,
        doc_tokens,
        [maker.text(length) for length in around if length > 0],
    )


def _cases(
    model: GritLM,
    plan: Plan,
    work: Workload,
    shelf: Shelf,
    retriever: GritLM | None,
    cancel: threading.Event | None,
) -> list[Case]:
    """Every strategy, in each state if it reads stored caches; not those that read fewer documents than there are."""
    cases = []
    documents = shelf.put(work)
    for strategy in plan.strategies:
        if cancel is not None and cancel.is_set():  # caches of long documents are built here
            raise Cancelled("The measurement was stopped.")
        row = None if strategy == TWO_MODELS else find_strategy(strategy)
        if row is not None and row.most_documents is not None and row.most_documents < len(work.passages):
            continue
        second = retriever if strategy == TWO_MODELS else None
        first = Case(model, strategy, "none", work, shelf, documents, second, plan.new_tokens)
        states = plan.states if first.files else ("none",)
        cases += [Case(model, strategy, state, work, shelf, documents, second, plan.new_tokens) for state in states]
    return cases


def _take_turns(cases: Sequence[Case], plan: Plan, seconds: float | None, cancel: threading.Event | None) -> None:
    """Fills the samples of all cases in turns; one that needs half as many runs takes part in every other round.

    When `seconds` are over, only cases without a sample still run.
    """
    start = time.monotonic()
    targets = [plan.repeats_of(_warm_up(case, plan, cancel)) for case in cases]
    rounds = max(targets)
    for turn in range(rounds):
        for case, target in zip(cases, targets, strict=True):
            is_due = (
                turn * target // rounds != (turn - 1) * target // rounds
            )  # in `target` of the rounds, the first too
            is_over = seconds is not None and time.monotonic() - start > seconds
            if is_due and not (is_over and case.samples):
                case.samples.append(case.run(cancel, turn + 1))


def _warm_up(case: Case, plan: Plan, cancel: threading.Event | None) -> float:
    """Runs the case three times, or once if that takes seconds or time is short; gives the fastest run in seconds."""
    times: list[float] = []
    while not times or (len(times) < 3 and max(times) < SLOW_RUN_S and plan.seconds is None):
        start = time.monotonic()
        sample = case.run(cancel)
        case.first = case.first or sample
        times.append(time.monotonic() - start)
    return min(times)


def _record(case: Case, docs: int, rates: Sequence[Rates]) -> Record:
    size = ModelSize.of(case.model)
    work = case.workload
    full = build_layout(REFERENCE, case.model.prompts, case.model.config, work.question, work.passages)
    rows, cached = case.computed_tokens, case.cached_tokens
    assert case.first is not None, "a case is warmed up before it is measured"
    stages = {name: [sample.stages.get(name, 0.0) for sample in case.samples] for name in case.samples[0].stages}
    return {
        "strategy": case.strategy,
        "docs": docs,
        "doc_tokens": work.doc_tokens,
        "query_tokens": work.query_tokens,
        "state": case.state,
        "prefill_ttft_ms": summarize([sample.prefill_ttft for sample in case.samples]),
        "question_ttft_ms": summarize([sample.question_ttft for sample in case.samples]),
        "total_ms": summarize([sample.total for sample in case.samples]),
        "first_use_ms": summarize([case.first.question_ttft]),
        "stages_ms": {name: summarize(times) for name, times in stages.items()},
        "floor_ms": floor_summary(list(rates), size, rows, cached, case.stored_bytes, case.state),
        "flop_bound": round(size.flops(len(full.tail)) / size.flops(rows, cached), 3),
        "cached_tokens": cached,
        "computed_tokens": rows,
        "cache_bytes": case.stored_bytes,
        "new_tokens": case.samples[-1].new_tokens,
        "scheme": case.shelf.scheme if case.files else None,
        "beyond_trained_context": rows + cached > case.model.config.trained_context,
        "samples": {"prefill_ttft": [round(sample.prefill_ttft, 3) for sample in case.samples]},
    }


def main(argv: Sequence[str]) -> int:
    """The command. See `--help`."""
    parser = model_parser("latency", __doc__ or "")
    defaults = Plan()
    parser.add_argument("--strategies", type=names, default=list(defaults.strategies), help="Names, with commas.")
    parser.add_argument("--doc_tokens", type=numbers, default=[256, 1024, 2048, 4096, 8192], help="Over all documents.")
    parser.add_argument("--query_tokens", type=numbers, default=[16], help="Tokens of the question.")
    parser.add_argument("--docs", type=numbers, default=[1], help="Documents that share the tokens.")
    parser.add_argument("--states", type=names, default=list(STATES), help="Where caches are: hot, warm, cold.")
    parser.add_argument("--new_tokens", type=int, default=defaults.new_tokens, help="Length of the answer.")
    parser.add_argument("--repeats", type=int | None, default=None, help="Runs of each case; unset: 20, 5 if slow.")
    parser.add_argument("--seconds", type=float | None, default=None, help="Stop repeating after this time.")
    parser.add_argument("--scheme", type=Scheme, default="native", help="How caches are stored: native, int8 or int4.")
    options = parse(parser, argv)
    plan = Plan(**{field.name: getattr(options, field.name) for field in fields(Plan)})
    tell = teller()
    with model_folder(options) as folder:
        model = load_model(options, folder)
        baseline = check_baseline(model, min(max(plan.doc_tokens), BASELINE_TOKENS, model.context // 2))
        result = measure(model, plan, on_record=lambda record: tell(one_line(record)))
    result["environment"]["baseline"] = baseline
    write_result(result, options.json)
    return 0


def one_line(record: Record) -> str:
    """The record for a terminal."""
    return (
        f"{record['strategy']:<17}{record['state']:<5}{record['docs']:>3} docs {record['doc_tokens']:>6} +"
        f"{record['query_tokens']:>5} tokens   first token {record['prefill_ttft_ms']['median']:>9.1f} ms   "
        f"from the question {record['question_ttft_ms']['median']:>9.1f} ms  floor {record['floor_ms']['min']:>8.1f} ms"
    )
