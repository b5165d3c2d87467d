"""Buffers above a few megabytes come from another place than small ones; they must behave the same."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import pytest
import torch

from grit_app.gritlm.cache.buffers import HUGE_PAGE, empty_buffer
from grit_app.gritlm.cache.kv_cache import KVCache, join
from grit_app.gritlm.cache.rope import Rope

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [3, 2 * HUGE_PAGE // 64 - 1, 2 * HUGE_PAGE // 64 + 5])
def test_every_number_can_be_written_and_read(dtype: torch.dtype, rows: int) -> None:
    buffer = empty_buffer((2, rows, 32), dtype, CPU)
    assert buffer.shape == (2, rows, 32) and buffer.dtype == dtype and buffer.is_contiguous()
    numbers = torch.arange(buffer.numel()).remainder(251).view(buffer.shape).to(dtype)
    buffer.copy_(numbers)
    assert torch.equal(buffer, numbers)


def test_a_view_keeps_the_memory() -> None:
    """The buffer's own object may go while a cache still looks into it."""
    view = empty_buffer((4, HUGE_PAGE), torch.float32, CPU).fill_(3.0)[1:, 5:]
    gc.collect()
    empty_buffer((4, HUGE_PAGE), torch.float32, CPU).fill_(7.0)
    assert (view == 3.0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_given_back() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    empty_buffer((16, HUGE_PAGE), torch.float32, CPU).fill_(1.0)
    before = resident_bytes()
    for _ in range(5):
        empty_buffer((16, HUGE_PAGE), torch.float32, CPU).fill_(1.0)  # 128 MB
    assert resident_bytes() - before < 64 << 20


def test_a_large_join_equals_its_parts() -> None:
    parts = [KVCache(torch.randn(2, 2, 3000, 64), torch.randn(2, 2, 3000, 64), torch.arange(3000), 0, "causal")] * 2
    rope = Rope(10000 ** (-torch.arange(32) / 32))
    joined = join(parts, rope)
    assert joined.room is not None and joined.room.keys.nbytes > 2 * HUGE_PAGE
    assert torch.equal(joined.keys[:, :, :3000], parts[0].keys)
    assert torch.equal(joined.values[:, :, 3000:], parts[1].values)
    assert torch.equal(joined.keys[:, :, 3000:], rope.move(parts[1].keys, 3000))
