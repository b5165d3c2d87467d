"""What one of several processes does in the distributed tests. Imported by spawned processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn


def start(rank: int, world_size: int, port: int) -> None:
    """Environment of a launched process, one thread each."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    torch.set_num_threads(1)


def sharding_accelerator(config: Any) -> Any:
    """An accelerator that takes its FSDP2 path on the CPU, which it would not choose by itself there."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    from training.run.setup import make_accelerator

    accelerator = make_accelerator(config)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
        state_dict_type="SHARDED_STATE_DICT",
    )
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be sharded."""
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().clone()


def gathered_gradient(seed: int = 0) -> dict[str, torch.Tensor]:
    """Gradient of InfoNCE over three passages a query (fewer for some), each process holding its queries; float64."""
    from training.step.distributed import Ranks, average_gradients
    from training.step.losses import PassagePool, QueryBlock, info_nce

    ranks = Ranks.here(torch.device("cpu"))
    problem = contrastive_problem(seed)
    mine = range(ranks.rank * 8 // ranks.size, (ranks.rank + 1) * 8 // ranks.size)
    rows = [row for row, owner in enumerate(problem["owners"].tolist()) if owner in mine]
    encoder = nn.Linear(6, 4, bias=False).double()
    encoder.weight.data.copy_(problem["weight"])
    queries = nn.functional.normalize(encoder(problem["queries"][list(mine)]), dim=1)
    passages = nn.functional.normalize(encoder(problem["passages"][rows]), dim=1)
    everybody = ranks.gather_with_grad(passages)
    owners, numbers = problem["owners"], torch.tensor(list(mine))
    targets = torch.tensor([int((owners == q).nonzero()[0]) for q in mine])
    block = QueryBlock(
        queries, targets, torch.full((len(mine), 1), -1), numbers, torch.zeros(len(mine), dtype=torch.bool)
    )
    loss = info_nce(block, PassagePool(everybody, torch.arange(len(owners)), owners), temperature=0.1).loss_sum
    (loss * ranks.size / 8).backward()
    average_gradients(encoder.parameters(), ranks)
    return {"weight": encoder.weight.grad}


def contrastive_problem(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    owners = torch.tensor([q for q in range(8) for _ in range(3 if q != 5 else 1)])
    return {
        "weight": torch.randn(4, 6, generator=generator).double(),
        "queries": torch.randn(8, 6, generator=generator).double(),
        "passages": torch.randn(len(owners), 6, generator=generator).double(),
        "owners": owners,
    }


def evaluated(trainer: Any) -> dict[str, float]:
    """The evaluation as a run makes it; everybody gets its values, and everybody stops if the first one fails."""
    from training.config import TrainError
    from training.run.metrics import Evaluator, RunLog

    if not trainer.config.evaluation.files:
        return {}
    with RunLog(trainer.config, trainer.ranks.is_main, 0, lambda line: None) as log:
        values = Evaluator(trainer).run(3, log)
        missing = replace(trainer.config.evaluation, files=[str(trainer.config.output_dir / "none.jsonl")])
        trainer.config = replace(trainer.config, evaluation=missing)
        try:
            Evaluator(trainer).run(3, log)
        except TrainError as error:
            assert "none.jsonl" in str(error)
        else:
            raise AssertionError("a file that is not there was measured")
        refuses_without_a_copy(trainer, log)
    return values


def refuses_without_a_copy(trainer: Any, log: Any) -> None:
    """The first process has no room for the whole model: everybody stops with its sentence, and nobody waits."""
    from unittest.mock import patch

    from training.config import TrainError
    from training.run import metrics

    def no_room(trainer: Any) -> None:
        whole_model(trainer)
        if trainer.ranks.is_main:
            raise MemoryError("no room")

    whole_model = metrics.whole_model
    with patch.object(metrics, "whole_model", no_room):
        try:
            metrics.Evaluator(trainer).run(3, log)
        except TrainError as error:
            assert "MemoryError: no room" in str(error)
        else:
            raise AssertionError("a model that could not be built was measured")


def refuses_foreign_weights(trainer: Any, folder: Path) -> None:
    """Adapters with other names must not be taken for a start."""
    from safetensors.torch import save_file

    from training.run.checkpoint import CheckpointError, load_weights

    folder.mkdir(exist_ok=True)
    save_file({"language_model.other.lora_A.weight": torch.zeros(2, 2)}, folder / f"{trainer.ranks.rank}.safetensors")
    (folder / f"{trainer.ranks.rank}.safetensors").replace(folder / "adapters.safetensors")
    trainer.ranks.barrier()
    try:
        load_weights(trainer, folder)
    except CheckpointError as error:
        assert "1 are unknown" in str(error)
        return
    raise AssertionError("foreign weights were taken")


def train_some(rank: int, world_size: int, port: int, jobs: list[tuple[str, Any]], folder: Path) -> None:
    """For each job (name, settings): the gradient of step 0, then three updates; the first process writes its findings.

    A name with `fsdp` shards. Everybody asserts that its weights equal the first process's.
    """
    start(rank, world_size, port)
    from accelerate.state import AcceleratorState

    from training.data.batches import StepLoader
    from training.data.formats import open_datasets
    from training.data.teachers import open_teachers
    from training.run.checkpoint import save_checkpoint
    from training.run.setup import make_accelerator, set_up
    from training.run.update import optimizer_step
    from training.step.distributed import Ranks

    for name, config in jobs:
        accelerator = sharding_accelerator(config) if "fsdp" in name else make_accelerator(config)
        datasets = open_datasets(config.data.train)
        teachers = open_teachers(config, datasets, Ranks.here(accelerator.device), lambda line: None)
        width = teachers.width if teachers else 0
        trainer = set_up(replace(config, output_dir=folder / name), accelerator, width)
        assert trainer.is_sharded == ("fsdp" in name) and trainer.ranks.size == world_size
        loader = StepLoader(
            config,
            datasets,
            trainer.prompts,
            trainer.grit,
            rank,
            world_size,
            forwards=trainer.forwards,
            teachers=teachers,
        )
        torch.manual_seed(rank)
        report = trainer.stepper.gradients(loader.load(0))
        gradients = {n: full(p.grad) for n, p in trainer.core.named_parameters() if p.grad is not None}
        losses = []
        for step in range(3):
            losses.append(optimizer_step(trainer, loader.load(step), 1e-3)[0].values)
        weights = {n: full(p) for n, p in trainer.core.named_parameters() if p.requires_grad}
        for value in weights.values():
            first = value.clone()
            torch.distributed.broadcast(first, 0)
            assert torch.equal(first, value), "processes drifted apart"
        save_checkpoint(trainer, 3, None, "data", is_best=False)
        measured = evaluated(trainer)
        if config.adapter.method == "lora":
            refuses_foreign_weights(trainer, folder / f"foreign-{name}")
        if rank == 0:
            result = {"report": report.values, "gradients": gradients, "losses": losses, "weights": weights}
            result["measured"] = measured
            torch.save(result, folder / f"{name}.pt")
        loader.close()
        AcceleratorState._reset_state(reset_partial_state=False)
    found = gathered_gradient()
    if rank == 0:
        torch.save(found, folder / "gather.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
