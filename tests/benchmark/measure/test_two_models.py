"""One model beside two copies of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grit_app.benchmark.__main__ import main
from grit_app.benchmark.measure.two_models import Load, summary


def test_two_copies_do_the_same_work_with_twice_the_weights(
    tiny_model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    flags = "--doc_tokens 50 --query_tokens 8 --repeats 2 --device cpu --threads 1"
    assert main(["two_models", "--model", str(tiny_model_folder("mistral")), *flags.split(), "--json", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    records = {record["strategy"]: record for record in result["records"]}
    assert set(records) == {"two_models", "rag_doc_query", "docs_cache", "docs_query_cache"}
    for key in ("computed_tokens", "cached_tokens", "flop_bound"):
        assert records["two_models"][key] == records["rag_doc_query"][key]
    assert records["docs_cache"]["cached_tokens"] > 0 == records["two_models"]["cached_tokens"]
    both, one = result["environment"]["two_models"]["two_models"], result["environment"]["two_models"]["unified"]
    assert (one["copies"], both["copies"]) == (1, 2)
    assert both["weight_bytes"] == 2 * one["weight_bytes"] > 0
    assert both["load_s"] > one["load_s"] > 0


def test_costs_add_up_over_the_copies(tiny_model: Any) -> None:
    told = summary([Load(tiny_model, 1500.0, 10), Load(tiny_model, 500.0, 20)])
    assert (told["unified"]["load_s"], told["two_models"]["load_s"]) == (1.5, 2.0)
    assert (told["unified"]["memory_bytes"], told["two_models"]["memory_bytes"]) == (10, 30)
