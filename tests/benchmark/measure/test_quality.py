"""The command `quality` and the metrics it reports."""

from __future__ import annotations

import json
import lzma
import random

import pytest

from grit_app.benchmark.inputs.passages import PassagePool
from grit_app.benchmark.inputs.questions import Question, read_questions
from grit_app.benchmark.measure import quality
from grit_app.benchmark.measure.metrics import bootstrap_interval, exact_match, holds_answer, normalise, token_f1
from grit_app.errors import InputError

FACTS = (("mill", "Anna Berg", "1875"), ("bridge", "Otto Lang", "1902"), ("school", "Mary Hill", "1931"),
         ("tower", "John Wood", "1850"), ("harbour", "Karl Stein", "1799"))  # fmt: skip


@pytest.fixture(scope="session")
def rows():
    return [
        {
            "question": f"Who built the {thing}?",
            "context": f"The {thing} stands by the river. It was built by {name} in {year}.",
            "answers": [{"text": name}] if index % 2 else [name],
        }
        for index, (thing, name, year) in enumerate(FACTS)
    ]


@pytest.fixture(scope="session")
def data(rows, tmp_path_factory):
    path = tmp_path_factory.mktemp("quality") / "questions.jsonl.xz"
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize(
    ("text", "answers", "f1", "exact", "holds"),
    [
        ("The Anna Berg!", ["anna berg"], 1.0, True, True),
        ("It was built by Anna Berg", ["Anna Berg"], 2 * 2 / (6 + 2), False, True),
        ("Berg", ["Anna Berg", "Otto"], 2 / 3, False, False),
        ("Otto", ["Anna Berg"], 0.0, False, False),
        ("", ["Anna Berg"], 0.0, False, False),
        ("a an the", ["x"], 0.0, False, False),
        ("1,257 rooms", ["1257"], 2 / 3, False, True),
    ],
)
def test_metrics_by_hand(text, answers, f1, exact, holds):
    assert token_f1(text, answers) == pytest.approx(f1)
    assert exact_match(text, answers) is exact
    assert holds_answer(text, answers) is holds


def test_normalised_text_is_squads():
    assert normalise("  The  Quick, a brown-fox; an END. ") == "quick brownfox end"


def test_repeated_words_count_once_each():
    assert token_f1("berg berg berg", ["Anna Berg"]) == pytest.approx(2 * 1 / (3 + 2))


def test_an_answer_of_punctuation_alone_is_found_nowhere():
    """An empty string stands in every text."""
    assert not holds_answer("anything", ["..."])


