"""The same index in a Chroma server, for collections that outgrow one machine: `--vectors http://host:8000`.

As with Chroma's own files the store is the truth: a collection that does not fit it is made anew.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import chromadb
import httpx
from chromadb.config import Settings
from chromadb.errors import ChromaError

from grit_app.documents.keep.index import VectorIndex, Vectors
from grit_app.errors import DocumentError


def open_index(folder: Path | None, identity: str, server: str | None = None) -> VectorIndex:
    """The index of a library in `folder` (None: one that is not kept), here or in a Chroma server."""
    return VectorIndex(folder, identity) if server is None else ServerIndex(server, folder, identity)


class ServerIndex(VectorIndex):
    """A collection of the library's own. Every method raises DocumentError if the server does not do as asked."""

    def __init__(self, server: str, folder: Path | None, identity: str) -> None:
        self._server, self._folder, self._identity = server, folder, identity
        address = urlsplit(server)
        # A library is known by its machine and folder: another machine may have the same folder.
        known = f"{uuid.getnode()}:{folder.resolve()}" if folder is not None else uuid.uuid4().hex
        self._name = f"library-{hashlib.sha256(known.encode()).hexdigest()[:40]}"
        with self._answering():
            self._client = chromadb.HttpClient(
                host=address.hostname or "localhost",
                port=address.port or (443 if address.scheme == "https" else 80),
                ssl=address.scheme == "https",
                settings=Settings(anonymized_telemetry=False),
            )
            self._collection = self._open()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, ChromaError, ValueError) as error:
            raise DocumentError(
                f"The vector server at {self._server} did not do what it was asked ({type(error).__name__}). Start it, "
                "or start the app without --vectors."
            ) from error

    def matches(self, ids: Iterable[str]) -> bool:
        with self._answering():
            return super().matches(ids)

    def rebuild(self, documents: Iterable[tuple[str, Sequence[str], Vectors]]) -> None:
        with self._answering():
            super().rebuild(documents)

    def add(self, document_id: str, ids: Sequence[str], vectors: Vectors) -> None:
        with self._answering():
            super().add(document_id, ids, vectors)

    def remove(self, document_id: str) -> None:
        with self._answering():
            super().remove(document_id)

    def nearest(self, vector: Vectors, count: int, documents: Sequence[str] | None = None) -> list[str]:
        with self._answering():
            return super().nearest(vector, count, documents)

    def close(self) -> None:
        """Leaves a kept library's collection; one that was in memory goes."""
        if self._folder is None:
            with self._answering():
                self._client.delete_collection(self._name)
