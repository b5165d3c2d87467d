"""One visitor's documents: add, search, list, remove, clear.

    library = Library(model, Path("data"))           # or Library(model, None): nothing touches the disk
    for report in library.add([Path("report.pdf")]): print(report.name, report.state, report.reason)
    hits = library.search(question_vector, "How many schools took part?", k=3)

The store is the truth; the indices of vectors and keywords are made from it. How passages are scored: fusion.py.
"""

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from chromadb.errors import ChromaError, InternalError
from numpy.typing import NDArray

from grit_app.documents.chunking import SHORTEST_PASSAGE, Chunk, of_passages
from grit_app.documents.document import Document, Limits
from grit_app.documents.keep.fusion import Hit, Mode, cosine, fuse
from grit_app.documents.keep.index import VectorIndex
from grit_app.documents.keep.keywords import KeywordIndex, tokens
from grit_app.documents.keep.kv_store import CacheStore, hot_bytes_on
from grit_app.documents.keep.memory_store import MemoryStore
from grit_app.documents.keep.server_index import open_index
from grit_app.documents.keep.store import Damaged, FolderStore, Stored
from grit_app.documents.keeping import Keeper
from grit_app.documents.passage_caches import PassageCaches
from grit_app.documents.read.reading import id_of_file, read_document
from grit_app.documents.read.text.languages import known_encoding
from grit_app.documents.reports import DocumentInfo, FileReport, Progress, Tell, telling
from grit_app.doors import shown
from grit_app.errors import Cancelled, DocumentError, GritError, InputError
from grit_app.gritlm.cache.pack import Scheme
from grit_app.gritlm.model import GritLM

__all__ = ["DocumentInfo", "FileReport", "Hit", "Library", "Mode", "Progress"]

log = logging.getLogger(__name__)

CANDIDATES = 50  # of each index, before fusion


