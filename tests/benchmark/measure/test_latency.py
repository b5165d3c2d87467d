"""The latency command: its contract, its clocks, its caches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from grit_app.benchmark.__main__ import main
from grit_app.benchmark.measure import cases, latency
from grit_app.benchmark.measure.cases import Case, Shelf, Workload
from grit_app.benchmark.measure.latency import Plan, measure
from grit_app.documents.library import Hit
from grit_app.errors import InputError
from grit_app.gritlm import GritLM, Sampling
from grit_app.rag.answering import answer
from grit_app.rag.events import Done
from grit_app.rag.strategies import STRATEGIES

SUMMARY_KEYS = {"median", "p10", "p90", "min", "n"}
CONTRACT = {
    "strategy", "docs", "doc_tokens", "query_tokens", "state", "prefill_ttft_ms", "question_ttft_ms", "total_ms",
    "stages_ms", "floor_ms", "flop_bound", "cached_tokens", "computed_tokens", "cache_bytes",
}  # fmt: skip

STORED = [name for name, row in STRATEGIES.items() if row.caches_documents]


def plan(**changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "doc_tokens": (60,),
        "query_tokens": (9,),
        "repeats": 2,
        "seconds": 60.0,
        "new_tokens": 3,
    }
    return Plan(**settings | changes)


@pytest.fixture(scope="module")
def command_result(tiny_model_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command writes for a tiny model, all strategies, one and two documents."""
    out = tmp_path_factory.mktemp("latency") / "folder" / "out.json"
    flags = "--doc_tokens 60,90 --query_tokens 9 --docs 1,2 --repeats 2 --seconds 600 --new_tokens 3 --threads 1"
    folder = tiny_model_folder("mistral")
    assert main(["latency", "--model", str(folder), "--device", "cpu", *flags.split(), "--json", str(out)]) == 0
    assert not list(out.parent.glob("*.part"))
    return dict(json.loads(out.read_text(encoding="utf-8")))


def test_the_command_measures_every_strategy_in_every_state(command_result: dict[str, Any]) -> None:
    found = {(r["strategy"], r["state"]) for r in command_result["records"] if r["docs"] == 1}
    expected = {(name, state) for name in STORED for state in ("hot", "warm", "cold")}
    assert found == expected | {(name, "none") for name in STRATEGIES if name not in STORED}
    assert {(r["docs"], r["doc_tokens"]) for r in command_result["records"]} == {(1, 60), (1, 90), (2, 60), (2, 90)}


def test_strategies_for_one_document_are_not_compared_over_two(command_result: dict[str, Any]) -> None:
    """They would read half of what the others read."""
    several = {record["strategy"] for record in command_result["records"] if record["docs"] == 2}
    assert "doc_cache" not in several and {"docs_cache", "rag_doc_query"} <= several


def test_records_keep_the_contract(command_result: dict[str, Any]) -> None:
    for record in command_result["records"]:
        assert set(record) >= CONTRACT
        for key, value in record.items():
            if key == "stages_ms":
                assert value and all(set(stage) == SUMMARY_KEYS for stage in value.values())
            elif key.endswith("_ms"):
                assert set(value) == SUMMARY_KEYS
        assert record["prefill_ttft_ms"]["n"] == 2
        assert 0 < record["prefill_ttft_ms"]["min"] <= record["question_ttft_ms"]["min"] <= record["total_ms"]["min"]
        assert record["floor_ms"]["min"] > 0


def test_the_environment_names_machine_software_and_baseline(command_result: dict[str, Any]) -> None:
    facts = command_result["environment"]
    assert facts["cores"] >= 1 and facts["threads"] == 1 and facts["packages"]["torch"] == torch.__version__
    assert (
        facts["hardware"]
        and facts["model"]["dtype"] in ("float32", "bfloat16")
        and facts["model"]["name"].startswith("mistral")
    )
    assert facts["plan"]["doc_tokens"] == [60, 90]
    assert facts["baseline"]["dtype"] in ("float32", "bfloat16") and facts["baseline"]["ours_over_transformers"] > 0
    assert facts["rates"]["flops_per_s"] > 0 and facts["rates"]["memory_bytes_per_s"] > 0


