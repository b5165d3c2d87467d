"""GradCache: the exact gradient of a loss over a large batch, in the memory of one chunk.

    1  for each chunk:  remember the RNG state; encode without a graph
    2  loss of all vectors as leaves; its backward gives each vector's gradient
    3  for each chunk:  restore the RNG state; encode with a graph; (vectors · gradient).sum().backward()

The chain rule makes it exact if pass 3 repeats pass 1: same inputs, mode, precision and dropout. A chunk may carry a
loss of its own (the answers of cache-aware samples); it is added in pass 3, whose one backward then serves both.
Source: Gao et al. 2021, arXiv 2101.06983.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

C = TypeVar("C")

Encode = Callable[[C, bool], tuple[Tensor, Tensor | None]]
"""(chunk, whether this is the pass that learns) → (vectors [n, d] float32, the chunk's own loss or None).
The own loss is needed, and computed, only in the learning pass; it must be scaled by the caller."""

VectorLoss = Callable[[Tensor], Tensor]
"""Vectors of all chunks in order, as a leaf [n, d] → their gradient [n, d]."""


@dataclass(frozen=True)
class RandomState:
    """Generators of the CPU and of one device, at one moment."""

    cpu: Tensor
    device: torch.device
    accelerator: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        # The device of the model: a snapshot of any other device would not be what its dropout uses.
        on_gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), device, on_gpu)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Inside, random numbers come as they did after the snapshot; afterwards as if nothing had happened."""
        with torch.random.fork_rng(devices=[self.device] if self.accelerator is not None else []):
            torch.set_rng_state(self.cpu)
            if self.accelerator is not None:
                torch.cuda.set_rng_state(self.accelerator, self.device)
            yield


def cached_backward(
    chunks: Sequence[C], encode: Encode[C], vector_gradient: VectorLoss, count: int, device: torch.device
) -> None:
    """Adds to `.grad` the gradient of the loss behind `vector_gradient`, and of the chunks' own losses.

    chunks  at least one
    count   vectors of all chunks together

    Peak memory: the graph of one chunk, and all vectors with their gradients.
    """
    states: list[RandomState] = []
    sizes: list[int] = []
    joined = torch.empty(0)
    with torch.no_grad():
        for chunk in chunks:
            states.append(RandomState.now(device))
            vectors, _ = encode(chunk, False)
            if not sizes:
                # One place for all, made first: a small piece kept from every chunk would split the room of the next.
                joined = vectors.new_empty(count, vectors.shape[1])
            joined[sum(sizes) : sum(sizes) + len(vectors)] = vectors
            sizes.append(len(vectors))
    gradients = vector_gradient(joined).split(sizes)
    del joined, vectors
    for chunk, state, gradient in zip(chunks, states, gradients, strict=True):
        with state.replayed():
            again, own_loss = encode(chunk, True)
        surrogate = (again.float() * gradient).sum()
        (surrogate if own_loss is None else surrogate + own_loss).backward()


def plain_backward(chunks: Sequence[C], encode: Encode[C], vector_gradient: VectorLoss) -> None:
    """The same gradient with one forward a chunk: faster, but the graphs of all chunks are held at once."""
    encoded = [encode(chunk, True) for chunk in chunks]
    vectors = torch.cat([vectors for vectors, _ in encoded])
    surrogate = (vectors * vector_gradient(vectors.detach())).sum()
    for _, own_loss in encoded:
        if own_loss is not None:
            surrogate = surrogate + own_loss
    surrogate.backward()