class Library(PassageCaches):
    """Safe to use from several threads; adding files is one at a time.

    folder               where documents live; None: in memory, for anonymous visitors
    cache_budget_bytes   for KV caches, 0: none are kept; in memory at most 128 MiB
    chunk_tokens         longest passage, unless another length was chosen for the folder (`cut_anew`)
    Raises DocumentError if the folder cannot be used, or is in use by another process.
    """

    def __init__(
        self,
        model: GritLM,
        folder: Path | None = None,
        limits: Limits | None = None,
        cache_budget_bytes: int = 1 << 30,
        *,
        chunk_tokens: int = 200,
        cache_scheme: Scheme = "native",
        vectors: str | None = None,
    ) -> None:
        self.model = model
        self.limits = limits or Limits()
        config = model.config
        self.identity = (
            f"{model.identity}/{config.prompt_version}/{config.attention}/{config.pooling}/{config.normalized}"
        )
        self.caches = CacheStore(
            model.identity,
            cache_budget_bytes,
            hot_bytes_on(model.device),
            on_disk=folder is not None,
            scheme=cache_scheme,
            memory=model.memory,
        )
        self._vectors = vectors
        self._adding = threading.Lock()
        self._lock = threading.RLock()
        self._stored: dict[str, Stored] = {}
        self._rows: list[Chunk] = []
        self._row_of: dict[str, int] = {}
        self._terms: dict[str, list[list[str]]] = {}
        self._keywords: KeywordIndex | None = None
        self._closed = False
        self._store: FolderStore | MemoryStore = MemoryStore(model.memory) if folder is None else FolderStore(folder)
        chosen = self._store.chosen_chunk_tokens()
        self.chunk_tokens = chosen or chunk_tokens
        self._keeper = Keeper(model, self._store, self.caches, self.identity, self.chunk_tokens)
        try:
            for stored in self._store.load():
                self._take_up(self._keeper.up_to_date(stored, cuts=chosen is None))
            self._renumber()
            self._index = self._open_index(None if folder is None else Path(folder) / "index")
        except BaseException:
            self._store.close()
            raise

    def _open_index(self, folder: Path | None) -> VectorIndex:
        """The index of what is stored; in memory where the disk has no room for it, since it can be made again."""
        try:
            index = open_index(folder, f"{self.identity}/{self.chunk_tokens}", self._vectors)
            if not index.matches(self._row_of):
                index.rebuild((i, [c.id for c in stored.chunks], stored.vectors) for i, stored in self._stored.items())
            return index
        except (ChromaError, InternalError, OSError) as error:
            if folder is None:
                raise
            log.warning("The vector index cannot be kept on disk, so it is kept in memory: %s", error)
            return self._open_index(None)

    def _register(self, stored: Stored) -> None:
        """Makes a stored document part of lists and searches."""
        self._take_up(stored)
        self._renumber()

    def _take_up(self, stored: Stored) -> None:
        """The same, before all are numbered."""
        document_id = stored.document.id
        self.caches.open_document(document_id, stored.caches)
        self._terms[document_id] = [tokens(f"{chunk.heading}\n{chunk.text}") for chunk in stored.chunks]
        self._stored[document_id] = stored

    def _renumber(self) -> None:
        self._rows = [chunk for stored in self._stored.values() for chunk in stored.chunks]
        self._row_of = {chunk.id: row for row, chunk in enumerate(self._rows)}
        self._keywords = None

    def add(
        self,
        paths: Sequence[Path],
        password: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
        *,
        names: Sequence[str] | None = None,
        with_caches: bool = True,
        ocr_pages: int | None = None,
        encoding: str | None = None,
    ) -> list[FileReport]:
        """Reads, embeds and keeps files; one report a file, in order. A file that cannot be used stops no other.

        A file that is here already is read again where OCR may read more of it, or where it is a text file and another
        encoding is chosen; its earlier reading stays until then, and where the new one fails.

        names        what people call the files, where that is not the last part of the path
        with_caches  also keep the KV caches that embedding leaves, while the byte budget lasts
        ocr_pages    scanned pages that OCR may read of each file; None: as the limits say
        encoding     of text files, where a person chose it; None: found from their bytes
        """
        limits = self.limits if ocr_pages is None else replace(self.limits, ocr_pages=ocr_pages)
        with contextlib.suppress(LookupError):  # one that does not exist is told for each file
            encoding = encoding and known_encoding(encoding)
        reports: list[FileReport] = []
        called = [shown(name) for name in names or [Path(path).name for path in paths]]
        for number, (path, name) in enumerate(zip(paths, called, strict=True)):
            tell = telling(progress, number, len(called), name)
            if cancel is not None and cancel.is_set():
                reports.append(FileReport(name, "cancelled", f"{name} was not read: stopped before."))
                continue
            try:
                with self._adding:
                    reports.append(
                        self._add_one(Path(path), name, password, limits, encoding, tell, cancel, with_caches)
                    )
            except Cancelled:
                reports.append(FileReport(name, "cancelled", f"{name} was not kept: stopped while it was read."))
            except GritError as error:
                reports.append(FileReport.failed(name, error))
        return reports

    def _add_one(
        self,
        path: Path,
        name: str,
        password: str | None,
        limits: Limits,
        encoding: str | None,
        tell: Tell,
        cancel: threading.Event | None,
        with_caches: bool,
    ) -> FileReport:
        known = self._stored.get(id_of_file(path, limits))
        if known is not None and not known.document.gains(limits.ocr_pages, encoding):
            return FileReport.duplicate(known, name)
        with tempfile.TemporaryDirectory(prefix="grit-") as scratch:
            plain = Path(scratch) / "plain.pdf"
            document = read_document(
                path, name, password, limits, tell, cancel=cancel, plain_copy=plain, encoding=encoding
            )
            if known is not None and known.document.scanned and document.scanned >= known.document.scanned:
                return FileReport.duplicate(known, name)
            if known is None and len(self._stored) >= self.limits.max_documents:
                raise DocumentError(
                    f"{name} was not added: {limits.max_documents} documents are the limit. Remove one first."
                )
            source = plain if plain.exists() else path
            stored = self._keep(document, source, known, tell, cancel, with_caches)
        return FileReport.of(stored, "ready", " ".join(document.notes), name)

    def _keep(
        self,
        document: Document,
        source: Path,
        known: Stored | None,
        tell: Tell,
        cancel: threading.Event | None,
        with_caches: bool = True,
    ) -> Stored:
        """Cuts, embeds, keeps and lists a document. `known`: what it takes the place of, which stays if this raises."""
        self.caches.close_document(document.id)
        try:
            added = None if known is None else known.added
            stored = self._keeper.keep(document, source, tell, cancel, with_caches=with_caches, added=added)
        except BaseException:
            if known is not None and document.id in self._stored:
                self.caches.open_document(document.id, known.caches)
            raise
        with self._lock:
            if known is not None and document.id not in self._stored:
                self.caches.close_document(document.id)
                self._store.remove(document.id)
                raise DocumentError(f"{document.name} was removed while it was read anew.")
            try:
                self._index.remove(document.id)
                self._index.add(document.id, [chunk.id for chunk in stored.chunks], stored.vectors)
                self._register(stored)
            except (ChromaError, InternalError, OSError) as error:
                log.warning("The vector index cannot be kept on disk, so it is kept in memory: %s", error)
                self._register(stored)
                self._index = self._open_index(None)
        return stored

    def cut_anew(
        self,
        chunk_tokens: int,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> list[FileReport]:
        """Cuts all documents, and those to come, into passages of at most so many tokens; one report for each changed.

        The length is kept with the folder. Documents that are not reached keep their passages until the next call.
        Raises InputError for less than SHORTEST_PASSAGE.
        """
        if chunk_tokens < SHORTEST_PASSAGE:
            raise InputError(f"Passages need at least {SHORTEST_PASSAGE} tokens, not {chunk_tokens}.")
        self._store.choose_chunk_tokens(chunk_tokens)
        self.chunk_tokens = self._keeper.chunk_tokens = chunk_tokens
        waiting = [known for known in list(self._stored.values()) if known.chunk_tokens not in (0, chunk_tokens)]
        return [
            self._cut_one(known, telling(progress, number, len(waiting), known.document.name), cancel)
            for number, known in enumerate(waiting)
        ]

    def _cut_one(self, known: Stored, tell: Tell, cancel: threading.Event | None) -> FileReport:
        name = known.document.name
        try:
            if cancel is not None and cancel.is_set():
                raise Cancelled
            with self._adding, tempfile.NamedTemporaryFile(prefix="grit-") as copy:
                source = known.source if isinstance(known.source, Path) else Path(copy.name)
                if isinstance(known.source, bytes):
                    source.write_bytes(known.source)
                return FileReport.of(self._keep(known.document, source, known, tell, cancel), "ready", "", name)
        except Cancelled:
            return FileReport(name, "cancelled", f"{name} keeps its passages: stopped before.")
        except GritError as error:
            return FileReport.failed(name, error)

    def add_passages(
        self, documents: Mapping[str, Sequence[str]], vectors: NDArray[np.float32] | None = None
    ) -> list[str]:
        """Keeps documents, given by name as their passages, and gives their ids; equal documents are one.

        For texts that a program has in hand: nothing is read from files, cleaned or cut, and no cache is kept.
        vectors   [all passages, dimension]; None: embedded now, many in a forward
        """
        texts = [text for passages in documents.values() for text in passages]
        rows = iter(self.model.encode(texts) if vectors is None else vectors)
        with self._adding:
            return [
                self._add_passages(name, passages, np.stack([next(rows) for _ in passages]))
                for name, passages in documents.items()
            ]

    def _add_passages(self, name: str, passages: Sequence[str], vectors: NDArray[np.float32]) -> str:
        document, chunks = of_passages(name, passages)
        if document.id not in self._stored:
            with tempfile.NamedTemporaryFile("w", prefix="grit-", encoding="utf-8") as source:
                source.write(document.text)
                source.flush()
                stored = self._store.write(document, chunks, self.identity, Path(source.name), lambda _: vectors)
            with self._lock:
                self._index.add(document.id, [chunk.id for chunk in chunks], stored.vectors)
                self._register(stored)
        return document.id

    def documents(self) -> list[DocumentInfo]:
        """All documents, oldest first."""
        with self._lock:
            return [DocumentInfo.of(stored, self.caches.bytes(i)) for i, stored in self._stored.items()]

    @property
    def is_empty(self) -> bool:
        """Whether there is no document."""
        return not self._stored and not self.damaged()

    def damaged(self) -> list[Damaged]:
        """Documents that are kept and cannot be read any more: to be removed, or added again."""
        return self._store.damaged()

    def document(self, document_id: str) -> Document:
        """The stored text with its pages. Raises DocumentError if it is not here any more."""
        return self._get(document_id).document

    def chunks(self, document_id: str) -> tuple[Chunk, ...]:
        """The document's chunks from its beginning."""
        return self._get(document_id).chunks

    def source(self, document_id: str) -> Path | bytes:
        """The original file, for pictures of its pages; an encrypted PDF is kept without its encryption."""
        return self._get(document_id).source

    def _get(self, document_id: str) -> Stored:
        with self._lock:
            if document_id not in self._stored:
                raise DocumentError("This document is not in the library any more. Upload it again.")
            return self._stored[document_id]

    def remove(self, document_id: str) -> None:
        """Removes a document with its vectors and caches; nothing happens if it is not here."""
        with self._lock:
            if self._stored.pop(document_id, None) is None:
                self._store.remove_damaged(document_id)
                return
            del self._terms[document_id]
            self.caches.close_document(document_id)
            self._store.remove(document_id)
            self._index.remove(document_id)
            self._renumber()

    def clear(self) -> None:
        """Removes all documents."""
        for document_id in [*self._stored, *(one.id for one in self.damaged())]:
            self.remove(document_id)

    def close(self) -> None:
        """Frees the index and the folder; documents in memory are gone. May be called twice."""
        with self._adding, self._lock:
            if self._closed:
                return
            self._closed = True
            self._index.close()
            self._store.close()
            for document_id in list(self._stored):
                self.caches.close_document(document_id)
            self._stored, self._terms = {}, {}
            self._renumber()

    def search(
        self,
        vector: NDArray[np.float32],
        text: str,
        k: int,
        documents: Sequence[str] | None = None,
        mode: Mode = "hybrid",
    ) -> list[Hit]:
        """The k best passages for a question, given as its embedding and its words; best first.

        documents   ids of those to search; None: all
        Equal scores come in the order of documents and places, so the same question has the same answer.
        """
        with self._lock:
            allowed = None if documents is None else [i for i in documents if i in self._stored]
            if not self._rows or k < 1 or allowed == []:
                return []
            depth = max(CANDIDATES, 2 * k)
            near = [] if mode == "keywords" else self._index.nearest(vector, depth, allowed)
            if self._keywords is None:
                self._keywords = KeywordIndex([terms for i in self._stored for terms in self._terms[i]])
            rows, keywords = self._rows, self._keywords
            vectors = {i: stored.vectors for i, stored in self._stored.items()}
            by_vector = [self._row_of[i] for i in near if i in self._row_of]
        words = np.zeros(len(rows), dtype=np.float32) if mode == "vectors" else keywords.scores(text)
        if allowed is not None:
            words[[row for row, chunk in enumerate(rows) if chunk.document_id not in allowed]] = 0
        by_words = [int(row) for row in np.argsort(-words, kind="stable")[:depth] if words[row] > 0]
        candidates = sorted({*by_vector, *by_words})
        cosines = {r: cosine(vectors[rows[r].document_id][rows[r].index], vector) for r in candidates}
        ranked = fuse(cosines, {r: float(words[r]) for r in candidates}, k, mode, self.model.config.vector_weight)
        return [Hit(rows[row], *scores) for row, scores in ranked]
