"""From a document's chunks to vectors and, while the byte budget lasts, the KV caches that the same pass leaves."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.chunking import Chunk
from grit_app.documents.keep.kv_store import Attention, CacheStore, Key, file_name
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.model import GritLM

BIDIRECTIONAL: Final[Attention] = "bidirectional"
EMBED_TOGETHER: Final = 64  # chunks between two looks at the byte budget


def embed_chunks(
    model: GritLM,
    chunks: Sequence[Chunk],
    caches: CacheStore,
    kv_folder: Path | None,
    tell: Callable[[int, int], None],
    cancel: threading.Event | None = None,
    *,
    with_caches: bool = True,
) -> tuple[NDArray[np.float32], list[tuple[Key, KVCache]]]:
    """(vectors float32 [chunks, hidden], caches that are to be kept in memory).

    kv_folder   where caches are written; None: they are given back instead
    tell        called with (chunks done, all chunks)
    """
    rows: list[NDArray[np.float32]] = []
    in_memory: list[tuple[Key, KVCache]] = []
    used = 0
    for at in range(0, len(chunks), EMBED_TOGETHER):
        part = chunks[at : at + EMBED_TOGETHER]
        keep = with_caches and caches.room_for(used + 1)
        encodings = model.encode_iter([c.text for c in part], return_cache=keep, cancel=cancel)
        for chunk, encoding in zip(part, encodings, strict=True):
            rows.append(encoding.vector)
            cache, key = encoding.cache, (chunk.id, BIDIRECTIONAL)
            if cache is not None and caches.room_for(used + cache.nbytes):
                if kv_folder is None:
                    in_memory.append((key, cache))
                    used += cache.nbytes
                else:
                    used += caches.write(kv_folder / file_name(key), cache)
            tell(len(rows), len(chunks))
    return np.stack(rows), in_memory