def test_bootstrap_interval_against_the_normal_approximation():
    generator = random.Random(0)
    values = [generator.gauss(3.0, 2.0) for _ in range(400)]
    mean = sum(values) / len(values)
    spread = (sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5 / len(values) ** 0.5
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(mean - 1.96 * spread, abs=0.05)
    assert high == pytest.approx(mean + 1.96 * spread, abs=0.05)
    assert bootstrap_interval([2.0] * 9) == (2.0, 2.0)


def test_sampling_depends_on_the_seed_alone(data):
    first, again, other = (read_questions(data, 3, seed) for seed in (1, 1, 2))
    assert first == again != other and len(first) == 3
    assert len(read_questions(data, 99)) == len(FACTS)


@pytest.mark.parametrize(
    ("line", "words"),
    [("{", "line 1: not valid JSON"), ("[]", "not a JSON object"), ('{"question": "a", "context": "b"}', "record 1")],
)
def test_bad_files_name_the_line(tmp_path, line, words):
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_questions(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_questions(tmp_path / "gone.jsonl")


def test_records_of_a_run_and_their_arithmetic(tiny_model, rows):
    """Most quotes of the right passage hold the answer, even a random model's; without passages none does."""
    questions = [Question(row["question"], row["context"], (FACTS[i][1],)) for i, row in enumerate(rows)]
    setup = quality.Setup(mode="quote", new_tokens=4)
    seen = []
    result = quality.measure(tiny_model, questions, ["docs_cache"], [1, 2], setup, on_record=seen.append)
    records = {(r["strategy"], r["k"]): r for r in result["records"]}
    assert seen == result["records"]
    assert set(records) == {(s, k) for s in ("none", "rag_doc_query", "docs_cache") for k in (1, 2)}
    assert result["environment"]["model"]["parameters"] > 0
    reference, cached, none = (records[s, 1] for s in ("rag_doc_query", "docs_cache", "none"))
    assert reference["match"] >= 60.0 and none["match"] == 0.0 and none["passages"] == "none"
    assert reference["f1_minus_rag"] == 0.0 and reference["gap_recovered"] == pytest.approx(100.0)
    assert cached["f1_minus_rag"] == pytest.approx(cached["f1"] - reference["f1"])
    assert cached["gap_recovered"] == pytest.approx(100 * (cached["f1"] - none["f1"]) / (reference["f1"] - none["f1"]))
    assert cached["ci95"][0] <= cached["f1_minus_rag"] <= cached["ci95"][1]
    assert cached["bytes_per_token"] == 2 * 2 * 2 * 8 * 4 and reference["bytes_per_token"] == 0


def test_schemes_are_compared_in_one_run(tiny_model, rows):
    """Each scheme asks what reads stored caches, over caches of its own; the rest is asked once."""
    questions = [Question(row["question"], row["context"], (FACTS[i][1],)) for i, row in enumerate(rows[:2])]
    setup = quality.Setup(mode="quote", new_tokens=4, schemes=("native", "int8", "int4"))
    records = quality.measure(tiny_model, questions, ["docs_cache", "query_cache"], [1], setup)["records"]
    asked = {"none": 1, "rag_doc_query": 1, "query_cache": 1, "docs_cache": 3}
    assert {name: sum(r["strategy"] == name for r in records) for name in asked} == asked
    sizes = {r["scheme"]: r["bytes_per_token"] for r in records if r["strategy"] == "docs_cache"}
    assert list(sizes) == ["native", "int8", "int4"] and sizes["native"] > sizes["int8"] > sizes["int4"] > 0
    drifts = [r["next_token_kl"] for r in records if r["strategy"] == "docs_cache"]
    assert drifts[0] == 0.0 < drifts[1] < drifts[2] < 1.0
    tops = [r["same_top_token"] for r in records if r["strategy"] == "docs_cache"]
    assert tops[0] == 100.0 >= tops[1] >= tops[2] > 50.0


def test_gold_place_shuffles_and_distractors(tiny_model, rows):
    """The same passages for every strategy, and wrong ones never hold the answer."""
    questions = [Question(row["question"], row["context"], (FACTS[i][1],)) for i, row in enumerate(rows)]
    with PassagePool(tiny_model, (q.context for q in questions)) as pool:

        def texts(**options):
            setup = quality.Setup(**options)
            orders = quality._orders(tiny_model, pool, questions[0], 0, 3, setup)
            return [[hit.chunk.text for hit in hits] for hits in orders]

        gold = questions[0].context
        assert texts()[0][0] == gold and texts(gold_place="last")[0][-1] == gold
        assert len(texts()[0]) == 3 == len(set(texts()[0]))
        shuffled = texts(shuffles=4)
        assert len(shuffled) == 4 and {frozenset(order) for order in shuffled} == {frozenset(shuffled[0])}
        assert texts(distractors="random") == texts(distractors="random")
        retrieved = texts(passages="retrieved", shuffles=2)
        assert len(retrieved) == 2 and len(retrieved[0]) == 3


def test_the_command_writes_json(tiny_model_folder, data, tmp_path):
    out = tmp_path / "quality.json"
    status = quality.main(
        ["--model", str(tiny_model_folder("mistral")), "--data", str(data), "--limit", "3", "--k", "1",
         "--device", "cpu", "--passages", "retrieved", "--strategies", "docs_cache", "--new_tokens", "4",
         "--json", str(out)]
    )  # fmt: skip
    records = json.loads(out.read_text(encoding="utf-8"))["records"]
    assert status == 0 and [r["strategy"] for r in records] == ["none", "rag_doc_query", "docs_cache"]
    assert {
        "strategy",
        "passages",
        "k",
        "n",
        "match",
        "f1",
        "f1_minus_rag",
        "ci95",
        "gap_recovered",
        "bytes_per_token",
    } <= set(records[0])
    assert all(record["n"] == 3 for record in records)


def test_bad_options_are_sentences(tiny_model, data, tiny_model_folder):
    with pytest.raises(InputError, match="must be at least 1"):
        quality.main(["--data", str(data), "--k", "0"])
    with pytest.raises(InputError, match="no strategy 'fast'"):
        quality.measure(tiny_model, read_questions(data, 1), ["fast"], [1], quality.Setup())
    with pytest.raises(InputError, match="no question"):
        quality.measure(tiny_model, [], ["none"], [1], quality.Setup())
