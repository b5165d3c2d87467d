"""What is computed in one kernel instead of several. The numbers stay the same but for rounding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.config import ConfigError

KINDS_OF_CALLS = 64
"""A layer is called with and without masks, gradients and causality: each kind is compiled once, for any length."""


def fuse_norms(module: nn.Module) -> int:
    """Lets each RMSNorm that is one run as one kernel; gives how many did."""
    fused = 0
    for norm in module.modules():
        if type(norm).__name__.endswith("RMSNorm") and hasattr(norm, "variance_epsilon") and _is_plain(norm):
            norm.forward = _Fused(norm)  # type: ignore[assignment]
            fused += 1
    return fused


def compile_layers(layers: Iterable[nn.Module]) -> None:
    """Lets each layer run as code that is made at its first call. Raises ConfigError where there is no compiler.

    Around the matrix products of a small model lie a dozen passes over its states: on two CPU cores they take as long
    as the products.
    """
    import torch._dynamo  # takes seconds
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError as error:
        raise ConfigError(
            "run.compile needs a C++ compiler, and none was found. Install g++, or set run.compile to false."
        ) from error
    torch._dynamo.config.recompile_limit = KINDS_OF_CALLS
    for layer in layers:
        layer.forward = _Compiled(layer)  # type: ignore[assignment]


class _Compiled:
    """A layer's forward, compiled while it trains: evaluation calls it in too many ways."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self._usual = layer, layer.forward
        self._compiled = torch.compile(layer.forward, dynamic=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return (self._compiled if self._layer.training else self._usual)(*args, **kwargs)


class _Fused:
    """RMSNorm by one kernel where the state and the weight have one precision; else as it was."""

    def __init__(self, norm: Any) -> None:
        self._norm, self._usual = norm, type(norm).forward

    def __call__(self, hidden_states: Tensor) -> Tensor:
        norm = self._norm
        if hidden_states.dtype != norm.weight.dtype:
            usual: Tensor = self._usual(norm, hidden_states)
            return usual
        return F.rms_norm(hidden_states, norm.weight.shape, norm.weight, norm.variance_epsilon)


@torch.no_grad()
def _is_plain(norm: Any) -> bool:
    """Whether the module's own forward is x / rms(x) · weight: some families add 1 to the weight."""
    weight = norm.weight
    probe = torch.linspace(-2, 3, weight.numel(), device=weight.device, dtype=weight.dtype)[None]
    return torch.allclose(norm(probe), F.rms_norm(probe, weight.shape, weight, norm.variance_epsilon), rtol=1e-3)
