"""How much memory a checkpoint will take, known from its safetensors headers before anything is loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

import psutil
import torch

from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.load import gguf, int8

WORKING_BYTES: Final = 512 * 2**20
"""Room for activations and the allocator's losses."""

TOKENS_IN_USE: Final = 8192
"""Tokens of keys and values that fit beside the weights: 4,096 as a joined cache, and once more to decode."""

NF4_BYTES: Final = 0.516
"""4 bits a weight, and with double quantisation 0.127 bits of scales."""

UNQUANTIZED_PARTS: Final = ("embed_tokens", "lm_head", ".block_sparse_moe.gate.", ".mlp.gate.")
"""Tables, and the routers of a mixture of experts."""

STACKED_EXPERTS: Final = (".experts.gate_up_proj", ".experts.down_proj")

INT8_BYTES: Final = 1.01
"""8 bits a weight, and one scale a row."""


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds."""

    parameters: int
    quantizable: int
    """Parameters of linear layers inside the trunk: those that 8-bit and 4-bit loading makes smaller."""

    cache_numbers: int = 0
    """Keys and values of one token in all layers; 0 where the configuration is not at hand."""

    read_whole: bool = False
    """The unquantised model is in the machine's memory while it is loaded: so with GGUF files."""

    row_bytes: int = 0
    """Of int8 rows that stay beside bfloat16 weights on a CPU (few_rows.py)."""

    def working_bytes(self, dtype: torch.dtype) -> int:
        """Bytes beside the weights: activations, and keys and values of the lengths in use."""
        return WORKING_BYTES + TOKENS_IN_USE * self.cache_numbers * dtype.itemsize

    def memory_bytes(self, dtype: torch.dtype, quantization: str = "none") -> int:
        """Bytes of the loaded weights."""
        bytes_each = {"none": float(dtype.itemsize), "8bit": INT8_BYTES, "4bit": NF4_BYTES}[quantization]
        return int((self.parameters - self.quantizable) * dtype.itemsize + self.quantizable * bytes_each)

    def loading_bytes(self, dtype: torch.dtype, quantization: str = "none", on_cpu: bool = True) -> int:
        """Most bytes of weights on the model's device at a time while it is loaded."""
        beside = self.read_whole and on_cpu and quantization != "none"
        rows = self.row_bytes if on_cpu and quantization == "none" and dtype == torch.bfloat16 else 0
        return self.memory_bytes(dtype, quantization) + (self.memory_bytes(dtype) if beside else 0) + rows


def read_weights(folder: Path) -> Weights:
    """Counts parameters from the headers of a folder's safetensors files, or of a GGUF file; reads no weight.

    Raises ModelError for a file that is missing or cut short.
    """
    if gguf.is_gguf(folder):
        sizes = {name: (prod(shape), gguf.is_linear(name, shape)) for name, shape in gguf.tensor_shapes(folder).items()}
        quantizable = sum(size for size, linear in sizes.values() if linear)
        return Weights(
            sum(size for size, _ in sizes.values()), quantizable, gguf.cache_numbers(folder), read_whole=True
        )
    parameters = quantizable = 0
    shapes = {name: shape for file in weight_files(folder) for name, (_, shape) in safetensors_header(file).items()}
    has_scales = int8.file_names(folder) is not None
    for name, shape in shapes.items():
        if has_scales and name.endswith(int8.SCALE):
            continue
        parameters += prod(shape)
        if is_quantizable(name, shape):
            quantizable += prod(shape)
    return Weights(parameters, quantizable, cache_numbers(folder), row_bytes=_row_bytes(shapes) if has_scales else 0)


def _row_bytes(shapes: Mapping[str, list[int]]) -> int:
    """Of the int8 matrices that linear layers use, with a bfloat16 scale a row; a tied table is the head's too."""
    used = [name for name in shapes if name + int8.SCALE in shapes and len(shapes[name]) == 2]
    if any(name.endswith("lm_head.weight") for name in used):
        used = [name for name in used if "embed_tokens" not in name]
    return sum(prod(shapes[name]) + 2 * shapes[name][0] for name in used)


def cache_numbers(folder: Path) -> int:
    """Keys and values of one token in all layers, by config.json; 0 if it does not tell."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        heads = int(config["num_attention_heads"])
        head_size = config.get("head_dim") or int(config["hidden_size"]) // heads
        return 2 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * int(head_size)
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # the loader says what is wrong with it


def is_quantizable(name: str, shape: list[int]) -> bool:
    """Whether 8-bit and 4-bit loading shrink this tensor: weights of linear layers, not of embeddings or the head.

    A Mixtral's experts too, whether a file holds them one by one or stacked.
    """
    if name.endswith(STACKED_EXPERTS):
        return True
    return len(shape) == 2 and name.endswith(".weight") and not any(part in name for part in UNQUANTIZED_PARTS)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint, in order. Raises ModelError if there are none or shards are missing."""
    if gguf.is_gguf(folder):
        return [folder]
    shards = int8.file_names(folder) or _indexed_shards(folder)
    if shards:
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder} lacks {', '.join(missing)}, which belong to the model. Copy or download the model again."
            )
        return [folder / name for name in shards]
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    raise ModelError(
        f"{folder} has no model.safetensors (nor model.safetensors.index.json with its shards). Only safetensors "
        "weights are read: convert the checkpoint with save_pretrained."
    )


def _indexed_shards(folder: Path) -> list[str]:
    """The files that transformers' index of a checkpoint names; none without an index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{index} is damaged. Copy or download the model again.") from error


def safetensors_header(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Name → (dtype, shape) of every tensor in a safetensors file. Raises ModelError if the file is not whole."""
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            if length > 100_000_000:  # the format's own limit
                raise ValueError("the header is too long")
            header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        tensors = {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}
        expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if (size := file.stat().st_size) != expected:
            raise ValueError(f"it has {size:,} bytes instead of {expected:,}")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
        raise ModelError(
            f"{file} is not a whole safetensors file ({error}). Copy or download the model again."
        ) from error
    return tensors


def free_bytes(device: torch.device) -> int:
    """Free memory: of the GPU that the index names, of all GPUs together without an index, or of the machine.

    A container's own limit counts, where it is lower than the machine's free memory.
    """
    if device.type == "cuda":
        indices = range(torch.cuda.device_count()) if device.index is None else [device.index]
        return sum(torch.cuda.mem_get_info(index)[0] for index in indices)
    return min(int(psutil.virtual_memory().available), _container_free_bytes())


def _container_free_bytes() -> int:
    """What the control group (version 2 or 1) leaves; without a limit a number larger than any memory."""
    for folder, limit_name, used_name in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            limit = (Path(folder) / limit_name).read_text().strip()
            used = int((Path(folder) / used_name).read_text())
            statistics = (Path(folder) / "memory.stat").read_text()
        except (OSError, ValueError):
            continue
        if limit.isdecimal():
            # Pages of files that were read count as used until something needs the room.
            cached = sum(int(line.split()[1]) for line in statistics.splitlines() if line.startswith("inactive_file "))
            return max(0, int(limit) - used + cached)
    return 2**62


def gigabytes(n_bytes: float) -> str:
    """`14.5 GB`, in decimal units as on a data sheet."""
    return f"{n_bytes / 1e9:.1f} GB"