def test_counts_are_those_of_the_layouts(command_result: dict[str, Any]) -> None:
    """One document of 60 tokens, header `<s><|embed|>\\n`: counted here by hand, without layouts."""
    records = {
        (r["strategy"], r["state"]): r for r in command_result["records"] if (r["docs"], r["doc_tokens"]) == (1, 60)
    }
    full = records["rag_doc_query", "none"]
    cached = records["docs_cache", "warm"]
    joined = records["docs_query_cache", "warm"]
    assert full["cached_tokens"] == full["cache_bytes"] == 0
    header = cached["cached_tokens"] - 60
    assert 3 <= header <= 12  # <s> and the marker, in pieces of a tiny vocabulary
    # The question is computed in one, cached in the other; its own header is left out of the join.
    assert joined["cached_tokens"] - cached["cached_tokens"] == 9
    assert joined["computed_tokens"] < cached["computed_tokens"] < full["computed_tokens"] - 50
    bytes_a_number = {"float32": 4, "bfloat16": 2}[command_result["environment"]["model"]["dtype"]]
    kv_bytes_a_token = 2 * 2 * 2 * 8 * bytes_a_number  # keys and values, layers, heads, size
    assert cached["cache_bytes"] == pytest.approx(
        cached["cached_tokens"] * kv_bytes_a_token, rel=0.2
    )  # a header beside
    assert cached["flop_bound"] > 1.2 and full["flop_bound"] == 1.0
    assert joined["flop_bound"] > cached["flop_bound"]


def test_every_repeat_asks_a_question_of_another_length(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for full prefill; each strategy gets the same question in the same turn, and the first use is apart."""
    asked: dict[str, list[str]] = {}
    stock = cases.answer

    def noted(question: str, library: Any, model: Any, strategy: str, **others: Any) -> Any:
        asked.setdefault(strategy, []).append(question)
        return stock(question, library, model, strategy, **others)

    monkeypatch.setattr(cases, "answer", noted)
    names = ("rag_doc_query", "docs_query_cache")
    result = measure(tiny_model, plan(strategies=names, states=("hot",), repeats=6))
    assert asked["rag_doc_query"] == asked["docs_query_cache"]
    first, *others = (len(tiny_model.prompts.embed(question).sample) for question in asked["rag_doc_query"])
    assert first == 9 and len(set(others)) == 6 and first not in others
    assert sum(others) / 6 == pytest.approx(9, abs=1)
    for record in result["records"]:
        assert record["first_use_ms"]["n"] == 1 and record["prefill_ttft_ms"]["n"] == 6


def test_stages_are_those_that_a_strategy_has(command_result: dict[str, Any]) -> None:
    stages = {r["strategy"]: set(r["stages_ms"]) for r in command_result["records"]}
    assert stages["none"] == {"tokenise", "tail", "decode"}
    assert stages["rag_doc_query"] == {"tokenise", "embed", "search", "tail", "decode"}
    assert stages["docs_cache"] == stages["rag_doc_query"] | {"load", "join"}
    assert stages["query_cache"] == stages["docs_cache"]


def test_more_runs_for_quick_cases_unless_told() -> None:
    assert (Plan().repeats_of(0.1), Plan().repeats_of(3.0), Plan(repeats=7).repeats_of(3.0)) == (20, 5, 7)


def test_stop_comes_between_two_caches_that_are_built(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building all of them for a long document takes many seconds."""
    stop, built = threading.Event(), list[str]()

    def build(*arguments: Any) -> Case:
        built.append(arguments[1])
        stop.set()
        return Case(*arguments)

    monkeypatch.setattr(latency, "Case", build)
    wanted = plan(strategies=("rag_doc_query", "docs_cache"), states=("hot",), doc_tokens=(40,))
    result = measure(tiny_model, wanted, cancel=stop)
    assert result["environment"]["cancelled"] and not result["records"]
    assert set(built) == {"rag_doc_query"}


def test_records_come_one_by_one_and_cancelling_keeps_them(tiny_model: Any) -> None:
    """The app shows records as they come, and a visitor may leave at any time."""
    seen: list[dict[str, Any]] = []
    cancel = threading.Event()

    def take(record: dict[str, Any]) -> None:
        seen.append(record)
        if len(seen) == 2:
            cancel.set()

    wanted = plan(strategies=("rag_doc_query", "docs_cache"), states=("hot",), doc_tokens=(40, 50, 60))
    result = measure(tiny_model, wanted, on_record=take, cancel=cancel)
    assert result["environment"]["cancelled"] is True
    assert [record["doc_tokens"] for record in result["records"]] == [40, 40]
    assert result["records"] == seen


def test_a_budget_ends_repeating_but_measures_everything(tiny_model: Any) -> None:
    wanted = plan(strategies=("rag_doc_query", "docs_cache"), repeats=10**6, seconds=0.5, doc_tokens=(40, 60))
    result = measure(tiny_model, wanted)
    counts = [record["prefill_ttft_ms"]["n"] for record in result["records"]]
    assert len(counts) == 2 * 4 and min(counts) >= 1 and max(counts) < 10**4
    assert max(counts) - min(counts) <= max(counts)


def test_lengths_beyond_training_are_labelled_and_beyond_the_context_left_out(load_tiny: Any) -> None:
    """GritConfig says that 2,048 tokens were trained; the context here is 3,000."""
    model = load_tiny("mistral", max_position_embeddings=3000)
    wanted = plan(
        strategies=("rag_doc_query", "docs_cache"), states=("hot",), docs=(4,), doc_tokens=(64, 2600, 2990), repeats=1
    )
    result = measure(model, wanted)
    found = {(r["docs"], r["doc_tokens"], r["strategy"]): r["beyond_trained_context"] for r in result["records"]}
    assert found[4, 2600, "docs_cache"] and not found[4, 64, "docs_cache"]
    assert (4, 2990, "docs_cache") not in found
    assert len(result["environment"]["left_out"]) == 1 and "2990" in result["environment"]["left_out"][0]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strategies": ("rag", "none")}, "no strategy 'rag'"),
        ({"states": ("lukewarm",)}, "no cache state 'lukewarm'"),
        ({"doc_tokens": ()}, "doc_tokens needs at least one number"),
        ({"query_tokens": (0,)}, "query_tokens needs"),
        ({"docs": (100,)}, "60 document tokens cannot be split into 100"),
        ({"new_tokens": 0}, "at least 1"),
    ],
)
def test_plans_that_cannot_be_run_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        plan(**changes)


