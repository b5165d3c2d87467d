"""Several processes: who holds what, gathering with gradient, and averaging gradients once a step.

DDP and FSDP *average* gradients over processes. So a loss that is a sum over the global batch is scaled by the number
of processes before backward (`Ranks.size`), and the result is the gradient of one process with the whole batch.
Each process scores its own queries against everybody's passages; the backward of `gather_with_grad` sums what all
processes say about a passage. (Gathering without gradient would give a wrong direction: measured cosine 0.96.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

BUCKET_BYTES = 64 * 2**20

PATIENCE = timedelta(days=1)
"""How long processes wait for one that evaluates."""


@dataclass(frozen=True)
class Ranks:
    """This process among all."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def here(cls, device: torch.device) -> Ranks:
        """From torch.distributed if it runs, else one process."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sizes(self, n: int) -> list[int]:
        """`n` of every process."""
        return [numbers[0] for numbers in self.exchange([n])]

    def exchange(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of every process, in rank order; equally many each."""
        if self.size == 1:
            return [list(numbers)]
        mine = torch.tensor(list(numbers), device=self.device)
        everybody = [torch.zeros_like(mine) for _ in range(self.size)]
        dist.all_gather(everybody, mine)
        found: list[list[int]] = torch.stack(everybody).tolist()
        return found

    def gather(self, tensor: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """Rows of all processes in rank order, without gradient; processes may have different numbers of rows."""
        if self.size == 1:
            return tensor
        sizes = sizes or self.sizes(len(tensor))
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        pieces = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    def gather_with_grad(self, tensor: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
        """As `gather`; in backward each row gets the sum of all processes' gradients."""
        if self.size == 1:
            return tensor
        gathered: Tensor = _Gather.apply(tensor, self, list(sizes or self.sizes(len(tensor))))
        return gathered

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over processes; the argument may be overwritten."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def shared(self, value: T) -> T:
        """What the first process holds, on every process; they wait for it as long as it takes.

        The first one may be evaluating: NCCL's own collectives would give up after ten minutes.
        """
        if self.size == 1:
            return value
        held = [value]
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        dist.broadcast_object_list(held, src=0, group=patient, device=torch.device("cpu"))
        dist.destroy_process_group(patient)
        return held[0]

    def max(self, number: int) -> int:
        return max(self.sizes(number))

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """Forward: all rows. Backward: the gradient summed over processes, then the own rows of it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks, sizes: list[int]) -> Tensor:
        ctx.ranks, ctx.sizes = ranks, sizes
        return ranks.gather(tensor, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        summed = ctx.ranks.sum(gradients[0].contiguous())
        start = sum(ctx.sizes[: ctx.ranks.rank])
        return summed[start : start + ctx.sizes[ctx.ranks.rank]], None, None


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replaces every gradient by its mean over processes, in a few large messages.

    Once a step, after all backwards: the LM head gets no gradient from embedding chunks, so a synchronising backward in
    the middle of a step would wait for it in vain.
    """
    if ranks.size == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    # A head that nobody used keeps no gradient, as with one process: a zero one would let weight decay shrink it.
    is_used = ranks.sum(torch.tensor([p.grad is not None for p in trained], device=ranks.device, dtype=torch.int32))
    bucket: list[nn.Parameter] = []
    held = 0
    for parameter, used in zip(trained, is_used.tolist(), strict=True):
        if not used:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter)
        held += parameter.numel() * parameter.element_size()
        if held >= BUCKET_BYTES:
            _average_bucket(bucket, ranks)
            bucket, held = [], 0
    if bucket:
        _average_bucket(bucket, ranks)


def _average_bucket(bucket: list[nn.Parameter], ranks: Ranks) -> None:
    flat = torch.cat([p.grad.flatten().float() for p in bucket if p.grad is not None])
    dist.all_reduce(flat)
    flat /= ranks.size
    start = 0
    for parameter in bucket:
        assert parameter.grad is not None
        parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()
