"""Keeping a document: it is cut into chunks, these are embedded, and all is written together."""

import logging
import threading
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.chunking import chunk_document
from grit_app.documents.document import Document, Stage
from grit_app.documents.embedding import embed_chunks
from grit_app.documents.keep.kv_store import CacheStore, Key
from grit_app.documents.keep.memory_store import MemoryStore
from grit_app.documents.keep.store import FolderStore, Stored
from grit_app.documents.reports import Tell
from grit_app.errors import DocumentError
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.model import GritLM
from grit_app.gritlm.scheduler import Job

log = logging.getLogger(__name__)


class Keeper:
    """Writes documents into a store.

    identity      of what makes the vectors
    chunk_tokens  that a chunk has at most; may be changed
    """

    def __init__(
        self, model: GritLM, store: FolderStore | MemoryStore, caches: CacheStore, identity: str, chunk_tokens: int
    ) -> None:
        self._model = model
        self._store = store
        self._caches = caches
        self._identity = identity
        self.chunk_tokens = chunk_tokens

    def keep(
        self,
        document: Document,
        source: Path,
        tell: Tell,
        cancel: threading.Event | None = None,
        *,
        with_caches: bool = True,
        added: float | None = None,
    ) -> Stored:
        """The document as it is kept, in the place of an earlier reading, which stays if this raises.

        source       the file itself
        with_caches  also keep the KV caches that embedding leaves, while the byte budget lasts
        added        when it came, in seconds since 1970; None: now
        """
        chunks = chunk_document(document, self._model.prompts.count, self.chunk_tokens)
        in_memory: list[tuple[Key, KVCache]] = []

        def embed(kv_folder: Path | None) -> NDArray[np.float32]:
            vectors, made = embed_chunks(
                self._model,
                chunks,
                self._caches,
                kv_folder,
                partial(tell, "embedding"),
                cancel,
                with_caches=with_caches,
            )
            in_memory.extend(made)
            return vectors

        stored = self._store.write(
            document, chunks, self._identity, source, embed, chunk_tokens=self.chunk_tokens, added=added
        )
        for key, cache in in_memory:
            self._caches.put(key, cache)
        return stored

    def up_to_date(self, stored: Stored, cuts: bool = True) -> Stored:
        """The document as the settings cut it and the model embeds it now; its file is not read again.

        cuts   whether it may be cut anew: not where a person chose the length, and stopped before this one

        It happens when a visitor's page opens the library, and whoever asks something meanwhile comes first.
        """
        name = stored.document.name
        with Job("background").applies():
            if cuts and stored.chunk_tokens not in (0, self.chunk_tokens) and isinstance(stored.source, Path):
                log.info("%s has passages of up to %d tokens and is cut anew.", name, stored.chunk_tokens)
                try:
                    return self.keep(stored.document, stored.source, _nothing, with_caches=False, added=stored.added)
                except DocumentError as error:  # no space for it, perhaps: the passages are still good
                    log.warning("The passages of %s stay as they are: %s", name, error)
            if stored.identity == self._identity:
                return stored
            log.info("%s was embedded by another model and is embedded anew.", name)
            vectors = self._model.encode([chunk.text for chunk in stored.chunks])
            return self._store.replace_vectors(stored, vectors, self._identity)


def _nothing(stage: Stage, done: int, total: int) -> None:
    """Nobody watches."""
