"""What no implementation can beat: floating-point operations and bytes, against rates measured in the same run.

P = parameters of the layers, L layers, n_h query heads of size d; Q rows are computed over D cached ones:

    F(Q, D)  = 2·P·Q + 4·L·n_h·d·Q·(D + Q/2) + 2·V·h        causal rows, and the head for the last one
    floor    = max(F / Φ, weights and cache / B)            Φ FLOP/s of a matmul, B bytes/s of a copy or read
    flop_bound of a strategy = F(all, 0) / F(tail, cached)  the speed-up if every operation took the same time
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from grit_app.benchmark.timing import Summary, summarize, synchronize
from grit_app.gritlm import GritLM

MATMUL_ROWS: Final = 2048
"""As many as a long prompt has in one go: this is the rate of full prefill, the best case for every strategy."""

COPY_BYTES: Final = 128 * 2**20
"""Beyond the processor's caches, and a GPU's."""

GPU_TRY_S: Final = 0.05
"""A product of 2,048 rows takes a tenth of a millisecond on a large card, no longer than the call that starts it."""


@dataclass(frozen=True)
class ModelSize:
    """The sizes that count operations."""

    layers: int
    heads: int
    kv_heads: int
    head_size: int
    hidden: int
    vocabulary: int
    layer_parameters: int
    """Multiplied with every token: of a mixture of experts only the chosen ones."""

    weight_bytes: int

    @classmethod
    def of(cls, model: GritLM) -> ModelSize:
        config: Any = model.hf_model.config
        hidden, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        head_size = getattr(config, "head_dim", None) or hidden // heads
        experts = getattr(config, "num_experts_per_tok", 1)
        a_layer = 2 * hidden * (heads + kv_heads) * head_size + 3 * hidden * config.intermediate_size * experts
        return cls(
            layers=config.num_hidden_layers,
            heads=heads,
            kv_heads=kv_heads,
            head_size=head_size,
            hidden=hidden,
            vocabulary=config.vocab_size,
            layer_parameters=a_layer * config.num_hidden_layers,
            weight_bytes=int(model.describe()["memory_bytes"]),
        )

    def flops(self, rows: int, cached: int = 0) -> float:
        """Operations of `rows` causal tokens over `cached` ones, with logits for the last."""
        attention = 4 * self.layers * self.heads * self.head_size * rows * (cached + rows / 2)
        return 2.0 * self.layer_parameters * rows + attention + 2.0 * self.vocabulary * self.hidden


@dataclass(frozen=True)
class Rates:
    """One reading of what the machine does at its best."""

    flops_per_s: float
    memory_bytes_per_s: float
    """Read and written together, on the device that computes."""

    link_bytes_per_s: float
    """From host memory to that device; the same as memory on a CPU."""

    file_bytes_per_s: float
    """From a file that is not in the page cache, to host memory."""

    def floor_ms(self, size: ModelSize, rows: int, cached: int, cache_bytes: int, state: str) -> float:
        """Milliseconds to the first token that these rates allow, with the cache coming from where `state` says."""
        source = {"cold": self.file_bytes_per_s, "warm": self.link_bytes_per_s}.get(state, self.memory_bytes_per_s)
        moving = size.weight_bytes / self.memory_bytes_per_s + cache_bytes / source
        return 1e3 * max(size.flops(rows, cached) / self.flops_per_s, moving)


def floor_summary(rates: list[Rates], size: ModelSize, rows: int, cached: int, cache_bytes: int, state: str) -> Summary:
    """The floor under each of the readings, summarised like every time."""
    return summarize([reading.floor_ms(size, rows, cached, cache_bytes, state) for reading in rates])


def measure_rates(model: GritLM) -> Rates:
    """One reading, best of a few tries each; about a second on two cores."""
    device, size = model.device, ModelSize.of(model)
    memory = copy_rate(device, device)
    return Rates(
        flops_per_s=_matmul_rate(size, model.dtype, device),
        memory_bytes_per_s=memory,
        link_bytes_per_s=memory if device.type == "cpu" else copy_rate(torch.device("cpu"), device) / 2,
        file_bytes_per_s=_file_rate(),
    )


def _best_s(action: Any, device: torch.device, tries: int = 3) -> float:
    """Seconds of one action, the best of some tries. On a GPU a try is many actions: the wait at its end is no part."""
    repeats = 1 if device.type == "cpu" else _repeats(action, device)
    times = []
    for _ in range(tries):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(repeats):
            action()
        synchronize(device)
        times.append((time.perf_counter() - start) / repeats)
    return min(times)


def _repeats(action: Any, device: torch.device) -> int:
    """As many actions as take GPU_TRY_S, at least one."""
    action()
    synchronize(device)
    start = time.perf_counter()
    action()
    synchronize(device)
    return max(1, round(GPU_TRY_S / max(time.perf_counter() - start, 1e-6)))


@torch.inference_mode()
def _matmul_rate(size: ModelSize, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of one of the model's own products: rows × hidden times hidden × (heads · d)."""
    a = torch.randn(MATMUL_ROWS, size.hidden, device=device, dtype=dtype)
    b = torch.randn(size.hidden, size.heads * size.head_size, device=device, dtype=dtype)
    return 2.0 * a.shape[0] * b.shape[0] * b.shape[1] / _best_s(lambda: a @ b, device, tries=5)


def copy_rate(source: torch.device, target: torch.device) -> float:
    """Bytes per second read plus written by a copy too large for the processor's caches, the best of a few."""
    pinned = source.type == "cpu" and target.type == "cuda"
    a = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=source, pin_memory=pinned)
    b = torch.empty(COPY_BYTES, dtype=torch.uint8, device=target)
    return 2.0 * COPY_BYTES / _best_s(lambda: b.copy_(a, non_blocking=True), target)


def _file_rate(n_bytes: int = 32 * 2**20) -> float:
    """Bytes per second of a sequential read after the page cache was told to forget the file."""
    with tempfile.TemporaryDirectory(prefix="grit-rate-") as folder:
        path = Path(folder) / "bytes"
        path.write_bytes(os.urandom(n_bytes))
        best = 0.0
        for _ in range(2):
            forget(path)
            start = time.perf_counter()
            path.read_bytes()
            best = max(best, n_bytes / (time.perf_counter() - start))
    return best


def forget(path: Path) -> None:
    """Drops a file from the page cache (where the system can), so that the next read comes from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages that were not written yet cannot be dropped
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
