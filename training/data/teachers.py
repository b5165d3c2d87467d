"""Vectors of open encoders for the texts of data files: computed once, kept on disk, looked up by text.

    <vectors_dir>/<digest>/    about.json, hashes.npy (sorted int64 [n]), vectors.npy (float16 [n, d], L2-normalised)

An encoder is a folder (of a GritLM, or of sentence-transformers), or a Python package that carries such a folder. A
GritLM reads instructions; other encoders read the text alone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from grit_app.gritlm import GritLM
from training.config import DistillConfig, TrainConfig, TrainError
from training.data.formats import ContrastiveSample, Dataset, Text, text_hash
from training.step.distributed import Ranks

TEXTS_AT_ONCE = 4096
"""Texts encoded between two writes to the disk."""

END_BYTES = 2**20
"""Of the beginning and the end of a weights file, which tell an encoder from another one."""


class EncoderError(TrainError):
    """A teacher or a miner is not there, or gives no vectors."""


class TextEncoder(Protocol):
    """Texts → vectors."""

    def encode(self, texts: Sequence[Text]) -> np.ndarray:
        """Float32 [n, d], L2-normalised."""
        ...


class GritEncoder:
    """A GritLM; it reads each text under its own instruction."""

    def __init__(self, folder: str, device: str) -> None:
        self.model = GritLM.from_pretrained(folder, device=device)

    def encode(self, texts: Sequence[Text]) -> np.ndarray:
        vectors = np.zeros((len(texts), self.model.hidden_size), dtype=np.float32)
        for instruction in sorted({text.instruction for text in texts}):
            rows = [row for row, text in enumerate(texts) if text.instruction == instruction]
            vectors[rows] = self.model.encode([texts[row].text for row in rows], instruction)
        return vectors


class SentenceEncoder:
    """A model of sentence-transformers; it reads texts without their instructions."""

    def __init__(self, folder: Path, device: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EncoderError(
                f"{folder} is a model of sentence-transformers. Install that package, or name a GritLM."
            ) from error
        self._model = SentenceTransformer(str(folder), device=None if device == "auto" else device)

    def encode(self, texts: Sequence[Text]) -> np.ndarray:
        found: Any = self._model.encode(
            [text.text for text in texts], normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(found, dtype=np.float32)


def encoder_folder(name: str) -> Path | None:
    """The folder that a path or a package's name stands for; None for neither."""
    if Path(name).is_dir():
        return Path(name)
    spec = find_spec(name.replace("-", "_")) if name.replace("-", "_").isidentifier() else None
    for place in (spec.submodule_search_locations or []) if spec else []:
        for marker in ("grit_config.json", "modules.json"):
            if found := sorted(Path(place).rglob(marker)):
                return found[0].parent
    return None


def open_encoder(name: str, device: str = "auto") -> TextEncoder:
    """The encoder of a folder, a package, or a hub name. Raises EncoderError or GritError with a sentence."""
    folder = encoder_folder(name)
    if folder is not None and (folder / "modules.json").is_file() and not (folder / "grit_config.json").is_file():
        return SentenceEncoder(folder, device)
    if folder is None and "/" not in name:
        raise EncoderError(
            f"{name} is neither a folder nor an installed package with an encoder. Install it, or name a folder."
        )
    return GritEncoder(str(folder or name), device)


class TeacherVectors:
    """Vectors of one teacher for one data file."""

    def __init__(self, folder: Path) -> None:
        self._hashes = np.load(folder / "hashes.npy")
        self._vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.width = int(self._vectors.shape[1])
        self.teacher = str(json.loads((folder / "about.json").read_text(encoding="utf-8"))["teacher"])

    def of(self, texts: Sequence[Text]) -> np.ndarray:
        """Float32 [n, width], L2-normalised. Raises EncoderError for a text that the file did not hold."""
        wanted = np.array([key(text) for text in texts], dtype=np.int64)
        rows = np.searchsorted(self._hashes, wanted)
        rows = np.minimum(rows, len(self._hashes) - 1)
        if not np.array_equal(self._hashes[rows], wanted):
            raise EncoderError(
                "The teacher's vectors are of another file. Remove distill.vectors_dir to have them made."
            )
        vectors = self._vectors[rows].astype(np.float32)
        return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