def test_two_models_need_the_second_one(tiny_model: Any) -> None:
    with pytest.raises(InputError, match="second time"):
        measure(tiny_model, plan(strategies=("two_models",)))


@pytest.mark.parametrize("scheme", ["native", "int8", "int4"])
def test_cached_answers_are_the_same_from_memory_page_cache_and_disk(
    tiny_model: Any, tmp_path: Path, scheme: Any
) -> None:
    """The states differ in where the bytes lie, and in nothing else."""
    question, passages = "who makes honey", ["Bees make honey from nectar.", "The river rises in the mountains."]
    work = Workload(question, passages, 3, 20)
    with closing(Shelf(tiny_model, tmp_path, passages[:1], scheme)) as shelf:
        documents = shelf.put(work)
        chunks = [shelf.library.chunks(document)[0] for document in documents]
        for strategy in STORED:
            found = {}
            for state, expected in (("hot", "hot"), ("warm", "warm"), ("cold", "warm")):
                case = Case(tiny_model, strategy, state, work, shelf, documents, new_tokens=2)  # type: ignore[arg-type]
                assert case.run().new_tokens <= 2 * len(case.layouts)
                case._set_state()
                kind = "causal" if strategy == "prefix_cache" else "bidirectional"
                ids = [
                    list(block.ids) for layout in case.layouts for block in layout.blocks if block.role == "document"
                ]
                read = [shelf.library.cache_for(chunk, kind, own) for chunk, own in zip(chunks, ids, strict=False)]
                assert [where for _, where in read] == [expected] * len(ids)
                found[state] = [cache for cache, _ in read]
            for state in ("warm", "cold"):
                for cache, other in zip(found["hot"], found[state], strict=True):
                    assert torch.equal(cache.keys, other.keys) and torch.equal(cache.values, other.values)


