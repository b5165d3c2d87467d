"""How much memory a recipe takes: an estimate from its numbers, and a dry run that measures it.

    python -m training.run.estimate training/recipes/gritlm-7b.yaml --processes 8 --sharded
    python -m training.train --config training/recipes/gritlm-7b.yaml --dry_run true      # measures

Bytes: a fully trained parameter takes 16 (float32 weight, gradient, two Adam moments), a frozen one 2 (bf16) or 0.52
(NF4); activations ≈ 34 · hidden a token and layer, with checkpointing 2 · hidden and one layer in full; of a whole step
only one chunk's activations are held. Constants from "Reducing Activation Recomputation" (arXiv 2205.05198), without
the attention matrix, which fused kernels never write.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig, MixtralConfig

from grit_app.doors import one_sentence
from grit_app.errors import GritError
from grit_app.gritlm.load.size import NF4_BYTES, is_quantizable
from training.config import ConfigError, TrainConfig
from training.data.batches import StepLoader
from training.run.adapters import find_expert_parameters, find_targets
from training.run.setup import Trainer
from training.run.update import optimizer_step
from training.step.losses import LOGITS_AT_ONCE

KNOWN_SHAPES: dict[str, Any] = {
    "mistralai/Mistral-7B-v0.1": MistralConfig,  # the classes' defaults are these models' shapes
    "mistralai/Mixtral-8x7B-v0.1": MixtralConfig,
}

TRAINED_BYTES = 16
ACTIVATION_BYTES = 34
LOGIT_COPIES = 3
"""Logits, their softmax and its gradient."""


@dataclass(frozen=True)
class Estimate:
    """GiB of one process."""

    parameters_m: float
    trained_m: float
    weights: float
    """Weights, gradients and optimizer."""
    working_copy: float
    """bf16 copies of trained weights made by autocast, or the layers that FSDP2 gathers."""
    activations: float
    logits: float
    vectors: float
    """All vectors with their gradients, and one block of scores."""

    @property
    def total(self) -> float:
        return self.weights + self.working_copy + self.activations + self.logits + self.vectors


def estimate(config: TrainConfig, *, processes: int = 1, sharded: bool = False) -> Estimate:
    """The peak of one process, without the allocator's losses (add about a tenth)."""
    model = empty_model(config.model.path)
    shape = model.config
    parameters = sum(p.numel() for p in model.parameters())
    weights, trained = _weight_bytes(config, model, parameters)
    largest = max(sum(p.numel() for p in layer.parameters()) for layer in model.get_decoder().layers)
    shards = processes if sharded else 1
    working = 0.0
    if config.run.precision == "bf16" and config.adapter.method == "full":
        # FSDP2 holds the layer at work and the next; embedding and head are gathered together.
        outside = parameters - shape.num_hidden_layers * largest
        working = 2 * (2 * largest + outside) if sharded else 2 * parameters
    chunk = max(_chunk_tokens(config))
    per_token = ACTIVATION_BYTES * shape.hidden_size
    if config.model.gradient_checkpointing:
        activations = chunk * (2 * shape.hidden_size * shape.num_hidden_layers + per_token)
    else:
        activations = chunk * per_token * shape.num_hidden_layers
    if config.run.precision == "fp32":
        activations *= 2
    logits = 0.0 if config.mode == "embedding" else min(LOGITS_AT_ONCE, chunk * shape.vocab_size * 4) * LOGIT_COPIES
    vectors = 0.0
    if config.mode != "generative":
        batch = config.contrastive
        sequences = batch.batch_size * (2 + batch.negatives)
        held = sequences / processes * shape.hidden_size * 4 * 2 + sequences * shape.hidden_size * 4 * 2
        rows = min(batch.score_rows, batch.batch_size / processes)
        vectors = held + rows * batch.batch_size * (1 + batch.negatives) * 4 * LOGIT_COPIES
    gib = 2**30
    return Estimate(
        parameters / 1e6,
        trained / 1e6,
        weights / shards / gib,
        working / gib,
        activations / gib,
        logits / gib,
        vectors / gib,
    )