class Teachers:
    """The teachers of a run's files. Each teacher has a number, and columns of its own in the vectors."""

    def __init__(self, stores: dict[str, tuple[str, TeacherVectors]]) -> None:
        """stores   fingerprint of the file → (teacher, its vectors)"""
        self._stores = stores
        self._first: dict[str, int] = {}
        self.width = 0
        for teacher, store in stores.values():
            if teacher not in self._first:
                self._first[teacher] = self.width
                self.width += store.width
        self._numbers = {teacher: number for number, teacher in enumerate(self._first)}

    def vectors(self, files: Sequence[Dataset], texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor]:
        """([n, width] float32, [n] number of the teacher or −1) of texts from these files."""
        found = np.zeros((len(texts), self.width), dtype=np.float32)
        numbers = np.full(len(texts), -1, dtype=np.int64)
        for fingerprint in {file.fingerprint for file in files} & set(self._stores):
            teacher, store = self._stores[fingerprint]
            rows = [row for row, file in enumerate(files) if file.fingerprint == fingerprint]
            first = self._first[teacher]
            found[rows, first : first + store.width] = store.of([texts[row] for row in rows])
            numbers[rows] = self._numbers[teacher]
        return torch.from_numpy(found), torch.from_numpy(numbers)


def open_teachers(
    config: TrainConfig, datasets: Sequence[Dataset], ranks: Ranks, say: Callable[[str], None]
) -> Teachers | None:
    """The teachers that the contrastive files name; the first process computes what is missing. None: no file has one.

    Every process must call it.
    """
    taught = [d for d in datasets if d.file.teacher and d.kind == "contrastive"]
    if not taught or config.mode == "generative":
        return None
    folders = {dataset.fingerprint: vectors_folder(config.distill, dataset) for dataset in taught}
    failure = ""
    if ranks.is_main:
        try:
            for dataset in taught:
                if not folders[dataset.fingerprint].is_dir():
                    _compute(dataset, folders[dataset.fingerprint], say)
        except TrainError as error:
            failure = str(error)
    failure = ranks.shared(failure)
    if failure:
        raise EncoderError(failure)
    stores = {d.fingerprint: TeacherVectors(folders[d.fingerprint]) for d in taught}
    return Teachers({fingerprint: (store.teacher, store) for fingerprint, store in stores.items()})


def vectors_folder(config: DistillConfig, dataset: Dataset) -> Path:
    """Where the vectors of the file's teacher are, or will be. A teacher may be such a folder itself."""
    if (Path(dataset.file.teacher) / "vectors.npy").is_file():
        return Path(dataset.file.teacher)
    told = f"{teacher_identity(dataset.file.teacher)}/{dataset.fingerprint}/{len(dataset)}"
    return config.vectors_dir / hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def key(text: Text) -> int:
    """By what a text is found."""
    return text_hash(f"{text.instruction}\n{text.text}")


def teacher_identity(name: str) -> str:
    """Another string for another encoder: of its files' names and sizes, and of the ends of its weights."""
    folder = encoder_folder(name)
    if folder is None:
        return name
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors", ".bin"):
            digest.update(f"{path.name}:{path.stat().st_size}".encode())
            with path.open("rb") as file:
                digest.update(file.read(END_BYTES))
                file.seek(max(0, path.stat().st_size - END_BYTES))
                digest.update(file.read(END_BYTES))
    return digest.hexdigest()


def _compute(dataset: Dataset, folder: Path, say: Callable[[str], None]) -> None:
    texts: dict[int, Text] = {}
    for index in range(len(dataset)):
        sample = dataset[index]
        assert isinstance(sample, ContrastiveSample)
        for text in (sample.query, *sample.positives, *sample.negatives):
            if text.text.strip():
                texts.setdefault(key(text), text)
    hashes = np.array(sorted(texts), dtype=np.int64)
    encoder = open_encoder(dataset.file.teacher)
    temporary = folder.with_name(f"tmp-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    vectors: Any = None
    for start in range(0, len(hashes), TEXTS_AT_ONCE):
        some = encoder.encode([texts[int(number)] for number in hashes[start : start + TEXTS_AT_ONCE]])
        if vectors is None:
            shape = (len(hashes), some.shape[1])
            vectors = np.lib.format.open_memmap(temporary / "vectors.npy", "w+", np.float16, shape)
        vectors[start : start + len(some)] = some
    vectors.flush()
    np.save(temporary / "hashes.npy", hashes)
    about = {"teacher": dataset.file.teacher, "file": dataset.name, "texts": len(hashes), "width": shape[1]}
    (temporary / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    temporary.rename(folder)
    say(f"teacher {dataset.file.teacher}: {len(hashes)} vectors for {dataset.name} kept in {folder}")
