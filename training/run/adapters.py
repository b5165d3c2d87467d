"""LoRA and QLoRA: which layers get adapters, and the proof that they move."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from training.config import AdapterConfig, ConfigError, TrainError

PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}
"""Names of linear layers in the attention, MLP and experts of Mistral, Mixtral, Llama and Qwen."""

EXPERT_PARAMETERS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
"""Mixtral's experts since transformers 5: two stacked tensors a layer instead of linear layers."""


class AdapterError(TrainError):
    """Adapters match nothing, or did not move."""


def find_targets(model: nn.Module, wanted: list[str]) -> list[str]:
    """Names of the linear layers that get adapters: `wanted`, or every known projection that the model has.

    Raises ConfigError if a wanted name matches nothing, or if nothing is known about the architecture.
    """
    linear = {name.rpartition(".")[2] for name, layer in model.named_modules() if _is_linear(layer)}
    missing = sorted(set(wanted) - linear)
    if missing:
        raise ConfigError(
            f"adapter.targets names {', '.join(missing)}, which this model has not. It has {', '.join(sorted(linear))}."
        )
    found = wanted or sorted(PROJECTIONS & linear)
    if not found:
        raise ConfigError(
            "None of this model's linear layers has a known name. Name some in adapter.targets: "
            + ", ".join(sorted(linear))
        )
    return found


def find_expert_parameters(model: nn.Module) -> list[str]:
    """Stacked expert tensors that get adapters of their own."""
    names = {name for name, _ in model.named_parameters()}
    return [suffix for suffix in EXPERT_PARAMETERS if any(name.endswith(suffix) for name in names)]


def lora_config(model: PreTrainedModel, config: AdapterConfig) -> Any:
    """What peft needs to know. Raises ConfigError if a wanted layer is not there."""
    from peft import LoraConfig

    experts = [] if config.targets else find_expert_parameters(model)
    settings: dict[str, Any] = {"target_parameters": experts} if experts else {}
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        # peft has no dropout for stacked experts.
        lora_dropout=0.0 if experts else config.dropout,
        target_modules=find_targets(model, config.targets),
        bias="none",
        task_type="CAUSAL_LM",
        **settings,
    )


def add_adapters(model: PreTrainedModel, config: AdapterConfig, seed: int) -> nn.Module:
    """The model with LoRA adapters in float32; its own weights are frozen."""
    from peft import get_peft_model, prepare_model_for_kbit_training

    if config.method == "qlora":
        # Casts norms to float32; checkpointing is switched on by the caller, non-reentrant.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = lora_config(model, config)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 asks transformers 5.23 by a name that is on its way out.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(seed)  # the same adapters on every process
        adapted: nn.Module = get_peft_model(model, lora)
    return adapted


def unmoved_adapters(module: nn.Module) -> list[str]:
    """Names of `lora_B` matrices that are still zero: their layer has not been trained at all."""
    unmoved = []
    for name, parameter in module.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            full = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            if not bool(full.any()):
                unmoved.append(name)
    return unmoved


def check_adapters_move(module: nn.Module) -> None:
    """Raises AdapterError if an adapter is still at its start: the known failure of adapters says nothing else."""
    unmoved = unmoved_adapters(module)
    if unmoved:
        raise AdapterError(
            f"{len(unmoved)} adapters got no gradient in the first steps, among them {unmoved[0]}. Name other layers "
            "in adapter.targets."
        )


def _is_linear(layer: nn.Module) -> bool:
    # bitsandbytes' layers are subclasses of nn.Linear.
    return isinstance(layer, nn.Linear)