def test_strategies_share_the_blocks_that_they_have_in_common(tiny_model: Any, tmp_path: Path) -> None:
    """Made once, stored once: docs_cache and docs_query_cache read the same files, prefix_cache another."""
    work = Workload("who makes honey", ["Bees make honey from nectar.", "Wax is made by bees."], 3, 16)
    with closing(Shelf(tiny_model, tmp_path, ["a"])) as shelf:
        documents = shelf.put(work)
        files = {
            name: Case(tiny_model, name, "warm", work, shelf, documents).files
            for name in ("docs_cache", "docs_query_cache", "each_cache", "prefix_cache")
        }
        assert files["docs_cache"] == files["docs_query_cache"] == files["each_cache"]
        assert len(list(tmp_path.glob("documents/*/kv/*.safetensors"))) == 3
        shelf.clear()
        assert not list(tmp_path.glob("documents/*/kv/*.safetensors"))


def test_a_case_is_the_apps_own_answer(tiny_model: Any, tmp_path: Path) -> None:
    """The path is not imitated: same passages, tokens and caches as an answer over the same library."""
    work = Workload("who makes honey", ["Bees make honey from nectar.", "Wax is made by bees."], 3, 16)
    with closing(Shelf(tiny_model, tmp_path, ["a", "b"])) as shelf:
        documents = shelf.put(work)
        for name in STRATEGIES:
            if name in ("doc_cache", "none"):
                continue
            case = Case(tiny_model, name, "warm", work, shelf, documents, new_tokens=4)
            hits = [Hit(shelf.library.chunks(document)[0], 1.0, 1.0, 1.0, "both") for document in documents]
            events = answer(work.question, shelf.library, tiny_model, name, mode="free", hits=hits,
                            sampling=Sampling(max_new_tokens=4))  # fmt: skip
            done = next(event.answer for event in events if isinstance(event, Done))
            sample = case.run()
            assert sample.new_tokens == done.new_tokens
            assert (case.cached_tokens, case.computed_tokens) == (
                done.cached_tokens,
                done.prompt_tokens - done.cached_tokens,
            )
            if name != "each_cache":
                before = sum(ms for stage, ms in sample.stages.items() if stage != "decode")
                assert before <= sample.question_ttft + 0.1, "no stage is counted twice"


def test_texts_beyond_the_context_are_refused_not_cut(tiny_model: Any, tmp_path: Path) -> None:
    work = Workload("who", ["bees " * 2000], 1, 2000)
    with closing(Shelf(tiny_model, tmp_path, ["a"])) as shelf, pytest.raises(InputError, match="context"):
        Case(tiny_model, "docs_cache", "hot", work, shelf, shelf.put(work))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["speed"], "no command 'speed'"),
        ([], "usage"),
        (["latency", "--doc_tokens", "many"], "doc_tokens"),
        (["latency", "--colour", "red"], "colour"),
        (["latency", "--model", "a", "--shape", "mini-36m"], "not both"),
        (["latency", "--shape", "huge"], "no shape 'huge'"),
        (["latency", "--model", "no/such folder"], "no model folder"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err + captured.out
    assert "Traceback" not in captured.err


def test_a_shape_becomes_a_checkpoint_like_any_other(
    tiny_model_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the same loading as real weights; the same seed gives the same weights and so the same identity."""
    from grit_app.benchmark.inputs.shapes import SHAPES, write_checkpoint

    tiny = SHAPES["mini-36m"] | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 4}
    monkeypatch.setitem(SHAPES, "tiny", tiny)
    tokenizer = tiny_model_folder("mistral")
    folders = [
        write_checkpoint("tiny", tmp_path / name, tokenizer=tokenizer, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    models = [GritLM.from_pretrained(folder) for folder in folders]
    assert models[0].identity == models[1].identity != models[2].identity
    assert models[0].hf_model.config.num_key_value_heads == 2 and models[0].context == 65536
    assert len(models[0].encode(["some text"])[0]) == 32