def _weight_bytes(config: TrainConfig, model: Any, parameters: int) -> tuple[float, int]:
    """(bytes of weights, gradients and optimizer; trained parameters)"""
    adapter = config.adapter
    if adapter.method == "full":
        return parameters * TRAINED_BYTES, parameters
    targets = set(find_targets(model, adapter.targets))
    trained = sum(
        adapter.rank * (layer.in_features + layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.rpartition(".")[2] in targets
    )
    experts = () if adapter.targets else tuple(find_expert_parameters(model))
    for name, parameter in model.named_parameters():
        if experts and name.endswith(experts):
            trained += adapter.rank * parameter.shape[0] * (parameter.shape[1] + parameter.shape[2])
    small = 0
    if adapter.method == "qlora":
        small = sum(p.numel() for n, p in model.named_parameters() if is_quantizable(n, list(p.shape)))
    return (parameters - small) * 2 + small * NF4_BYTES + trained * TRAINED_BYTES, trained


def _chunk_tokens(config: TrainConfig) -> list[int]:
    """Tokens of one forward of each stream: the budget, or one sequence where that is longer."""
    found = []
    if config.mode != "generative":
        found.append(max(config.contrastive.chunk_tokens, config.data.passage_max_length))
    if config.mode != "embedding":
        found.append(max(config.generative.chunk_tokens, config.data.generative_max_length))
    return found


def empty_model(path: str) -> Any:
    """The model without memory: from config.json, or from the shapes of the paper's base models."""
    if path in KNOWN_SHAPES:
        shape = KNOWN_SHAPES[path]()
    elif (Path(path) / "config.json").is_file():
        values = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        shape = AutoConfig.for_model(values.pop("model_type"), **values)
    else:
        raise GritError(f"{path} has no config.json here, and its shape is not known. Name a folder.")
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(shape)


def peak_memory_gib() -> float:
    """The most memory that this process has held: of the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    if sys.platform == "linux":  # not ru_maxrss: a new process inherits that of the one that started it
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes on macOS


def print_memory(trainer: Trainer, loader: StepLoader, say: Callable[[str], None]) -> dict[str, float]:
    """Runs a batch of the longest rows of every stream through one whole step and says its peak."""
    longest = loader.longest()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    report, norm = optimizer_step(trainer, longest, 0.0)
    peak = peak_memory_gib()
    for stream, rows in longest.rows.items():
        chunks = [chunk for chunk in longest.chunks() if chunk.stream == stream]
        widest = max(chunk.input_ids.shape[1] for chunk in chunks)
        largest = max(chunk.input_ids.numel() for chunk in chunks)
        say(
            f"dry run: {stream}, the longest {len(rows)} rows: {sum(chunk.tokens for chunk in chunks)} tokens in "
            f"{len(chunks)} chunks, the longest sequence of {widest}, the largest chunk of {largest}"
        )
    say(f"dry run: loss {report.total(trainer.config):.4f}, gradient norm {norm:.3f}, peak memory {peak:.2f} GiB")
    return {"peak_memory_gib": peak, "loss": report.total(trainer.config)}


def read_recipe(path: Path, overrides: list[str] | None = None) -> TrainConfig:
    """A recipe as settings, checked. Raises ConfigError where it is not there or does not parse."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(TrainConfig)
    try:
        parsed = parser.instantiate(parser.parse_args(["--config", str(path), *(overrides or [])]))
    except ArgumentError as error:
        raise ConfigError(f"The recipe {path} cannot be read: {error}") from error
    return TrainConfig(**{name: value for name, value in vars(parsed).items() if name != "config"})


def main(arguments: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("recipes", nargs="+", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sharded", action="store_true", help="FSDP2: weights are spread over the processes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with one_sentence():
        for path in options.recipes:
            found = estimate(read_recipe(path), processes=options.processes, sharded=options.sharded)
            if options.json:
                print(json.dumps({"recipe": path.stem, "processes": options.processes, **asdict(found)}))
                continue
            parts = {
                "weights": found.weights,
                "copies": found.working_copy,
                "activations": found.activations,
                "logits": found.logits,
                "vectors": found.vectors,
            }
            summed = " + ".join(f"{name} {value:.1f}" for name, value in parts.items())
            print(
                f"{path.stem}: {found.parameters_m:.0f} M parameters, {found.trained_m:.0f} M trained, "
                f"{options.processes} process(es){' sharded' if options.sharded else ''}: "
                f"{summed} = {found.total:.1f} GiB each"
            )


if __name__ == "__main__":
    main()
