"""Likelihoods through the harness equal plain forwards of the stock model; its local tasks run from YAML."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.paper.harness import HarnessModel, run
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
