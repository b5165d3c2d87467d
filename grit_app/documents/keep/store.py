"""The durable truth: one folder a document, written aside and renamed, so that a killed process leaves whole ones only.

    DATA/lock                     held while a process uses the folder
    DATA/choices.json             what was chosen for this folder: the length of its passages
    DATA/documents/ID/meta.json   name, kind, notes, which vectors count
                     /text.txt  pages.json  sections.json  tables.json  chunks.json  words.bin (places.py)
                     /vectors-….npy   float32 [chunks, dimension]
                     /original.pdf    the file itself, for pictures of its pages
                     /kv/             KV caches (see kv_store.py)
    DATA/documents/.new-…  .gone-…    unfinished or removed; swept when the store is opened
                  /.old-ID            an earlier reading whose place another is taking; comes back if that did not come

Vectors, keywords and caches can all be made again from text.txt and chunks.json.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.chunking import SHORTEST_PASSAGE, Chunk
from grit_app.documents.document import Document, Page, Section, Table
from grit_app.doors import make_usable
from grit_app.errors import DocumentError

log = logging.getLogger(__name__)

FORMAT = 2
READABLE = (1, 2)
"""Formats that are read as they are: 1 had no digests."""

UNTOLD_CHUNK_TOKENS = 200
"""Of documents that were kept before their chunks' length was noted: the default of the setting."""

CHOICES = "choices.json"

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
    chunk_tokens: int = 0
    """That its chunks were cut to; 0: they were given as they are."""


@dataclass(frozen=True)
class Damaged:
    """A document that is kept and cannot be read."""

    id: str
    name: str
    reason: str
    """A sentence."""


