"""Two and four processes give the gradient, the losses and the weights of one, under DDP and FSDP2."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grit_app.gritlm import GritLM
from tests.training.helpers import (
    Workbench,
    chat_rows,
    contrastive_rows,
    lora,
    make_config,
    relative_error,
    write_rows,
)
from tests.training.step.test_distillation import taught_config
from tests.training.workers import gathered_gradient, train_some
from training.config import ConfigError, EvaluationConfig, GenerativeConfig, RagConfig, TrainConfig
from training.data.batches import StepLoader
from training.data.formats import open_datasets
from training.evaluation.held_out import measure_files
from training.run.checkpoint import load_training_state, load_weights
from training.run.setup import set_up
from training.run.update import optimizer_step

# Processes are forked from one that has done nothing but import: six of them import for seconds each.
multiprocessing.set_forkserver_preload(["tests.training.workers", "training.run.metrics", "training.run.setup"])


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def jobs_for(folder: Path, model: Callable[..., Path]) -> dict[str, TrainConfig]:
    """Unified steps with three passages a query, layouts, chunks of uneven number, every kind of wrapping."""
    tied = make_config(folder / "data", model("mistral"))
    tied = replace(tied, generative=GenerativeConfig(batch_size=8, chunk_tokens=64, loss="mixed", group_size=3))
    untied = replace(tied, model=replace(tied.model, path=str(model("llama"))))
    untied = replace(untied, generative=replace(untied.generative, loss="token"))
    files = [
        str(write_rows(folder / "dev.jsonl", contrastive_rows(6, 9))),
        str(write_rows(folder / "talk.jsonl", chat_rows(3, 9))),
    ]
    evaluated = EvaluationConfig(files=files)
    adapted = replace(untied, adapter=lora(dropout=0.0), rag=RagConfig(batch_size=8, layouts={"docs_cache": 1.0}))
    without_pairs = make_config(folder / "answers", model("llama"), streams="r")
    taught = taught_config(folder / "taught", model, cosine_weight=0.5)
    # Nobody uses the head in this mode: weight decay must leave it alone, as it does in one process.
    embedding = replace(untied, mode="embedding", optimizer=replace(untied.optimizer, weight_decay=0.5))
    checkpointed = replace(untied, model=replace(untied.model, gradient_checkpointing=True))
    return {
        "ddp": replace(tied, evaluation=evaluated),
        "ddp-lora": adapted,
        "ddp-embedding": embedding,
        "ddp-taught": replace(taught, run=replace(taught.run, rows="packed")),
        "fsdp-taught": taught,
        "fsdp-lora": adapted,
        "fsdp": checkpointed,
        "fsdp-tied": replace(tied, evaluation=evaluated),
        # No step has a block to pool from: the contrast of the answers is empty on every process.
        "fsdp-no-blocks": replace(without_pairs, rag=RagConfig(batch_size=8, layouts={"rag_doc_query": 1.0})),
    }


def one_process(config: TrainConfig) -> dict[str, Any]:
    bench = Workbench(config)
    gradients = bench.gradients()
    report = bench.report.values
    trainer = set_up(config, teacher_width=bench.width)
    loader = bench.loader
    losses = [optimizer_step(trainer, loader.load(step), 1e-3)[0].values for step in range(3)]
    weights = {n: p.detach().clone() for n, p in trainer.core.named_parameters() if p.requires_grad}
    measured = measure_files(
        GritLM(trainer.core.hf_model.eval(), trainer.tokenizer, trainer.grit), config.evaluation.files
    )
    return {"report": report, "gradients": gradients, "losses": losses, "weights": weights, "measured": measured}


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_give_the_gradient_of_one(
    world_size: int, tmp_path: Path, tiny_model_folder: Callable[..., Path]
) -> None:
    """Every process owns a slice of the queries; passages of the others must receive their share of the gradient.

    Also: evaluation gives the values of one process, with every buffer of the model that no state dict holds;
    λ means the same for any number of processes (each stream's loss and the whole gradient agree), weights stay
    equal on all processes, and a checkpoint of several is continued by one.
    """
    jobs = jobs_for(tmp_path, tiny_model_folder)
    if world_size == 4:
        jobs = {name: jobs[name] for name in ("ddp", "fsdp")}
    torch.multiprocessing.start_processes(
        train_some, (world_size, free_port(), list(jobs.items()), tmp_path), world_size, start_method="forkserver"
    )
    for name, config in jobs.items():
        found = torch.load(tmp_path / f"{name}.pt")
        expected = one_process(config)
        assert relative_error(found["gradients"], expected["gradients"]) < 1e-5, name
        assert found["report"] == pytest.approx(expected["report"], rel=1e-4, abs=1e-6), name
        for step in range(3):
            assert found["losses"][step] == pytest.approx(expected["losses"][step], rel=2e-3, abs=2e-4), (name, step)
        assert found["measured"] == pytest.approx(expected["measured"], rel=2e-3, abs=2e-4), name
        moved = max(float((expected["weights"][n] - w).abs().max()) for n, w in found["weights"].items())
        assert moved < 1e-3, name
        resumed = set_up(replace(config, output_dir=tmp_path / name), teacher_width=Workbench(config).width)
        load_weights(resumed, tmp_path / name / "checkpoint-000003")
        assert load_training_state(resumed, tmp_path / name / "checkpoint-000003", "data")[0] == 3
        for parameter_name, parameter in resumed.core.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(parameter.detach(), found["weights"][parameter_name])
        assert len(resumed.optimizer.state_dict()["state"]) > 0
    assert relative_error(torch.load(tmp_path / "gather.pt"), gathered_gradient()) < 1e-6


def test_batches_that_cannot_be_split_are_refused(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    config = make_config(tmp_path, tiny_model_folder("mistral"))
    bench = Workbench(config)
    with pytest.raises(ConfigError, match=r"cannot be split over 3 processes. Use a multiple of 3: 6 or 9"):
        StepLoader(config, open_datasets(config.data.train), bench.prompts, bench.grit, 0, 3)
