"""The vector index: Chroma, as a by-product of the store that may be thrown away at any time.

Chroma 1.5.9 was seen to leave an unreadable store, and once to crash on reopening, after its process was killed; and
deleting a collection leaves deleted rows on the disk. So it gets ids and vectors alone, no text; a mark says that it is
in use, and where the mark is found at opening, or the collection does not fit the store, it is made anew.
"""

import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
from chromadb.config import Settings
from numpy.typing import NDArray

logging.getLogger("chromadb").setLevel(logging.ERROR)

Vectors = NDArray[np.float32]


class VectorIndex:
    """Cosine neighbours of chunks. Not thread-safe: its library guards it.

    folder     where Chroma keeps its files; None: in memory
    identity   of what made the vectors; an index that was made by something else is dropped
    """

    def __init__(self, folder: Path | None, identity: str) -> None:
        self._identity = identity
        self._folder = folder
        settings = Settings(anonymized_telemetry=False, allow_reset=False)
        if folder is None:
            # In-memory clients of one process share one database, so each library has a collection of its own name.
            self._client: Any = chromadb.EphemeralClient(settings)
            self._name = f"library-{uuid.uuid4().hex}"
        else:
            self._mark = folder.parent / "index-in-use"
            if self._mark.exists():
                shutil.rmtree(folder, ignore_errors=True)
            self._mark.touch()
            folder.mkdir(mode=0o700, exist_ok=True)
            self._client = chromadb.PersistentClient(str(folder), settings)
            self._name = "chunks"
        self._collection: Any = self._open()

    def _open(self) -> Any:
        collection = self._client.get_or_create_collection(
            self._name,
            embedding_function=None,
            configuration={"hnsw": {"space": "cosine"}},
            metadata={"identity": self._identity},
        )
        if (collection.metadata or {}).get("identity") != self._identity:
            self._client.delete_collection(self._name)
            return self._open()
        return collection

    def matches(self, ids: Iterable[str]) -> bool:
        """True if the index holds exactly these chunks."""
        return set(self._collection.get(include=[])["ids"]) == set(ids)

    def rebuild(self, documents: Iterable[tuple[str, Sequence[str], Vectors]]) -> None:
        """Drops everything and adds (document id, chunk ids, vectors) anew."""
        self._client.delete_collection(self._name)
        self._collection = self._open()
        for document_id, ids, vectors in documents:
            self.add(document_id, ids, vectors)

    def add(self, document_id: str, ids: Sequence[str], vectors: Vectors) -> None:
        step = self._client.get_max_batch_size()
        for at in range(0, len(ids), step):
            part = list(ids[at : at + step])
            rows = np.array(vectors[at : at + step], dtype=np.float32)
            self._collection.upsert(part, embeddings=rows, metadatas=[{"document": document_id}] * len(part))

    def remove(self, document_id: str) -> None:
        self._collection.delete(where={"document": document_id})

    def nearest(self, vector: Vectors, count: int, documents: Sequence[str] | None = None) -> list[str]:
        """Ids of the chunks nearest to a vector, nearest first; of these documents only, where some are named."""
        count = min(count, self._collection.count())
        if count == 0 or (documents is not None and not documents):
            return []
        where = None if documents is None else {"document": {"$in": list(documents)}}
        query = np.asarray(vector, dtype=np.float32)[None]
        found = self._collection.query(query_embeddings=query, n_results=count, where=where, include=[])
        return [str(i) for i in found["ids"][0]]

    def close(self) -> None:
        """Closes the index and notes that it is whole. Without that note it is rebuilt when it is opened again."""
        if self._folder is None:
            self._client.delete_collection(self._name)
            self._client.close()
            return
        self._client.close()
        self._mark.unlink(missing_ok=True)
        descriptor = os.open(self._mark.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
