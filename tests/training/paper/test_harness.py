"""Likelihoods through the harness equal plain forwards of the stock model; its local tasks run from YAML."""

from __future__ import annotations

import importlib.util
import json
import lzma
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lm_eval.tasks
import pytest
import torch

from grit_app.errors import InputError
from training.paper import harness
from training.paper.harness import PUBLISHED, TASKS, HarnessModel, run, run_published
from training.paper.local_tasks import NAMES, write_tasks

TEXT = "The Elbe rises in the Giant Mountains and reaches the North Sea."


def plain(model: Any, ids: list[int], first: int) -> tuple[float, bool]:
    with torch.no_grad():
        log_p = model.hf_model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    wanted = range(first, len(ids))
    greedy = all(int(log_p[i - 1].argmax()) == ids[i] for i in wanted)
    return float(sum(log_p[i - 1, ids[i]] for i in wanted)), greedy


def requests(*pairs: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_likelihoods_are_those_of_a_plain_forward(tiny_model: Any, chat: bool) -> None:
    harness = HarnessModel(tiny_model, chat)
    pairs = [("The Elbe ", "rises in"), ("What rises?", " The Elbe"), *([] if chat else [("", "The Elbe")])]
    for pair, (value, greedy) in zip(pairs, harness.loglikelihood(requests(*pairs)), strict=True):
        context, wanted = harness._pair(*pair)
        expected, is_greedy = plain(tiny_model, [*context, *wanted], len(context))
        assert value == pytest.approx(expected, abs=1e-3)
        assert greedy == is_greedy


def test_a_greedy_continuation_is_called_greedy(tiny_model: Any) -> None:
    harness = HarnessModel(tiny_model)
    context = harness._context_ids("The Elbe")
    stream = tiny_model.stream_ids(context)
    stream.read_all()
    assert harness._score(context, stream.token_ids[:3])[1]


def test_a_long_text_is_predicted_once_a_token(tiny_model: Any) -> None:
    """In windows of the context: with a short one the sum equals that of the windows scored by plain forwards."""
    short = HarnessModel(tiny_model)
    whole = short.loglikelihood_rolling(requests((TEXT,)))[0]
    ids = tiny_model.prompts.opening(TEXT)
    assert whole == pytest.approx(plain(tiny_model, ids, 1)[0], abs=1e-3)


def test_text_ends_before_a_stop_string(tiny_model: Any) -> None:
    harness = HarnessModel(tiny_model)
    free = harness.generate_until(requests(("The Elbe", {"max_gen_toks": 12})))[0]
    assert len(free) > 4
    stop = free[3:5]
    assert harness.generate_until(requests(("The Elbe", {"until": [stop], "max_gen_toks": 12}))) == [
        free.split(stop)[0]
    ]


def test_local_tasks_run_through_the_harness(tiny_model: Any, tmp_path: Path) -> None:
    def write(name: str, rows: list[dict[str, Any]]) -> None:
        path = tmp_path / "data" / f"{name}.jsonl.xz"
        path.parent.mkdir(parents=True, exist_ok=True)
        with lzma.open(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    question = {"question": "What rises?", "context": TEXT, "answers": [{"text": "The Elbe"}], "source": "new_wiki"}
    write("dev/squadshifts_dev", [question] * 3)
    write("dev/fairytaleqa_val", [{"context": TEXT}])
    words = [{"words": [f"w{i}"], "definition": f"meaning {i}", "topic": "t"} for i in range(2200)]
    write("train/dictionary_wordnet", words)
    folder = write_tasks(tmp_path / "data", tmp_path / "tasks", limit=3)
    scores = run(tiny_model, NAMES, chat=False, limit=None, folder=folder)
    assert set(scores) == set(NAMES)
    assert scores["prose"]["bits_per_byte,none"] > 0
    assert 0 <= scores["choice"]["acc,none"] <= 1 and 0 <= scores["reading"]["f1,none"] <= 1


PROBLEM = {
    "prompt": 'import math\n\n\ndef area(r):\n    """Of a circle."""\n',
    "test": "def check(candidate):\n    assert abs(candidate(1) - 3.14159) < 1e-3\n",
    "entry_point": "area",
    "canonical_solution": "    return math.pi * r * r\n",
}


def scores_of_tasks() -> Any:
    spec = importlib.util.spec_from_file_location("scores", TASKS / "scores.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_answers_to_humaneval_run_confined_and_count_by_their_tests(tmp_path: Path) -> None:
    """A body, a whole function, and a block in words pass; a wrong one and one that attacks do not."""
    target = tmp_path / "x"
    body = PROBLEM["canonical_solution"]
    answers = [
        body,
        "def area(r):\n    return math.pi * r ** 2",
        f"Here it is:\n```python\n{PROBLEM['prompt']}{body}```\nIt squares r.",
        "    return r\n",
        f"    open({str(target)!r}, 'w').write('x')\n    return 3.14159\n",
    ]
    assert scores_of_tasks().humaneval(PROBLEM, [answers]) == {"pass_at_1": 0.6}
    assert not target.exists()


def test_an_answer_may_use_what_stands_before_the_function_in_its_problem() -> None:
    """Some problems define a helper first; an answer with the function alone counts on it."""
    head = 'def double(x):\n    return 2 * x\n\n\ndef quadruple(x):\n    """Twice the double."""\n'
    problem = {
        "prompt": head,
        "test": "def check(candidate):\n    assert candidate(2) == 8\n",
        "entry_point": "quadruple",
    }
    answers = ["```python\ndef quadruple(x):\n    return double(double(x))\n```", "    return double(double(x))\n"]
    assert scores_of_tasks().humaneval(problem, answers) == {"pass_at_1": 1.0}


def test_tydi_is_asked_behind_one_example_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run_of(model: Any, names: Any, **options: Any) -> dict[str, Any]:
        seen.update(options)
        return {name: {"f1,none": 0.5, "f1_stderr,none": 0.1, "sample_len": 100} for name in names}

    monkeypatch.setattr(harness, "run", run_of)
    assert run_published(None, "TyDi QA", None)[0::2] == (0.5, 900)  # type: ignore[arg-type]
    assert (seen["shots"], seen["limit"], seen["chat"]) == (1, 100, True)


def test_humaneval_runs_through_the_harness_with_answers_that_differ(tiny_model: Any, tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text(json.dumps(PROBLEM) + "\n", encoding="utf-8")
    text = (TASKS / "humaneval.yaml").read_text(encoding="utf-8")
    local = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/problems.jsonl}}}}"
    text = text.replace("dataset_path: openai/openai_humaneval", local).replace("repeats: 20", "repeats: 3")
    text = text.replace("k: 20", "k: 3").replace("max_gen_toks: 1024", "max_gen_toks: 6")
    (tmp_path / "humaneval.yaml").write_text(text, encoding="utf-8")
    shutil.copy(TASKS / "scores.py", tmp_path)
    assert (
        run(tiny_model, ["humaneval_confined"], chat=True, limit=None, folder=tmp_path)["humaneval_confined"][
            "pass_at_1,none"
        ]
        == 0.0
    )
    setting = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    texts = HarnessModel(tiny_model, chat=True).generate_until(requests(*[("The Elbe", setting)] * 3))
    assert len(set(texts)) == 3


def test_published_tasks_are_the_harnesss_own() -> None:
    """Names are written in its files; asking it for a list takes many seconds."""
    folder = Path(lm_eval.tasks.__file__).parent
    for task in PUBLISHED.values():
        kind = task.names[0].split("_")[0]
        files = [*folder.glob(f"{kind}*/**/*.yaml"), *TASKS.glob("*.yaml")]
        names = {
            line.split(":")[1].strip()
            for path in files
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith(("task:", "group:"))
        }
        assert set(task.names) <= names


def test_without_the_hub_a_published_task_is_a_sentence(tiny_model: Any) -> None:
    with pytest.raises(InputError, match="HumanEval cannot be measured"):
        run_published(tiny_model, "HumanEval", 1)
