"""The run: resume is bit-exact, signals save, exports load, mistakes are sentences."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from grit_app.gritlm import GritLM
from tests.training.helpers import chat_rows, contrastive_rows, lora, make_config, rag_rows, write_rows
from training.config import (
    AdapterConfig,
    ConfigError,
    ContrastiveConfig,
    DataFile,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    TrainError,
)
from training.run import checkpoint
from training.run.checkpoint import CheckpointError, checkpoints, newest_checkpoint
from training.run.optimizer import rate_factor
from training.run.setup import build_module, check_pairs, make_accelerator, set_up
from training.run.update import NotFinite
from training.step.distributed import Ranks
from training.train import train

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def config(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> TrainConfig:
    made = make_config(tmp_path, tiny_model_folder("mistral"))
    return replace(made, run=replace(made.run, save_every=2, keep=3))


def silent(_: str) -> None:
    """Nobody listens."""


def optimizer_state(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "training_state.pt", weights_only=False)["optimizer"]["state"]
    return {f"{name}/{key}": value for name, entry in state.items() for key, value in entry.items()}


@pytest.mark.parametrize("method", ["full", "lora", "embedding"])
def test_resumed_run_equals_uninterrupted_one_bit_for_bit(
    config: TrainConfig, method: str, tiny_model_folder: Callable[..., Path]
) -> None:
    """Weights, optimizer and order: stopping after step 2 of 4 changes nothing; LoRA with dropout needs the RNG too.

    The head of an embedding run is never trained: its missing optimizer state once kept such runs from being resumed.
    """
    if method == "lora":
        config = replace(config, adapter=lora(dropout=0.2))
    if method == "embedding":
        untied = replace(config.model, path=str(tiny_model_folder("llama")))
        config = replace(config, mode="embedding", model=untied)
    train(config, silent)
    whole = config.output_dir / "checkpoint-000004"
    again = replace(config, output_dir=config.output_dir.with_name("again"), resume="auto")
    again.output_dir.mkdir()
    shutil.copytree(config.output_dir / "checkpoint-000002", again.output_dir / "checkpoint-000002")
    shutil.copytree(config.output_dir / "checkpoint-000002", again.output_dir / "tmp-checkpoint-000003")
    said: list[str] = []
    train(again, said.append)
    assert "resumed from step 2" in said
    name = "adapters.safetensors" if method == "lora" else "model.safetensors"
    start = load_file(config.output_dir / "checkpoint-000002" / name)
    expected, found = load_file(whole / name), load_file(again.output_dir / "checkpoint-000004" / name)
    assert expected.keys() == found.keys() and all(torch.equal(expected[n], found[n]) for n in expected)
    assert any(not torch.equal(expected[n], start[n]) for n in expected)
    states = optimizer_state(whole), optimizer_state(again.output_dir / "checkpoint-000004")
    assert states[0].keys() == states[1].keys() and states[0]
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_resume_from_weights_starts_a_new_schedule(config: TrainConfig) -> None:
    """A wsd run is prolonged from the weights alone, with other settings, in its own folder.

    Counting from 0 again, the new checkpoints were once the oldest in the folder: pruned as soon as they were saved.
    """
    train(config, silent)
    longer = replace(config, resume="weights", run=replace(config.run, steps=3, keep=1), optimizer=OptimizerConfig())
    said: list[str] = []
    train(longer, said.append)
    assert "started from the weights of checkpoint-000004" in said
    assert [p.name for p in checkpoints(config.output_dir)] == ["checkpoint-000003"]
    earlier = config.output_dir / "earlier-1"
    assert [p.name for p in checkpoints(earlier)] == ["checkpoint-000002", "checkpoint-000004"]
    steps = [json.loads(line)["step"] for line in (earlier / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    shutil.rmtree(config.output_dir / "checkpoint-000003")  # as if the new schedule had been killed before it saved
    train(longer, said.append)
    assert said.count("started from the weights of checkpoint-000004") == 2
    train(replace(longer, resume="auto"), said.append)
    assert said[-1] == "resumed from step 3"
    with pytest.raises(TrainError, match="no checkpoint whose weights"):
        train(replace(longer, output_dir=config.output_dir / "empty"), silent)


class TwoHosts(Ranks):
    """Two processes, of which the other has no checkpoint."""

    def sizes(self, n: int) -> list[int]:
        return [n, -1]


def test_hosts_that_see_different_checkpoints_are_stopped(tmp_path: Path) -> None:
    """Without shared storage only the first host finds what it wrote; the others would begin at step 0 and wait."""
    ranks = TwoHosts(0, 2, torch.device("cpu"))
    assert newest_checkpoint(tmp_path, ranks) is None
    (tmp_path / "checkpoint-000007").mkdir()
    with pytest.raises(CheckpointError, match=r"steps \[7, -1\].*all hosts share"):
        newest_checkpoint(tmp_path, ranks)


def test_a_training_state_with_code_in_it_is_not_run(config: TrainConfig, tmp_path: Path) -> None:
    """A run folder from somebody else is read as tensors and numbers alone."""
    train(config, silent)
    folder = checkpoints(config.output_dir)[-1]
    torch.save({"step": 1, "best": Path("x")}, folder / "training_state.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(replace(config, resume="auto"), silent)


def test_a_checkpoint_that_finds_no_room_is_a_sentence_and_leaves_the_one_before(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the sentence of all processes: alone, the others would wait for the first one."""
    real = checkpoint.write_weights

    def full_disk(trainer: Any, weights: Any, folder: Path) -> None:
        real(trainer, weights, folder)
        if "000004" in folder.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_weights", full_disk)
    with pytest.raises(CheckpointError, match=r"checkpoint-000004 could not be written .*No space left"):
        train(config, silent)
    assert [path.name for path in checkpoints(config.output_dir)] == ["checkpoint-000002"]
    assert not list(config.output_dir.glob("tmp-*"))


