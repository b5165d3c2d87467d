"""Large uninitialised tensors that are cheap to write for the first time."""

from __future__ import annotations

import math
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

HUGE_PAGE = 2 << 20  # bytes


def empty_buffer(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor for keys or values.

    On Linux's CPU it asks for huge pages. Memory fresh from the system costs an interrupt for each page at its first
    write: with pages of 4 KB copying 50 MB into it took 35 to 40 ms, with huge ones 10 ms (and 6 ms where that was
    paid already).
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or sys.platform != "linux" or nbytes < 2 * HUGE_PAGE:
        return torch.empty(tuple(shape), dtype=dtype, device=device)
    # One page more than needed, because the mapping need not begin on the border of a huge page.
    size = (nbytes // HUGE_PAGE + 2) * HUGE_PAGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape)).view(tuple(shape))  # keeps `memory` alive
