"""KV caches of chunks: on disk beside their document within a byte budget, the last used ones also in memory.

The least recently used go first; use is remembered in the files' times, so it survives a restart. A file that another
model wrote, or that is damaged, is not found (`kv_file` refuses it) and is replaced. Nothing here fails for lack of
space: a cache that cannot be kept is made again when it is needed.
"""

import logging
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Final, Literal

import torch
from safetensors import SafetensorError

from grit_app.gritlm.budget import Budget
from grit_app.gritlm.cache import file as kv_file
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.cache.pack import Scheme
from grit_app.gritlm.load.size import free_bytes
from grit_app.gritlm.memory import register_spare

log = logging.getLogger(__name__)

Attention = Literal["bidirectional", "causal"]
Key = tuple[str, Attention]  # chunk id (document id, colon, number), attention


HOT_BYTES: Final = 128 << 20
"""Of caches in the machine's memory, beside the pages of their files that the system keeps anyway."""

HOT_SHARE: Final = 0.1
"""Of a GPU's free memory when the library is opened: a passage of a 7B takes 26 MB."""


def hot_bytes_on(device: torch.device) -> int:
    """Bytes of caches to keep in the memory of the model's device."""
    if device.type != "cuda":
        return HOT_BYTES
    return max(HOT_BYTES, int(HOT_SHARE * free_bytes(device)))


