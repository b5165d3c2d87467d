"""The KV caches of a library's passages: taken from where they are kept, or made."""

import threading
from collections.abc import Callable, Sequence
from typing import Literal

from grit_app.documents.chunking import Chunk
from grit_app.documents.embedding import BIDIRECTIONAL
from grit_app.documents.keep.kv_store import Attention, CacheStore, Key
from grit_app.documents.keep.store import Stored
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.model import GritLM


class PassageCaches:
    """What a library is to those who need keys and values of its passages; the library itself sets the fields."""

    model: GritLM
    caches: CacheStore
    _rows: list[Chunk]
    _stored: dict[str, Stored]
    _closed: bool

    def cache_for(
        self,
        chunk: Chunk,
        attention: Attention = "bidirectional",
        ids: Sequence[int] | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[KVCache, Literal["hot", "warm", "built"]]:
        """A chunk's keys and values: from memory (hot), from disk (warm), or computed now and kept (built).

        bidirectional   as the embedding pass leaves them, with the embed header
        causal          of `ids`
        ids             of the chunk as it is read; None: in the embed format
        cancel          an event; once it is set, Cancelled is raised while the cache is computed
        """
        expected = list(self.model.prompts.embed(chunk.text).ids if ids is None else ids)
        key: Key = (chunk.id, attention)
        found = self.caches.get(key, expected)
        if found is not None:
            return found
        if attention == "causal":
            cache = self.model.causal_cache(expected, cancel)
        else:
            encoding = next(iter(self.model.encode_iter([chunk.text], return_cache=True, cancel=cancel)))
            assert encoding.cache is not None
            cache = encoding.cache
        return self.caches.put(key, cache), "built"

    def missing_caches(self) -> list[Chunk]:
        """Chunks whose bidirectional cache is not kept."""
        return [chunk for chunk in list(self._rows) if not self.caches.has((chunk.id, BIDIRECTIONAL))]

    def build_caches(
        self, progress: Callable[[int, int], None] | None = None, cancel: threading.Event | None = None
    ) -> int:
        """Makes missing caches while the byte budget lasts, beside the questions of others; returns how many."""
        missing = self.missing_caches()
        built = size = 0
        for done, chunk in enumerate(missing, 1):
            if (cancel is not None and cancel.is_set()) or self._closed or not self.caches.room_for(size + 1):
                break
            if chunk.document_id in self._stored and not self.caches.has((chunk.id, BIDIRECTIONAL)):
                cache, _ = self.cache_for(chunk)
                size, built = cache.nbytes, built + 1
            if progress:
                progress(done, len(missing))
        return built

    def cache_bytes(self, document_id: str | None = None) -> int:
        """Bytes of KV caches kept, of one document or of all."""
        return self.caches.bytes(document_id)
