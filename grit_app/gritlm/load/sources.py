"""Where weights come from: a folder, the hub's cache on this machine, or the hub. And what identifies them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from grit_app.gritlm.errors import ModelError
from grit_app.gritlm.grit_config import FILE_NAME as GRIT_CONFIG
from grit_app.gritlm.load import gguf
from grit_app.gritlm.load.size import Weights, is_quantizable, weight_files

WANTED_FILES: Final = [
    "config.json",
    "generation_config.json",
    GRIT_CONFIG,
    "tokenizer*",
    "special_tokens_map.json",
    "*.safetensors*",
]
"""What a model needs. The published repositories also hold code, and the weights a second time as .bin: not fetched."""

HASHED_WHOLE_BYTES: Final = 100_000_000
SAMPLES, SAMPLE_BYTES = 64, 65_536


def find_folder(name_or_path: str | Path, local_only: bool = False) -> Path:
    """The folder that holds a model: the given one, the cached copy of a hub model, or a fresh download.

    A GGUF file stands for a folder, here and wherever a folder is taken.

    Raises ModelError, saying which of these failed.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{path} is not a model folder: it has no config.json.")
        weight_files(path)
        return path
    if gguf.is_gguf(path) and path.is_file():
        return path
    name = str(name_or_path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or path.is_absolute():
        raise ModelError(f"There is no model folder {name!r}, and it is not a hub name of the form owner/model either.")
    cached = cached_folder(name)
    if cached is not None:
        return cached
    if local_only:
        raise ModelError(f"{name} is not on this machine. Allow downloading it, or name a folder.")
    return _download(name)


def cached_folder(name: str) -> Path | None:
    """The complete copy of a hub model in this machine's cache, or None."""
    try:
        folder = Path(huggingface_hub.snapshot_download(name, local_files_only=True, allow_patterns=WANTED_FILES))
        weight_files(folder)
    except (LocalEntryNotFoundError, ModelError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _download(name: str) -> Path:
    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=WANTED_FILES))
        weight_files(folder)  # without a network, huggingface_hub gives an incomplete folder rather than an error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {name!r} that may be read from here. Check the name, or log in with `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ModelError) as error:
        raise ModelError(
            f"{name} is not on this machine and could not be downloaded ({type(error).__name__}). Check the network "
            "and the free disk space, or name a folder with --model."
        ) from error
    return folder


def remote_weights(name: str) -> Weights | None:
    """What a hub model that is not on this machine holds; None if the hub cannot be asked."""
    try:
        metadata = huggingface_hub.get_safetensors_metadata(name)
    except Exception:  # the hub, the network and the repository each fail in ways of their own, and None covers all
        return None
    tensors = [(key, info) for file in metadata.files_metadata.values() for key, info in file.tensors.items()]
    return Weights(
        parameters=sum(info.parameter_count for _, info in tensors),
        quantizable=sum(info.parameter_count for key, info in tensors if is_quantizable(key, list(info.shape))),
    )


def fingerprint(folder: Path) -> str:
    """Hash of configuration, tokenizer and weights: the same content gives the same value wherever it lies.

    Weight files of up to 100 MB are read whole. Larger ones are known by the name that the hub's cache gives them (the
    SHA-256 of their content), or else by size, header and 64 samples spread over the file: a different training run
    changes every one of them, and a read of 14 GB at each start would cost minutes.
    """
    digest = hashlib.sha256()
    names = ("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json")
    settings = [folder.parent / "tokenizer.json"] if gguf.is_gguf(folder) else [folder / name for name in names]
    for file in [*(path for path in settings if path.is_file()), *weight_files(folder)]:
        digest.update(f"{file.name}\0{_file_hash(file)}\n".encode())
    return digest.hexdigest()


def _file_hash(file: Path) -> str:
    target = file.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    size = target.stat().st_size
    with target.open("rb") as handle:
        if size <= HASHED_WHOLE_BYTES:
            return hashlib.file_digest(handle, "sha256").hexdigest()
        digest = hashlib.sha256(f"samples:{size}".encode())
        header_bytes = int.from_bytes(handle.read(8), "little")
        digest.update(handle.read(min(header_bytes, HASHED_WHOLE_BYTES)))
        for number in range(SAMPLES):
            handle.seek((size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(handle.read(SAMPLE_BYTES))
    return digest.hexdigest()
