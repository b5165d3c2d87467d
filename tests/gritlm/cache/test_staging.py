"""Copies through two small buffers arrive whole, whatever the shape; a buffer still being read is waited for."""

from __future__ import annotations

import pytest
import torch

from grit_app.gritlm.cache.staging import Staging


class Clock:
    """Stands for an event of a device, and notes the order of calls."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def record(self) -> None:
        self.calls.append(f"{self.name} record")

    def synchronize(self) -> None:
        self.calls.append(f"{self.name} wait")


def staging(nbytes: int) -> tuple[Staging, list[str]]:
    calls: list[str] = []
    first, second = (torch.empty(nbytes, dtype=torch.uint8) for _ in range(2))
    return Staging((first, second), (Clock("a", calls), Clock("b", calls))), calls


@pytest.mark.parametrize("nbytes", [64, 200, 4096, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_every_number_arrives(nbytes: int, dtype: torch.dtype) -> None:
    """Layers that fit together, one by one, and not at all; a part of a larger tensor as a join takes it."""
    source = torch.randn(5, 2, 9, 8, generator=torch.Generator().manual_seed(0)).mul(50).to(dtype)[:, :, 2:]
    target = torch.zeros(source.shape, dtype=dtype)
    staging(nbytes)[0].copy(source, target)
    assert torch.equal(target, source)


def test_a_buffer_is_filled_again_only_after_it_was_fetched() -> None:
    copier, calls = staging(32)
    copier.copy(torch.arange(20, dtype=torch.int64), torch.zeros(20, dtype=torch.int64))
    assert calls[:6] == ["a wait", "a record", "b wait", "b record", "a wait", "a record"]
    assert len(calls) == 2 * 5  # 160 bytes in parts of 32


def test_nothing_and_a_single_number_are_copies_too() -> None:
    copier, _ = staging(32)
    copier.copy(torch.zeros(0, 3), torch.zeros(0, 3))
    target = torch.zeros((), dtype=torch.int64)
    copier.copy(torch.tensor(7), target)
    assert int(target) == 7
