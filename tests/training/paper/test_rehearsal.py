"""`python -m training.paper all` from first to last: a tiny random model, the real folders, made data."""

from __future__ import annotations

import importlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from grit_app.benchmark.measure import latency
from tests.training.corpus_files import paragraph, question_records, sentence, write_lines
from tests.training.helpers import chat_rows, contrastive_rows, rag_rows, write_rows
from training.paper import embedder, rag
from training.paper.__main__ import main
from training.paper.plan import ablations
from training.prefer import tune

COMMANDS = ("table1", "rerank", "fewshot", "rag", "kto", "ablations")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """dev/, published/ and train/ with every file that a command reads."""
    folder, rng = tmp_path / "data", random.Random(0)

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        write_lines(folder / f"{name}.jsonl.xz", rows)

    def pairs(count: int, **more: Any) -> list[dict[str, Any]]:
        return [
            {"sentence1": sentence(rng), "sentence2": sentence(rng), "score": rng.uniform(0, 5)} | more
            for _ in range(count)
        ]

    questions = question_records(rng, 12)
    write("dev/sts_b_dev", pairs(12))
    sources = ("squadshifts_new_wiki", "squadshifts_reddit")
    write("dev/squadshifts_dev", [row | {"source": sources[n % 2]} for n, row in enumerate(questions)])
    write("dev/nq_qed_dev", question_records(rng, 6))
    write("dev/fairytaleqa_val", [{"context": paragraph(rng)} for _ in range(24)])
    documents = [{"type": "doc", "id": number, "title": "", "text": paragraph(rng, 2)} for number in range(12)]
    queries = [{"type": "query", "id": n, "text": sentence(rng), "relevant": [n]} for n in range(6)]
    write("dev/cisi", [*documents, *queries])
    write("published/sts_b_test", pairs(12))
    write("published/sts12_16", [row for year in range(12, 17) for row in pairs(8, set=f"STS{year}")])
    write("published/banking77_test", [{"text": sentence(rng), "label": f"l{n % 2}"} for n in range(26)])
    write("train/dictionary_wordnet", [{"words": [f"w{i}"], "definition": f"m {i}", "topic": "t"} for i in range(2200)])
    labels = ("balance", "alarm")
    write("train/intents_clinc150", [{"text": sentence(rng), "label": labels[n % 2]} for n in range(90)])
    write("train/pairs_squad_train_questions", [{"query": sentence(rng), "positive": sentence(rng)}])
    write("train/qa_squadshifts", [row | {"source": "squadshifts_new_wiki"} for row in question_records(rng, 12)])
    for name in ("qa_fairytale", "qa_qamr", "qa_selqa"):
        write(f"train/{name}", [])
    write("train/wikipedia", [{"title": f"T{n}", "text": paragraph(rng)} for n in range(80)])
    return folder


@pytest.fixture
def recipe(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> Path:
    rows = {"near": contrastive_rows(24), "chats": chat_rows(16), "answers": rag_rows(16)}
    paths = [write_rows(tmp_path / f"{name}.jsonl", own) for name, own in rows.items()]
    body = {
        "model": {"path": str(tiny_model_folder())},
        "data": {"train": [{"path": str(path)} for path in paths]},
        "contrastive": {"batch_size": 8, "chunk_tokens": 1024},
        "generative": {"batch_size": 4}, "rag": {"batch_size": 4},
        "run": {"steps": 1, "precision": "fp32"},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # remarks of TRL and of what it imports
def test_all_is_recorded_told_and_not_made_twice(
    data: Path,
    recipe: Path,
    tmp_path: Path,
    tiny_model_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def in_this_process(module: str, *arguments: object) -> None:
        assert not importlib.import_module(module).main(list(map(str, arguments)))

    monkeypatch.setattr(ablations, "_call", in_this_process)
    monkeypatch.setattr(embedder, "parity", lambda _: (0.8203, 1379))  # its data are made here
    monkeypatch.setattr(rag, "LENGTHS", (40,))
    monkeypatch.setattr(rag, "REPEATS", 1)
    monkeypatch.setattr(latency, "LIBRARY_PASSAGES", 10)
    output = tmp_path / "recordings"
    arguments = [
        "all", f"--model={tiny_model_folder()}", f"--data={data}", "--limit=6", f"--output={output}",
        f"--recipe={recipe}", f"--work={tmp_path / 'work'}", "--pairs=6", "--steps=1", "--seeds=1",
        "--arms=loss by sample",
    ]  # fmt: skip
    assert main(arguments) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert all(f"{name}" in told for name in COMMANDS) and "all        about" in told
    made = {name: (output / f"{name}.json").read_text(encoding="utf-8") for name in COMMANDS}
    assert all(json.loads(text)["rows"] for text in made.values())
    assert "One seed tells nothing of the noise" in (output / "paper.md").read_text(encoding="utf-8")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was measured already")

    monkeypatch.setattr(ablations, "_call", never)
    monkeypatch.setattr(tune, "tune", never)
    assert main(arguments) == 0
    assert {
        name: (output / f"{name}.json").read_text(encoding="utf-8") for name in COMMANDS if name != "ablations"
    } == {name: text for name, text in made.items() if name != "ablations"}


def test_what_cannot_be_measured_is_named_at_the_end(
    data: Path, recipe: Path, tmp_path: Path, tiny_model_folder: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """No number is printed before the known model has its published score."""
    arguments = ["all", f"--model={tiny_model_folder()}", f"--data={data}", "--limit=6", f"--output={tmp_path}"]
    assert main([*arguments, f"--recipe={recipe}"]) == 2
    assert "not its published 0.8203" in capsys.readouterr().err
    assert not (tmp_path / "table1.json").exists()