class FolderStore:
    """Documents in a folder that one process at a time may use."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._documents = self.folder / "documents"
        self._damaged: dict[str, Damaged] = {}
        make_usable(self.folder)
        try:
            self._documents.mkdir(exist_ok=True)
            self._documents.chmod(0o700)
            self._lock = lock_folder(self.folder / "lock")
            os.utime(self.folder / "lock")  # when the library was last opened
        except OSError as error:
            raise DocumentError(f"The data folder {folder} cannot be used: {error.strerror or error}.") from error
        for old in self._documents.glob(".old-*"):
            if not self._place_of(old).exists():
                old.rename(self._place_of(old))
        for leftover in sorted(self._documents.glob(".*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Lets another process use the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> list[Stored]:
        """All documents, in the order in which they came; those that cannot be read stand in `damaged`."""
        found = []
        for path in sorted(self._documents.glob("[!.]*")):
            try:
                found.append(_load(path))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
                self._damaged[path.name] = Damaged(path.name, _name_of(path), _why(error))
                log.warning("The document in %s cannot be read: %s.", path, error)
        return sorted(found, key=lambda s: (s.added, s.document.id))

    def damaged(self) -> list[Damaged]:
        """Documents that `load` could not read."""
        return list(self._damaged.values())

    def remove_damaged(self, document_id: str) -> None:
        """Removes one of `damaged`; nothing happens for any other id."""
        if self._damaged.pop(document_id, None):
            self.remove(document_id)

    def write(
        self,
        document: Document,
        chunks: Sequence[Chunk],
        identity: str,
        source: Path,
        embed: Callable[[Path | None], Vectors],
        *,
        chunk_tokens: int = 0,
        added: float | None = None,
    ) -> Stored:
        """Keeps a document, in the place of one with the same id: a damaged one, or one that was read otherwise.

        embed         gives its vectors and may write KV caches into the folder it is handed
        chunk_tokens  that the chunks were cut to; 0: they were given as they are
        added         when the document came, in seconds since 1970; None: now
        Raises DocumentError, or what `embed` raises; then what was there before is there still.
        """
        kept = {"chunk_tokens": chunk_tokens, "added": time.time() if added is None else added, "identity": identity}
        aside = self._documents / f".new-{document.id}-{secrets.token_hex(4)}"
        final = self._documents / document.id
        try:
            (aside / "kv").mkdir(parents=True, mode=0o700)
            aside.chmod(0o700)
            original = aside / f"original.{_suffix(document.kind)}"
            shutil.copyfile(source, original)
            _sync(original)
            _write(aside / "text.txt", document.text.encode())
            _write(aside / "pages.json", _json([asdict(page) for page in document.pages]))
            _write(aside / "words.bin", document.words)
            _write(aside / "tables.json", _json([asdict(table) for table in document.tables]))
            _write(aside / "sections.json", _json([asdict(section) for section in document.sections]))
            _write(aside / "chunks.json", _json([[c.start, c.stop, c.heading] for c in chunks]))
            vectors = embed(aside / "kv")
            try:
                _finish(aside, document, vectors, kept)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                log.warning("%s is kept without its KV caches: there is no space left for them.", document.name)
                for path in [*(aside / "kv").iterdir(), *aside.glob("vectors-*")]:
                    path.unlink()
                _finish(aside, document, vectors, kept)
            _sync(aside)
            self._put_in_place(aside, final)
            self._damaged.pop(document.id, None)
        except OSError as error:
            raise DocumentError(f"{document.name} could not be kept: {error.strerror or error}.") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return _load(final)

    def _put_in_place(self, new: Path, final: Path) -> None:
        """Renames a folder to where another may stand. A kill at any moment leaves one of them there."""
        old = final.with_name(f".old-{final.name}")
        shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            final.rename(old)
        try:
            new.rename(final)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                old.rename(final)
            raise
        _sync(self._documents)
        shutil.rmtree(old, ignore_errors=True)

    @staticmethod
    def _place_of(old: Path) -> Path:
        return old.with_name(old.name.removeprefix(".old-"))

    def replace_vectors(self, stored: Stored, vectors: Vectors, identity: str) -> Stored:
        """The document with new vectors: the file is written first, then meta.json says that it counts."""
        folder = self._documents / stored.document.id
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        old = meta["vectors"]
        meta |= {"vectors": _write_vectors(folder, vectors), "identity": identity, "format": FORMAT}
        _write(folder / "meta.new", _json(_sealed(meta, folder)))
        (folder / "meta.new").rename(folder / "meta.json")
        _sync(folder)
        if old != meta["vectors"]:
            (folder / old).unlink(missing_ok=True)
        return _load(folder)

    def chosen_chunk_tokens(self) -> int | None:
        """The length of passages that was chosen for this folder; None if none was, or the note of it is damaged."""
        try:
            chosen = json.loads((self.folder / CHOICES).read_text(encoding="utf-8"))["chunk_tokens"]
            return chosen if isinstance(chosen, int) and chosen >= SHORTEST_PASSAGE else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def choose_chunk_tokens(self, chunk_tokens: int) -> None:
        """Notes the length of passages for this and later openings of the folder."""
        new = self.folder / f"{CHOICES}.new"
        try:
            _write(new, _json({"chunk_tokens": chunk_tokens}))
            new.rename(self.folder / CHOICES)
        except OSError as error:
            raise DocumentError(f"The length of passages could not be kept: {error.strerror or error}.") from error

    def remove(self, document_id: str) -> None:
        """Removes a document at once; its bytes follow."""
        gone = self._documents / f".gone-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            (self._documents / document_id).rename(gone)
            _sync(self._documents)
            shutil.rmtree(gone, ignore_errors=True)


# ---------------------------------------------------------------- files


def _suffix(kind: str) -> str:
    return {"text": "txt", "markdown": "md"}.get(kind, kind)


def lock_folder(path: Path) -> int | None:
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
    if meta["format"] not in READABLE:
        raise ValueError(f"it has format {meta['format']}, of another version of this program")
    if meta["format"] > 1 and meta != _sealed(meta, folder):
        raise ValueError("its files are not as they were written")
    pages = tuple(Page(**page) for page in json.loads((folder / "pages.json").read_text(encoding="utf-8")))
    document = Document(
        name=meta["name"],
        sha256=meta["sha256"],
        kind=meta["kind"],
        pages=pages,
        text=(folder / "text.txt").read_bytes().decode(),
        notes=tuple(meta["notes"]),
        headings=tuple((at, text) for at, text in meta["headings"]),
        tables=tuple(map(Table.of, _read_json(folder / "tables.json", []))),
        words=(folder / "words.bin").read_bytes() if (folder / "words.bin").exists() else b"",
        code=tuple((start, stop) for start, stop in meta.get("code", [])),
        encoding=meta.get("encoding", ""),
        encoding_by=meta.get("encoding_by", "bytes"),
        sections=tuple(Section(**section) for section in _read_json(folder / "sections.json", [])),
    )
    spans = json.loads((folder / "chunks.json").read_text(encoding="utf-8"))
    chunks = tuple(Chunk.of(document, index, *span) for index, span in enumerate(spans))
    vectors = np.load(folder / meta["vectors"], mmap_mode="r", allow_pickle=False)
    if vectors.ndim != 2 or len(vectors) != len(chunks):
        raise ValueError("vectors and chunks differ in number")
    source = folder / f"original.{_suffix(document.kind)}"
    chunk_tokens = meta.get("chunk_tokens", UNTOLD_CHUNK_TOKENS)
    return Stored(document, chunks, vectors, meta["identity"], meta["added"], source, folder / "kv", chunk_tokens)


def _finish(folder: Path, document: Document, vectors: Vectors, kept: dict[str, Any]) -> None:
    """Writes what comes after the text: vectors, and meta.json as the last. `kept`: more entries for meta.json."""
    meta = {
        "format": FORMAT,
        "name": document.name,
        "sha256": document.sha256,
        "kind": document.kind,
        "notes": document.notes,
        "headings": document.headings,
        "code": document.code,
        "encoding": document.encoding,
        "encoding_by": document.encoding_by,
        "vectors": _write_vectors(folder, vectors),
    }
    meta |= kept
    _write(folder / "meta.json", _json(_sealed(meta, folder)))


def _sealed(meta: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`meta` with digests of the files that make a document, and of itself: a byte that flips is noticed."""
    plain = {key: value for key, value in meta.items() if key not in ("digests", "seal")}
    names = ("text.txt", "pages.json", "chunks.json", meta["vectors"])
    plain["digests"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    plain = json.loads(_json(plain))  # tuples as they come back
    return plain | {"seal": hashlib.sha256(_json(plain)).hexdigest()}


def _name_of(folder: Path) -> str:
    """What people call the document, if that can still be read."""
    try:
        return str(json.loads((folder / "meta.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return "A document"


def _why(error: Exception) -> str:
    told = str(error) if isinstance(error, ValueError) and str(error).startswith("it") else "a file is damaged"
    return f"Cannot be read any more ({told}). Remove it, or add the file again."


def _read_json(path: Path, otherwise: Any) -> Any:
    """What the file holds, which earlier versions did not write."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise


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
