"""Int8 checkpoints: a quarter of float32's bytes, in files small enough for a source repository.

    config.json              "grit_quantization": {"format": "int8-rows-1", "files": ["weights-1-of-3.safetensors", …]}
    weights-1-of-3…          NAME          int8 [rows, columns]: a table or the weight of a linear layer
                             NAME.scale    float32 [rows]
                             NAME          float32: what stays as it is (norms, biases)

A weight is its int8 value times the scale of its row. A row's scale is its largest magnitude / 127 (or / 120, see
`quantize`), so no value is off by more than half a scale. Weights are multiplied out while a model is loaded and then
computed with as any others.

The files have names of their own: a program that does not know the scales finds no weights instead of wrong ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from grit_app.gritlm.errors import ModelError

KEY: Final = "grit_quantization"
"""Entry of config.json by which such a folder is recognised."""

FORMAT: Final = "int8-rows-1"
SCALE: Final = ".scale"
LARGEST_FILE_BYTES: Final = 47_000_000

TOPS: Final = (127, 120)
"""What a row's largest magnitude becomes: usually, and where the row lies nearer to steps of the first kind."""

SAME, NEARER = 1e-3, 0.01
"""Root mean squares in steps: below which a row is exactly on them, and by which it lies nearer to one kind."""


def file_names(folder: Path) -> list[str] | None:
    """The names of a folder's int8 weight files in order; None if the folder is not an int8 checkpoint.

    Raises ModelError for a format that this program does not know.
    """
    try:
        entry = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(KEY)
    except (OSError, ValueError, AttributeError):
        return None  # `load_config` says what is wrong with it
    if entry is None:
        return None
    if not isinstance(entry, dict) or entry.get("format") != FORMAT or not isinstance(entry.get("files"), list):
        raise ModelError(
            f"{folder} holds weights in a form that this program does not know ({entry!r}); it knows {FORMAT!r}. "
            "Use the program version that the model came with."
        )
    names = [Path(str(name)).name for name in entry["files"]]
    if not names:
        raise ModelError(f"{folder / 'config.json'} names no weight files. Copy or download the model again.")
    return names


class Rows:
    """A quantised matrix on disk, read and multiplied out when it is indexed with `[...]`.

    That is how transformers reads a slice of a safetensors file: one tensor at a time is in memory twice.
    """

    def __init__(self, file: Any, name: str, dtype: torch.dtype) -> None:
        self.file, self.name, self.dtype = file, name, dtype

    def __getitem__(self, _: Any) -> Tensor:
        return dequantize(self.file.get_tensor(self.name), self.file.get_tensor(self.name + SCALE), self.dtype)


def lazy_state(files: Iterable[Path], dtype: torch.dtype) -> dict[str, Any]:
    """Name → a tensor in `dtype` once it is indexed with `[...]`, for `from_pretrained(None, state_dict=…)`."""
    state: dict[str, Any] = {}
    for path in files:
        file = safe_open(path, framework="pt", device="cpu")
        names = set(file.keys())
        for name in sorted(names):
            if name.removesuffix(SCALE) in names - {name}:
                continue
            state[name] = Rows(file, name, dtype) if name + SCALE in names else file.get_slice(name)
    return state


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Int8 [rows, columns] and float32 scales [rows] of a matrix [rows, columns]; stacked experts add an axis.

    A row that was trained on from int8 values is rounded to other steps than those it started from: what it learnt is
    often less than half a step, and the old steps would take it back (cosine of the served model's vectors to the
    trained ones 0.956, with other steps 0.999). A row that still is what it was stays exact.
    """
    exact = weight.detach().float()
    largest = exact.abs().amax(dim=-1)
    # A row of zeros has no scale of its own; any will do.
    largest = torch.where(largest > 0, largest, torch.full_like(largest, TOPS[0]))
    usual, other = (largest / top for top in TOPS)
    to_usual, to_other = _rounding(exact, usual), _rounding(exact, other)
    is_other = (to_other < SAME) | ((to_usual >= SAME) & (to_usual < to_other - NEARER))
    scale = torch.where(is_other, other, usual)
    return torch.round(exact / scale[..., None]).to(torch.int8), scale


def _rounding(exact: Tensor, scale: Tensor) -> Tensor:
    """[rows] root of the mean square of what rounding changes, in steps; 0.289 where values lie anywhere."""
    steps = exact / scale[..., None]
    return (steps - steps.round()).square().mean(dim=-1).sqrt()


def dequantize(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[rows, columns] in `dtype`, multiplied in float32 and rounded once."""
    return (values.float() * scale[..., None]).to(dtype)


def write(state: Mapping[str, Tensor], folder: Path, largest_file_bytes: int = LARGEST_FILE_BYTES) -> list[Path]:
    """Writes a state dict as int8 files into `folder` and names them in its config.json; gives the files.

    Matrices are quantised; all else is kept in float32. A file is larger than `largest_file_bytes` only if a single
    matrix is. Files of the same names are replaced; the folder should be one that nobody reads yet.
    """
    parts = list(_parts(state, largest_file_bytes))
    files = [folder / f"weights-{number}-of-{len(parts)}.safetensors" for number in range(1, len(parts) + 1)]
    for file, tensors in zip(files, parts, strict=True):
        save_file(tensors, file, {"format": FORMAT})
        file.chmod(0o644)  # safetensors writes files that only their owner can read
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config[KEY] = {"format": FORMAT, "files": [file.name for file in files]}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return files


def _parts(state: Mapping[str, Tensor], largest_file_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Tensors of one file each, in the order of the state. A matrix and its scales lie in one file."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, weight in state.items():
        entry = {name: weight.detach().float().contiguous()}
        if weight.ndim >= 2:
            entry = dict(zip((name, name + SCALE), quantize(weight), strict=True))
        needed = sum(tensor.nbytes for tensor in entry.values())
        if part and size + needed > largest_file_bytes:
            yield part
            part, size = {}, 0
        part |= entry
        size += needed
    if part:
        yield part
