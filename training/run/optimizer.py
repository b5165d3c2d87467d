"""AdamW over the trained parameters, and its learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from training.config import OptimizerConfig


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW. Norms, biases and embedding tables are not decayed: decay would only shrink rare tokens."""
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_matrix = parameter.dim() > 1 and "embed_tokens" not in name
            (decayed if is_matrix else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=all(p.is_cuda for p in (*decayed, *others)),  # one launch for all parameters
    )


def rate_factor(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Share of the peak learning rate at `step` (0 … total_steps − 1), for runs by steps and by the clock alike."""
    warmup = math.ceil(config.warmup_share * total_steps)
    floor = config.final_share
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "wsd":
        # Unlike a cosine the flat part does not know the end: a run can be prolonged from any of its weights.
        decay = max(1, math.ceil(config.decay_share * total_steps))
        return min(1.0, floor + (1 - floor) * (total_steps - step) / decay)
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.schedule == "linear":
        return floor + (1 - floor) * (1 - progress)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def total_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Norm of all gradients together, over all shards; longer ones are scaled down to `max_norm` (0: never)."""
    with_gradient = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(with_gradient, max_norm if max_norm > 0 else math.inf, foreach=None)
    full = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # a DTensor under FSDP2
    return float(full)