def test_resume_refuses_what_would_not_be_the_same_run(config: TrainConfig, tmp_path: Path) -> None:
    short = replace(config, run=replace(config.run, steps=2))
    train(short, silent)
    with pytest.raises(TrainError, match="earlier run"):
        train(short, silent)
    resumed = replace(short, resume="auto")
    other = replace(resumed, contrastive=replace(config.contrastive, temperature=0.2))
    with pytest.raises(CheckpointError, match=r"contrastive\.temperature"):
        train(other, silent)
    with pytest.raises(CheckpointError, match=r"run\.steps 2, not 4"):
        train(replace(resumed, run=config.run), silent)
    write_rows(tmp_path / "g.jsonl", chat_rows(41))
    with pytest.raises(CheckpointError, match="other data files"):
        train(resumed, silent)


def test_sigterm_saves_and_the_command_line_goes_on(config: TrainConfig, tmp_path: Path) -> None:
    """The real command, asked to stop in the middle, leaves a whole checkpoint from which --resume auto continues."""
    recipe = {
        "model": {"path": config.model.path},
        "data": {"train": [{"path": file.path} for file in config.data.train], "generative_max_length": 512},
        "run": {"steps": 100000, "precision": "fp32", "save_every": 100000},
        "contrastive": {"batch_size": 4},
        "generative": {"batch_size": 4},
        "rag": {"batch_size": 4},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    command = [sys.executable, "-m", "training.train", "--config", str(tmp_path / "recipe.yaml")]
    command += ["--output_dir", str(tmp_path / "killed"), "--optimizer.learning_rate", "0.001"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step") and " 3/100000" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and "go on with --resume auto" in rest
    (saved,) = checkpoints(tmp_path / "killed")
    step = int(saved.name.removeprefix("checkpoint-"))
    lines = [json.loads(line) for line in (tmp_path / "killed" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == step and lines[0]["lr"] == pytest.approx(0.001 / 3000)
    process = subprocess.Popen(
        [*command, "--resume", "auto"], cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    found = next(line for line in process.stdout if "resumed" in line)
    process.kill()
    process.communicate()
    assert found.strip() == f"resumed from step {step}"


def test_evaluation_goes_through_serving_and_keeps_the_best(config: TrainConfig, tmp_path: Path) -> None:
    """Before step 0 and every k steps; the best checkpoint by a named metric is kept though it is pruned elsewhere."""
    write_rows(tmp_path / "dev_pairs.jsonl", contrastive_rows(12, seed=9))
    write_rows(tmp_path / "dev_chats.jsonl", chat_rows(4, seed=9))
    write_rows(tmp_path / "dev_rag.jsonl", rag_rows(3, seed=9))
    sts = [
        {"sentence1": "a river", "sentence2": text, "score": s} for text, s in (("a river", 5), ("bees", 1), ("sea", 3))
    ]
    write_rows(tmp_path / "dev_sts.jsonl", sts)
    files = [str(tmp_path / f"dev_{name}.jsonl") for name in ("pairs", "chats", "rag", "sts")]
    settings = EvaluationConfig(files=files, every=1, best_metric="dev_chats/perplexity")
    config = replace(config, evaluation=settings, run=replace(config.run, keep=1), grit={"answer_prefix": ""})
    train(config, silent)
    lines = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    measured = {
        line["step"]: line["eval/dev_chats/perplexity"] for line in lines if "eval/dev_chats/perplexity" in line
    }
    assert sorted(measured) == [0, 1, 2, 3, 4]
    names = {"eval/dev_pairs/accuracy_at_1", "eval/dev_rag/f1", "eval/dev_sts/spearman"}
    assert any(names <= line.keys() for line in lines)
    best_step = min((step for step in measured if step), key=lambda step: measured[step])
    assert [p.name for p in checkpoints(config.output_dir)] == ["checkpoint-000004"]
    assert not (config.output_dir / "best" / "training_state.pt").exists()
    recorded = json.loads((config.output_dir / "best" / "recipe.json").read_text())
    assert recorded["config"]["evaluation"]["best_metric"] == "dev_chats/perplexity"
    best = GritLM.from_pretrained(config.output_dir / "best", dtype="float32")
    from training.evaluation.held_out import measure_files

    assert measure_files(best, [files[1]])["dev_chats/perplexity"] == pytest.approx(measured[best_step], rel=1e-4)


def test_best_metric_that_nobody_measures_is_refused_before_the_first_step(config: TrainConfig, tmp_path: Path) -> None:
    """A typing error would otherwise show after the run, when there is no `best`."""
    write_rows(tmp_path / "dev.jsonl", chat_rows(2, seed=9))
    settings = EvaluationConfig(files=[str(tmp_path / "dev.jsonl")], best_metric="dev/perplexty")
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"perplexty is not measured\. Use one of dev/perplexity"):
        train(replace(config, evaluation=settings), said.append)
    assert not any(line.startswith("step") for line in said)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorBoard's reader
def test_lines_files_and_tensorboard_hold_the_same_numbers(config: TrainConfig) -> None:
    """One aligned line a step for people; the same as JSON lines and as TensorBoard's scalars for machines."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said: list[str] = []
    train(config, said.append)
    lines = [line for line in said if line.startswith("step ")]
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    rows = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    board = EventAccumulator(str(config.output_dir / "tensorboard"))
    board.Reload()
    assert set(board.Tags()["scalars"]) == rows[0].keys() - {"step"}
    for name in ("loss", "loss_contrastive", "grad_norm", "lr", "tokens_per_s", "peak_memory_gib"):
        events = board.Scalars(name)
        assert [event.step for event in events] == [row["step"] for row in rows] == [1, 2, 3, 4]
        assert [event.value for event in events] == pytest.approx([row[name] for row in rows], rel=1e-6)
        assert all(row[name] > 0 for row in rows)
    assert [f"{row['loss']:7.4f}" in line for row, line in zip(rows, lines, strict=True)] == [True] * 4


def test_dry_run_measures_the_longest_rows_and_saves_nothing(config: TrainConfig, tmp_path: Path) -> None:
    """Whatever step they would come up in: the one long row of each file is in the batch that is tried."""
    long = " ".join(["river"] * 150)
    for name, row in [
        ("c", {"query": "bees", "pos": [long]}),
        ("g", {"text": ["hello", long]}),
        ("r", {"question": "where", "passages": [long], "gold": [0], "answer": "sea"}),
    ]:
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    config = replace(config, data=replace(config.data, passage_max_length=512))
    said: list[str] = []
    train(replace(config, dry_run=True), said.append)
    assert any("peak memory" in line for line in said) and not config.output_dir.exists()
    widths = {line.split()[2]: int(line.split("sequence of ")[1].split(",")[0]) for line in said if "sequence" in line}
    assert widths.keys() == {"contrastive,", "generative,", "rag,"} and min(widths.values()) > 150


def test_longest_batch_is_shared_out(config: TrainConfig) -> None:
    """Every process tries some of the longest rows, none of them the whole."""
    from tests.training.helpers import Workbench
    from training.data.batches import StepLoader
    from training.data.formats import open_datasets

    bench = Workbench(config)
    whole = bench.loader.longest()
    halves = [
        StepLoader(config, open_datasets(config.data.train), bench.prompts, bench.grit, rank, 2).longest()
        for rank in range(2)
    ]
    for stream, rows in whole.rows.items():
        assert len(rows) == 8 and sorted(halves[0].rows[stream] + halves[1].rows[stream]) == sorted(rows)
    assert bench.loader.load(0).tokens < whole.tokens


@pytest.mark.parametrize("what", ["stop", "skip"])
def test_losses_that_are_not_finite_stop_or_skip(config: TrainConfig, what: Any) -> None:
    """The sentence names the step and its samples; skipping leaves the weights as they were."""
    from training.data.batches import StepLoader
    from training.data.formats import open_datasets
    from training.run.update import optimizer_step

    trainer = set_up(replace(config, run=replace(config.run, non_finite=what)))
    loader = StepLoader(config, open_datasets(config.data.train), trainer.prompts, trainer.grit)
    with torch.no_grad():
        trainer.core.hf_model.get_input_embeddings().weight[:] = float("nan")
    before = [p.detach().clone() for p in trainer.core.parameters()]
    if what == "stop":
        with pytest.raises(NotFinite, match=r"Step 1: .*line \d+"):
            optimizer_step(trainer, loader.load(0), 1e-3)
    else:
        optimizer_step(trainer, loader.load(0), 1e-3)
    for old, new in zip(before, trainer.core.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(7), new.detach().nan_to_num(7))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
def test_learning_rate_schedules(schedule: Any) -> None:
    """Up over the warm-up, at the peak once, down to the floor at the end; wsd is flat in the middle."""
    config = OptimizerConfig(schedule=schedule, warmup_share=0.1, decay_share=0.3, final_share=0.1)
    rates = [rate_factor(step, 100, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) == pytest.approx(1.0)
    if schedule == "constant":
        assert rates[99] == 1.0
    else:
        assert 0.1 <= rates[99] < 0.14 and all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert (rates[50] == 1.0) == (schedule in ("wsd", "constant"))
    longer = [rate_factor(step, 200, replace(config, warmup_share=0.05)) for step in range(200)]
    assert (longer[:70] == rates[:70]) == (schedule in ("wsd", "constant")), "a prolonged run repeats its decay alone"


class FakeState:
    def __init__(self, fsdp_version: int) -> None:
        self.fsdp_plugin = SimpleNamespace(fsdp_version=fsdp_version)


def test_pairs_that_do_not_work_are_refused_with_a_sentence(config: TrainConfig, monkeypatch: Any) -> None:
    """Before a model is loaded, and with the way out."""

    def accelerator(kind: DistributedType, version: int = 2) -> Any:
        return SimpleNamespace(distributed_type=kind, state=FakeState(version))

    def module(**changes: Any) -> None:
        build_module(replace(config, **changes), Path(config.model.path), torch.device("cpu"))

    qlora = replace(config, adapter=AdapterConfig(method="qlora"))
    scratch, eager = replace(config.model, random_weights=True), replace(config.model, kernel="eager")
    packed = replace(config, model=eager, run=replace(config.run, rows="packed"))
    kept = replace(config, generative=replace(config.generative, base_kl_weight=0.1))
    measured = replace(config, adapter=lora(), evaluation=EvaluationConfig(files=["dev.jsonl"]))
    for make, sentence in [
        (lambda: check_pairs(qlora, accelerator(DistributedType.FSDP)), "qlora does not work with FSDP2.*Use DDP"),
        (lambda: check_pairs(config, accelerator(DistributedType.FSDP, 1)), "Only FSDP version 2"),
        (lambda: check_pairs(config, accelerator(DistributedType.DEEPSPEED)), "DEEPSPEED, which is not supported"),
        (lambda: module(model=scratch, adapter=lora()), "leaves nothing to adapt"),
        (lambda: check_pairs(packed, accelerator(DistributedType.NO)), "rows packed is made for model.kernel sdpa"),
        (lambda: check_pairs(kept, accelerator(DistributedType.FSDP)), "FSDP2 would not shard it"),
        (lambda: check_pairs(measured, accelerator(DistributedType.FSDP)), "sharded LoRA run is not possible"),
        (lambda: module(adapter=lora(targets=["nose_proj"])), "names nose_proj, which this model has not"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            make()
    check_pairs(config, accelerator(DistributedType.FSDP))
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        check_pairs(qlora, accelerator(DistributedType.NO))
    compiled = replace(config, run=replace(config.run, compile=True))
    on_gpu = SimpleNamespace(distributed_type=DistributedType.NO, device=torch.device("cuda"), state=FakeState(2))
    with pytest.raises(ConfigError, match=r"run\.compile is for CPUs"):
        check_pairs(compiled, cast(Any, on_gpu))
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", no_compiler)
    with pytest.raises(ConfigError, match="Install g"):
        set_up(compiled)


def no_compiler() -> str:
    raise RuntimeError("no C++ compiler")


def test_impossible_settings_are_sentences(config: TrainConfig, tmp_path: Path) -> None:
    for make, sentence in [
        (lambda: RunConfig(steps=0), "above 0"),
        (lambda: ContrastiveConfig(temperature=0), "temperature must lie"),
        (lambda: ModelConfig(path="x", attention="cb"), "attention must be one of"),
        (lambda: train(replace(config, grit={"colour": 1}), silent), "does not know"),
        (lambda: train(replace(config, contrastive=ContrastiveConfig(batch_size=400)), silent), "larger than an epoch"),
        (
            lambda: train(
                replace(
                    config,
                    data=replace(config.data, train=[DataFile(path=str(tmp_path / "g.jsonl"))]),
                    mode="embedding",
                ),
                silent,
            ),
            "no file of a kind",
        ),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            make()


@pytest.mark.parametrize("mode", ["embedding", "generative"])
def test_single_modes_train_what_they_say(config: TrainConfig, mode: Any) -> None:
    said: list[str] = []
    values = train(replace(config, mode=mode, run=replace(config.run, steps=1)), said.append)
    assert ("loss_contrastive" in values) == (mode == "embedding")
    assert ("loss_generative" in values) == ("loss_rag" in values) == (mode == "generative")
    assert "loss_rag_contrastive" not in values


@pytest.mark.quick
def test_runs_of_different_precision_follow_each_other_in_one_process(config: TrainConfig) -> None:
    """The library remembers the first one's, and would refuse the second."""
    for precision, expected in (("bf16", "bf16"), ("fp32", "no"), ("bf16", "bf16")):
        run = replace(config.run, precision=precision)
        assert make_accelerator(replace(config, run=run)).mixed_precision == expected
