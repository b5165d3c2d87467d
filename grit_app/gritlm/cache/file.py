"""KV caches on disk: one safetensors file a text, written aside and renamed, never used unless its identity agrees.

    native   keys and values as computed: bit for bit what was saved
    int8     half of bfloat16's bytes, with a small error (kv_pack.py)
    int4     a fourth, with a larger one

On the CPU files are memory-mapped: loading costs nothing, and joining reads the bytes once.
"""

from __future__ import annotations

import logging
import uuid
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from grit_app.gritlm.cache.kv_cache import KVCache, Scales
from grit_app.gritlm.cache.pack import Scheme
from grit_app.gritlm.errors import InputError, ModelError

log = logging.getLogger(__name__)

FORMAT = "grit-kv-2"
"""Changes with the meaning of anything in the file: older files are then made anew."""


def save(cache: KVCache, path: Path, scheme: Scheme = "native", *, identity: str) -> None:
    """Writes `cache` to `path`: whole, or not at all.

    identity   must change whenever the numbers would: the model's identity, how the text was read, and its ids

    A process killed on the way leaves `.NAME.….tmp` beside it. A cache that is packed already stays so under any
    scheme. Raises OSError if the disk is full or not writable.
    """
    if scheme not in get_args(Scheme):
        raise InputError(f"A KV cache is stored as one of {', '.join(get_args(Scheme))}, not {scheme!r}.")
    stored = cache.packed(scheme)
    tensors = {"k": stored.keys, "v": stored.values, "ids": stored.ids.to(torch.int32)}
    if stored.scales:
        tensors |= {"k_scale": stored.scales.keys, "v_scale": stored.scales.values}
    metadata = {
        "format": FORMAT,
        "identity": identity,
        "header_length": str(cache.header_length),
        "attention": cache.attention,
        "start": str(cache.start),
        "dtype": str(cache.dtype).removeprefix("torch."),
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    metadata["checksum"] = _checksum(tensors, metadata)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        save_file(tensors, aside, metadata)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _checksum(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """CRC-32 of all that makes the cache. Tensors must be contiguous and on the CPU."""
    facts = sorted((name, value) for name, value in metadata.items() if name != "checksum")
    value = zlib.crc32(repr(facts).encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def load(path: Path, *, identity: str, verify: bool = True) -> KVCache | None:
    """The cache stored at `path`, mapped into memory, or None if it has to be made anew.

    That is: there is no file, it was made for another identity or by another version, or it is damaged. Deleting the
    file does not disturb a loaded cache.

    verify   compare the checksum, for which every byte is read now; without it a flipped byte is not noticed
    """
    # The library opens the path twice, for the header and for the numbers: a file that was replaced between the two is
    # read again.
    while True:
        before = _version(path)
        found = _load(path, identity, verify)
        if _version(path) == before:
            return found


def _version(path: Path) -> tuple[int, int] | None:
    """What tells a file from the one that replaces it."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def _load(path: Path, identity: str, verify: bool) -> KVCache | None:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT or metadata.get("identity") != identity:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if verify and metadata.get("checksum") != _checksum(tensors, metadata):
            raise ValueError("its checksum is another one")
        dtype: torch.dtype = getattr(torch, metadata["dtype"])
        scales = Scales(tensors["k_scale"], tensors["v_scale"], dtype) if "k_scale" in tensors else None
        return KVCache(
            keys=tensors["k"],
            values=tensors["v"],
            ids=tensors["ids"],
            header_length=int(metadata["header_length"]),
            attention=metadata["attention"],  # type: ignore[arg-type]  # KVCache checks it
            start=int(metadata["start"]),
            scales=scales,
        )
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, ModelError) as error:
        log.warning("The KV cache %s cannot be read (%s). It is made anew.", path.name, error)
        return None