class CacheStore:
    """The caches of one library. Safe to call from several threads.

    budget_bytes   on disk
    hot_bytes      of caches kept in memory besides; all there is for a library without a folder
    scheme         how they are packed (kv_pack.py)
    memory         the process's budget, which those in memory share with others
    """

    def __init__(
        self,
        identity: str,
        budget_bytes: int,
        hot_bytes: int = HOT_BYTES,
        *,
        on_disk: bool = True,
        scheme: Scheme = "native",
        memory: Budget | None = None,
    ) -> None:
        self.identity = identity
        self.scheme: Scheme = scheme
        self.hot_bytes = hot_bytes if on_disk else min(hot_bytes, budget_bytes)
        self.budget_bytes = budget_bytes if on_disk else self.hot_bytes
        self._hot: OrderedDict[Key, KVCache] = OrderedDict()
        self._hot_bytes: Counter[str] = Counter()  # of each document
        self._files: dict[Path, tuple[int, float]] = {}  # size, last use; the least recently used first, if sorted
        self._are_sorted = True
        self._file_bytes: Counter[Path] = Counter()  # of each folder
        self._folders: dict[str, Path] = {}
        self._checked: dict[Path, tuple[int, int]] = {}  # files whose bytes are known to be right, as they were then
        self._memory = memory
        self._lock = threading.RLock()
        register_spare(self)

    def clear(self) -> None:
        """Lets go of the caches in memory, for a GPU that ran out: they come back from disk, or are made again."""
        with self._lock:
            for key in list(self._hot):
                self._cool(key)

    def let_go(self, key: Hashable) -> bool:
        """Drops one cache from memory, for others to have the room."""
        with self._lock:
            self._cool(key)
        return True

    def _cool(self, key: Hashable) -> None:
        """Call with the lock held."""
        cache = self._hot.pop(key, None)  # type: ignore[call-overload]  # a budget knows keys of any kind
        if cache is not None:
            self._hot_bytes[_document_of(key)] -= cache.nbytes  # type: ignore[arg-type]
            if self._memory is not None:
                self._memory.free(self, key)

    def open_document(self, document_id: str, folder: Path | None) -> None:
        """Takes up a document's caches; None: it has no place on disk."""
        if folder is None:
            return
        with self._lock:
            self._folders[document_id] = folder
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink(missing_ok=True)
            for path in folder.glob("*.safetensors"):
                status = path.stat()
                self._note(path, status.st_size, status.st_mtime)
            self._are_sorted = False

    def _note(self, path: Path, size: int, used_s: float) -> None:
        """A file was found or used; it comes last in the order. Call with the lock held."""
        before, _ = self._files.pop(path, (0, 0.0))
        self._files[path] = (size, used_s)
        self._file_bytes[path.parent] += size - before

    def _forget(self, path: Path) -> None:
        """A file is gone. Call with the lock held."""
        size, _ = self._files.pop(path, (0, 0.0))
        self._checked.pop(path, None)
        self._file_bytes[path.parent] -= size

    def close_document(self, document_id: str) -> None:
        """Forgets a document's caches; its folder is the store's to delete."""
        with self._lock:
            folder = self._folders.pop(document_id, None)
            for path in [path for path in self._files if path.parent == folder]:
                self._forget(path)
            if folder is not None:
                del self._file_bytes[folder]
            self.cool(document_id)
            del self._hot_bytes[document_id]

    def bytes(self, document_id: str | None = None) -> int:
        """What is kept, of one document or of all: on disk, or in memory where there is no disk."""
        with self._lock:
            if document_id is None:
                homeless = sum(size for one, size in self._hot_bytes.items() if one not in self._folders)
                return self._file_bytes.total() + homeless
            folder = self._folders.get(document_id)
            return self._hot_bytes[document_id] if folder is None else self._file_bytes[folder]

    def has(self, key: Key) -> bool:
        with self._lock:
            return key in self._hot or self._path(key) in self._files

    def room_for(self, nbytes: int) -> bool:
        """True if so much can be kept without dropping anything."""
        return self.bytes() + nbytes <= self.budget_bytes

    def get(self, key: Key, ids: Sequence[int]) -> tuple[KVCache, Literal["hot", "warm"]] | None:
        """The cache of exactly these ids, from memory or from disk."""
        found: KVCache | None = None
        with self._lock:
            cache = self._hot.get(key)
            if cache is not None and cache.ids.tolist() == list(ids):
                self._hot.move_to_end(key)
                self._touch(self._path(key))
                found = cache
            path = self._path(key)
            if found is None and (path is None or path not in self._files):
                return None
        if found is not None:
            self._count(key, found)
            return found, "hot"
        assert path is not None
        # Once for each file as it is: reading it all would cost more than joining it.
        seen = _as_it_is(path)
        cache = kv_file.load(path, identity=self.identity, verify=seen is None or self._checked.get(path) != seen)
        if cache is None or cache.ids.tolist() != list(ids) or cache.attention != key[1]:
            self._drop(path)
            return None
        with self._lock:
            if seen is not None:
                self._checked[path] = seen
            self._touch(path)
            self._keep_hot(key, cache)
        self._count(key, cache)
        return cache, "warm"

    def cool(self, document_id: str) -> None:
        """Drops a document's caches from memory; files stay. For measuring what reading them costs."""
        with self._lock:
            for key in [key for key in self._hot if _document_of(key) == document_id]:
                self._cool(key)

    def files(self, document_id: str) -> dict[Key, Path]:
        """The files that hold a document's caches."""
        with self._lock:
            folder = self._folders.get(document_id)
            kept = [path for path in self._files if path.parent == folder]
        return {_key_of(document_id, path): path for path in kept}

    def put(self, key: Key, cache: KVCache) -> KVCache:
        """Keeps a cache, dropping the least recently used ones where the budget asks for it; gives it as it is kept.

        So the first answer over a text reads the same numbers as every later one.
        """
        cache = cache.packed(self.scheme)
        with self._lock:
            path = self._path(key)
            if path is not None and cache.nbytes <= self.budget_bytes:
                self._make_room(cache.nbytes)
                self.write(path, cache)
            self._keep_hot(key, cache)
        self._count(key, cache)
        return cache

    def write(self, path: Path, cache: KVCache) -> int:
        """Writes one cache file and returns its size, 0 if it could not be written."""
        try:
            kv_file.save(cache, path, self.scheme, identity=self.identity)
            size = path.stat().st_size
        except (OSError, SafetensorError) as error:
            path.unlink(missing_ok=True)
            log.warning("A KV cache could not be kept: %s.", error)
            return 0
        with self._lock:
            if path.parent in self._folders.values():
                self._note(path, size, time.time())
        return size

    def _path(self, key: Key) -> Path | None:
        folder = self._folders.get(_document_of(key))
        return folder / file_name(key) if folder else None

    def _touch(self, path: Path | None) -> None:
        if path is not None and path in self._files:
            now = time.time()
            self._note(path, self._files[path][0], now)
            try:
                is_known = self._checked.get(path) == _as_it_is(path)
                os.utime(path, (now, now))
                if is_known and (seen := _as_it_is(path)) is not None:
                    self._checked[path] = seen
            except OSError:  # swept meanwhile
                self._forget(path)

    def _make_room(self, nbytes: int) -> None:
        over = self._file_bytes.total() + nbytes - self.budget_bytes
        if over > 0 and not self._are_sorted:
            self._files = dict(sorted(self._files.items(), key=lambda item: (item[1][1], str(item[0]))))
            self._are_sorted = True
        while over > 0 and self._files:
            path, (size, _) = next(iter(self._files.items()))
            over -= size
            self._drop(path)

    def _drop(self, path: Path) -> None:
        with self._lock:
            self._forget(path)
            path.unlink(missing_ok=True)

    def _keep_hot(self, key: Key, cache: KVCache) -> None:
        """Call with the lock held, and `_count` without it."""
        self._cool(key)
        self._hot[key] = cache
        self._hot_bytes[_document_of(key)] += cache.nbytes
        while self._hot_bytes.total() > self.hot_bytes:
            self._cool(next(iter(self._hot)))

    def _count(self, key: Key, cache: KVCache) -> None:
        """Tells the process's budget that the cache is used now. Call without the lock: others may have to let go."""
        if self._memory is not None and self._hot.get(key) is cache:
            self._memory.use(self, key, cache.nbytes)


def _as_it_is(path: Path) -> tuple[int, int] | None:
    """What changes whenever a file is written to: its size and time. None: it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _document_of(key: Key) -> str:
    return key[0].partition(":")[0]


def _key_of(document_id: str, path: Path) -> Key:
    number, _, attention = path.stem.partition(".")
    return f"{document_id}:{number}", "causal" if attention == "causal" else "bidirectional"


def file_name(key: Key) -> str:
    """The cache's file inside its document's kv/ folder."""
    return f"{key[0].partition(':')[2]}.{key[1]}.safetensors"
