"""Counting operations and bytes."""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from grit_app.benchmark.inputs.shapes import COMMON, SHAPES
from grit_app.benchmark.measure.floors import ModelSize, Rates, forget, measure_rates
from tests.conftest import tiny_hf_model


@pytest.mark.parametrize("family", ["mistral", "llama", "qwen2", "qwen3"])
def test_operations_agree_with_torchs_own_count(load_tiny: Any, family: str) -> None:
    """torch counts every multiplication of a forward, and a causal square whole: half of it is what causality needs."""
    model, tokens = load_tiny(family), 48
    size = ModelSize.of(model)
    eager = tiny_hf_model(family)  # the counter does not know the CPU's fused attention
    eager.set_attn_implementation("eager")
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        eager(input_ids=torch.arange(4, 4 + tokens)[None], logits_to_keep=1, use_cache=False)
    square = 4 * size.layers * size.heads * size.head_size * tokens * tokens
    rotary = 2 * tokens * size.head_size // 2  # positions times frequencies
    assert counter.get_total_flops() == pytest.approx(size.flops(tokens) + square / 2, abs=rotary)


def test_a_mixture_counts_only_the_experts_that_run(load_tiny: Any) -> None:
    size, config = ModelSize.of(load_tiny("mixtral")), load_tiny("mixtral").hf_model.config
    attention = 2 * 32 * (4 + 2) * 8
    assert size.layer_parameters == 2 * (attention + config.num_experts_per_tok * 3 * 32 * 64)


def test_cached_and_computed_rows_add_up_to_the_whole(tiny_model: Any) -> None:
    """Reading 300 tokens and then 50 over them takes the operations of 350 at once, plus one more look at the head."""
    size = ModelSize.of(tiny_model)
    head = 2 * size.vocabulary * size.hidden
    assert size.flops(300) + size.flops(50, cached=300) == pytest.approx(size.flops(350) + head)


def test_shapes_have_the_sizes_that_their_names_say() -> None:
    """Parameters of the layers, and bytes of cache a token in bfloat16."""
    from transformers import AutoModelForCausalLM, MistralConfig

    expected = {"mini-36m": (36.2e6, 6144), "mistral-7b": (6.98e9, 131072)}
    assert set(expected) == set(SHAPES)
    for name, (parameters, cache_bytes) in expected.items():
        config = MistralConfig(**COMMON, **SHAPES[name])
        with torch.device("meta"):
            layers = AutoModelForCausalLM.from_config(config).get_decoder().layers
        assert sum(p.numel() for p in layers.parameters() if p.dim() == 2) == pytest.approx(parameters, rel=0.005)
        assert 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2 == cache_bytes


def test_the_floor_is_the_larger_of_operations_and_bytes() -> None:
    size = ModelSize(2, 4, 2, 8, 32, 512, layer_parameters=10_000, weight_bytes=40_000)
    rates = Rates(flops_per_s=1e8, memory_bytes_per_s=1e7, link_bytes_per_s=1e6, file_bytes_per_s=1e5)
    operations_ms = 1e3 * size.flops(10, 100) / 1e8
    assert rates.floor_ms(size, 10, 100, 0, "none") == pytest.approx(max(operations_ms, 4.0))
    # 1 MB of cache: 0.1 s from memory, 1 s over the link, 10 s from the disk, each with 4 ms for the weights.
    for state, milliseconds in (("hot", 104), ("warm", 1004), ("cold", 10004)):
        assert rates.floor_ms(size, 10, 100, 1_000_000, state) == pytest.approx(milliseconds)
    assert 4 < operations_ms < 104, "operations decide without a cache, bytes with one"


def test_measured_rates_are_those_of_a_computer(tiny_model: Any) -> None:
    """Orders of magnitude: a slip in units (bits, milliseconds, GB) would leave them."""
    rates = measure_rates(tiny_model)
    assert 1e7 < rates.flops_per_s < 1e15
    assert 1e8 < rates.memory_bytes_per_s < 1e13
    assert rates.link_bytes_per_s == rates.memory_bytes_per_s
    assert 1e6 < rates.file_bytes_per_s < 1e12


def resident_pages(path: Path) -> int:
    """Pages of a file that the system holds in its page cache, asked by mincore."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        pages = (len(view) + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        vector = (ctypes.c_ubyte * pages)()
        start = ctypes.addressof(ctypes.c_char.from_buffer(view))
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(view)), vector)
        assert result == 0
        return sum(byte & 1 for byte in vector)


def test_a_forgotten_file_is_out_of_the_page_cache(tmp_path: Path) -> None:
    """Cold means that the bytes come from the disk; freshly written pages cannot be dropped and are written first."""
    path = tmp_path / "cache"
    path.write_bytes(bytes(64 * mmap.PAGESIZE))
    assert resident_pages(path) == 64
    forget(path)
    left = resident_pages(path)
    if left == 64:
        pytest.skip("this file system keeps its files in memory")
    assert left == 0
