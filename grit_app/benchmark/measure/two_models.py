"""The set-up that one unified model replaces: the same weights loaded twice, one copy to retrieve, one to generate.

    python -m grit_app.benchmark two_models --model assets/gritlm-135m --json OUT

Memory and load time of each copy are measured as it is loaded, the first token's time in turns with the unified model.
`two_models` answers by full prefill: what the other copy computed while embedding is not its own to reuse.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from grit_app.benchmark.measure.cases import TWO_MODELS
from grit_app.benchmark.measure.latency import Plan, measure, one_line
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
from grit_app.gritlm import GritLM, Sampling
from grit_app.rag.strategies import REFERENCE


@dataclass(frozen=True)
class Load:
    """What loading one copy took."""

    model: GritLM
    load_ms: float
    memory_bytes: int
    """Resident memory that loading and a first run added; on a GPU, its memory."""


def load_copy(options: Any, folder: str) -> Load:
    """Loads the weights and runs them once, so that memory-mapped files are really read."""
    gc.collect()
    before = held_bytes(options.device)
    start = time.perf_counter()
    model = load_model(options, folder)
    model.encode(["warm"])
    model.stream_ids(model.prompts.opening("warm"), sampling=Sampling(max_new_tokens=1)).read_all()
    load_ms = (time.perf_counter() - start) * 1e3
    gc.collect()
    return Load(model, load_ms, held_bytes(options.device) - before)


def held_bytes(device: str) -> int:
    """Memory that this process holds: of the GPU where that is used, else of the machine.

    Resident, not unique: the second copy here maps the file of the first, whose pages then are nobody's alone. The two
    models of a real set-up are two files.
    """
    if device != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    return int(psutil.Process().memory_info().rss)


def summary(loads: Sequence[Load]) -> dict[str, Any]:
    """Memory and load time with one copy and with both."""
    one, both = loads[:1], loads[:2]
    return {
        name: {
            "copies": len(copies),
            "memory_bytes": sum(load.memory_bytes for load in copies),
            "weight_bytes": sum(int(load.model.describe()["memory_bytes"]) for load in copies),
            "load_s": round(sum(load.load_ms for load in copies) / 1e3, 3),
        }
        for name, copies in (("unified", one), (TWO_MODELS, both))
    }


def main(argv: Sequence[str]) -> int:
    """The command. See `--help`."""
    parser = model_parser("two_models", __doc__ or "")
    parser.add_argument(
        "--strategies", type=names, default=[REFERENCE, "docs_cache", "docs_query_cache"], help="Of the unified model."
    )
    parser.add_argument("--doc_tokens", type=numbers, default=[256, 1024, 4096], help="Over all documents.")
    parser.add_argument("--query_tokens", type=numbers, default=[16], help="Tokens of the question.")
    parser.add_argument("--repeats", type=int | None, default=None, help="Runs of each case; unset: 20, 5 if slow.")
    options = parse(parser, argv)
    plan = Plan(
        strategies=[TWO_MODELS, *options.strategies],
        doc_tokens=options.doc_tokens,
        query_tokens=options.query_tokens,
        states=("warm",),
        repeats=options.repeats,
        seed=options.seed,
    )
    tell = teller()
    with model_folder(options) as folder:
        unified = load_copy(options, folder)
        second = load_copy(options, folder)
        result = measure(unified.model, plan, retriever=second.model, on_record=lambda record: tell(one_line(record)))
        result["environment"][TWO_MODELS] = summary([unified, second])
    write_result(result, options.json)
    return 0
