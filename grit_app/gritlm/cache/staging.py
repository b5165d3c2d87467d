"""From the machine's memory to a GPU at the speed of the bus.

The bus reads only pinned memory by itself, and pinning is slow. So two pinned buffers are kept. While the GPU fetches
one, the next part is copied into the other, from a memory-mapped cache file straight off the disk.

    part 1 ──copy──► buffer A ──bus──► GPU
              part 2 ──copy──► buffer B ──bus──► GPU
                        part 3 ──wait for A──copy──► buffer A …
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Final, Protocol

import torch
from torch import Tensor

BUFFER_BYTES: Final = 16 * 2**20
"""Of each of the two: 0.3 ms of a bus with 50 GB/s, so that a launch is nothing beside it."""


class Mark(Protocol):
    """A point in the work of a device, such as torch.cuda.Event."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...


class Staging:
    """Two buffers between the machine and one device. Safe in several threads: one copies at a time."""

    def __init__(self, buffers: tuple[Tensor, Tensor], marks: tuple[Mark, Mark]) -> None:
        self._buffers = buffers  # uint8 [bytes]
        self._marks = marks
        self._turn = 0
        self._lock = threading.Lock()

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Starts copying `source` into `target` of the same shape and dtype; the device does not wait for the host."""
        with self._lock:
            self._copy(source, target)

    def _copy(self, source: Tensor, target: Tensor) -> None:
        if source.numel() == 0:
            return
        size = source.element_size()
        if source.dim() == 0:
            source, target = source[None], target[None]
        one = source[0].numel() * size  # bytes of one entry along the first axis
        fitting = self._buffers[0].numel() // one
        if not fitting:
            for part, into in zip(source, target, strict=True):
                self._copy(part, into)
            return
        for first in range(0, len(source), fitting):
            part = source[first : first + fitting]
            buffer, mark = self._buffers[self._turn], self._marks[self._turn]
            self._turn = 1 - self._turn
            mark.synchronize()  # what the device fetched from this buffer before
            staged = buffer[: part.numel() * size].view(part.dtype).view(part.shape)
            staged.copy_(part)
            target[first : first + fitting].copy_(staged, non_blocking=True)
            mark.record()


@lru_cache(maxsize=16)
def staging(device: torch.device) -> Staging:
    """The buffers of one GPU, made at the first use."""
    first, second = (torch.empty(BUFFER_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2))
    return Staging((first, second), (torch.cuda.Event(), torch.cuda.Event()))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; to a GPU in the background."""
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and tensor.device.type == "cpu":
        target = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        with torch.cuda.device(target.device):
            staging(target.device).copy(tensor, target)
        return target
    return tensor.to(device)
