"""The durable truth: one folder a document, written aside and renamed, so that a killed process leaves whole ones only.

    DATA/lock                     held while a process uses the folder
    DATA/documents/ID/meta.json   name, kind, notes, which vectors count
                     /text.txt  pages.json  chunks.json
                     /vectors-….npy   float32 [chunks, dimension]
                     /original.pdf    the file itself, for pictures of its pages
                     /kv/             KV caches (see kv_store.py)
    DATA/documents/.new-…  .gone-…    unfinished or removed; swept when the store is opened

Vectors, keywords and caches can all be made again from text.txt and chunks.json.
"""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.chunking import Chunk
from grit_app.documents.document import Document, Page
from grit_app.errors import DocumentError

FORMAT = 1
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Stored:
    """A document as it is kept."""

    document: Document
    chunks: tuple[Chunk, ...]
    vectors: Vectors
    """[chunks, dimension]"""
    identity: str
    """Of what made the vectors: model, format, pooling."""
    added: float
    """Seconds since 1970."""
    source: Path | bytes
    """The original file, without encryption."""
    caches: Path | None = None
    """Folder of its KV caches; None where nothing is written to disk."""


class FolderStore:
    """Documents in a folder that one process at a time may use."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._documents = self.folder / "documents"
        try:
            for path in (self.folder, self._documents):
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(0o700)
            self._lock = _lock(self.folder / "lock")
        except OSError as error:
            raise DocumentError(f"The data folder {folder} cannot be used: {error.strerror or error}.") from error
        for leftover in sorted(self._documents.glob(".*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Lets another process use the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> list[Stored]:
        """All documents, in the order in which they came. A folder that makes no sense is left alone and skipped."""
        found = []
        for path in sorted(self._documents.glob("[!.]*")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.append(_load(path))
        return sorted(found, key=lambda s: (s.added, s.document.id))

    def write(
        self,
        document: Document,
        chunks: Sequence[Chunk],
        identity: str,
        source: Path,
        embed: Callable[[Path | None], Vectors],
    ) -> Stored:
        """Keeps a document. `embed` gives its vectors and may write KV caches into the folder it is handed."""
        aside = self._documents / f".new-{document.id}-{secrets.token_hex(4)}"
        final = self._documents / document.id
        try:
            (aside / "kv").mkdir(parents=True, mode=0o700)
            aside.chmod(0o700)
            original = aside / f"original.{_SUFFIX[document.kind]}"
            shutil.copyfile(source, original)
            _sync(original)
            _write(aside / "text.txt", document.text.encode())
            _write(aside / "pages.json", _json([asdict(page) for page in document.pages]))
            _write(aside / "chunks.json", _json([[c.start, c.stop, c.heading] for c in chunks]))
            name = _write_vectors(aside, embed(aside / "kv"))
            meta = {
                "format": FORMAT, "name": document.name, "sha256": document.sha256, "kind": document.kind,
                "notes": document.notes, "headings": document.headings, "added": time.time(),
                "identity": identity, "vectors": name,
            }  # fmt: skip
            _write(aside / "meta.json", _json(meta))
            _sync(aside)
            aside.rename(final)
            _sync(self._documents)
        except OSError as error:
            raise DocumentError(f"{document.name} could not be kept: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return _load(final)

    def replace_vectors(self, stored: Stored, vectors: Vectors, identity: str) -> Stored:
        """The document with new vectors: the file is written first, then meta.json says that it counts."""
        folder = self._documents / stored.document.id
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        old = meta["vectors"]
        meta |= {"vectors": _write_vectors(folder, vectors), "identity": identity}
        _write(folder / "meta.new", _json(meta))
        (folder / "meta.new").rename(folder / "meta.json")
        _sync(folder)
        if old != meta["vectors"]:
            (folder / old).unlink(missing_ok=True)
        return _load(folder)

    def remove(self, document_id: str) -> None:
        """Removes a document at once; its bytes follow."""
        gone = self._documents / f".gone-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            (self._documents / document_id).rename(gone)
            _sync(self._documents)
            shutil.rmtree(gone, ignore_errors=True)


class MemoryStore:
    """The same for a visitor whose documents never touch the disk."""

    def close(self) -> None: ...

    def load(self) -> list[Stored]:
        return []

    def write(
        self,
        document: Document,
        chunks: Sequence[Chunk],
        identity: str,
        source: Path,
        embed: Callable[[Path | None], Vectors],
    ) -> Stored:
        return Stored(document, tuple(chunks), embed(None), identity, time.time(), source.read_bytes())

    def replace_vectors(self, stored: Stored, vectors: Vectors, identity: str) -> Stored:
        return replace(stored, vectors=vectors, identity=identity)

    def remove(self, document_id: str) -> None: ...


# ---------------------------------------------------------------- files

_SUFFIX = {"pdf": "pdf", "text": "txt", "markdown": "md"}


def _lock(path: Path) -> int | None:
    """Holds the folder for this process, until it closes the returned descriptor or ends."""
    try:
        import fcntl
    except ImportError:  # Windows: the folder is trusted to its user
        return None
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DocumentError(
            f"The data folder {path.parent} is in use by another process. Close that one, or choose another folder "
            "with --data_dir."
        ) from None
    return descriptor


def _load(folder: Path) -> Stored:
    """Raises OSError, ValueError, KeyError or TypeError if the folder does not hold a whole document."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["format"] != FORMAT:
        raise ValueError(f"format {meta['format']}")
    pages = tuple(Page(**page) for page in json.loads((folder / "pages.json").read_text(encoding="utf-8")))
    document = Document(
        name=meta["name"],
        sha256=meta["sha256"],
        kind=meta["kind"],
        pages=pages,
        text=(folder / "text.txt").read_bytes().decode(),
        notes=tuple(meta["notes"]),
        headings=tuple((at, text) for at, text in meta["headings"]),
    )
    spans = json.loads((folder / "chunks.json").read_text(encoding="utf-8"))
    chunks = tuple(Chunk.of(document, index, *span) for index, span in enumerate(spans))
    vectors = np.load(folder / meta["vectors"], mmap_mode="r", allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != len(chunks):
        raise ValueError("vectors and chunks differ in number")
    source = folder / f"original.{_SUFFIX[document.kind]}"
    return Stored(document, chunks, vectors, meta["identity"], meta["added"], source, folder / "kv")


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _write_vectors(folder: Path, vectors: Vectors) -> str:
    name = f"vectors-{secrets.token_hex(4)}.npy"
    with (folder / name).open("wb") as file:
        np.save(file, np.asarray(vectors, dtype=np.float32), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    return name


def _sync(path: Path) -> None:
    """Makes a file, or the entries of a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
