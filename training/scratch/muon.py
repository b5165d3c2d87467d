"""Muon for matrices, AdamW for everything else.

Muon (Jordan et al. 2024): heavy-ball momentum whose matrix is replaced by its nearest orthogonal one, found by a few
Newton-Schulz iterations. torch.optim.Muon does these in bfloat16, which is about a hundred times slower than float32
on a CPU without bf16 units (measured); here the processor decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from grit_app.gritlm.load.loading import resolve_dtype


def orthogonalise(matrix: Tensor, steps: int) -> Tensor:
    """About the nearest semi-orthogonal matrix of [m, n]: singular values go to 0.7 … 1.2 (quintic Newton-Schulz)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    dtype = resolve_dtype(matrix.device)
    x = matrix.to(dtype)
    transposed = x.shape[0] > x.shape[1]
    if transposed:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if transposed else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for 2-D parameters; `lr` is the root-mean-square change per element.

    The update is scaled by sqrt(max(m, n)), so that its RMS is about `lr` for every shape, comparable with AdamW's.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0, ns_steps: int = 5
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "ns_steps": ns_steps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                buffer = state["momentum"]
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonalise(parameter.grad.lerp(buffer, group["momentum"]), group["ns_steps"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * max(parameter.shape) ** 0.5)


class ParameterGroups(NamedTuple):
    """A model's trainable parameters by kind, each once."""

    matrices: list[Tensor]
    tables: list[Tensor]
    heads: list[Tensor]
    vectors: list[Tensor]


def parameter_groups(model: nn.Module) -> ParameterGroups:
    """Layer matrices, the input table (also where the head is tied to it), an untied head, norms and biases."""
    groups = ParameterGroups([], [], [], [])
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            groups.vectors.append(parameter)
        elif "embed_tokens" in name:
            groups.tables.append(parameter)
        elif "lm_head" in name:
            groups.heads.append(parameter)
        else:
            groups.matrices.append(parameter)
    return groups
