"""Documents of a visitor that never touch the disk: the methods of `FolderStore`, in memory."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from pathlib import Path

from grit_app.documents.chunking import Chunk
from grit_app.documents.document import Document
from grit_app.documents.keep.store import Damaged, Stored, Vectors
from grit_app.errors import DocumentError
from grit_app.gritlm.budget import Budget


class MemoryStore:
    """One visitor's documents.

    memory   the process's budget, of which the original files take their part
    """

    def __init__(self, memory: Budget | None = None) -> None:
        self._memory = memory
        self._ids: set[str] = set()

    def let_go(self, _: Hashable) -> bool:
        """Nothing: an original cannot be made again."""
        return False

    def close(self) -> None:
        for document_id in list(self._ids):
            self.remove(document_id)

    def load(self) -> list[Stored]:
        return []

    def damaged(self) -> list[Damaged]:
        return []

    def remove_damaged(self, document_id: str) -> None: ...

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
        """Raises DocumentError where all visitors' files together would take too much memory."""
        size, is_new = source.stat().st_size, document.id not in self._ids
        if is_new and self._memory is not None and not self._memory.hold(self, document.id, size):
            raise DocumentError(
                f"{document.name} was not added: this server's memory for documents is full. Remove documents, or try "
                "again later."
            )
        self._ids.add(document.id)
        try:
            vectors = embed(None)
        except BaseException:
            if is_new:  # else its earlier reading stays, with the same file
                self.remove(document.id)
            raise
        when = time.time() if added is None else added
        return Stored(document, tuple(chunks), vectors, identity, when, source.read_bytes(), chunk_tokens=chunk_tokens)

    def chosen_chunk_tokens(self) -> int | None:
        return None

    def choose_chunk_tokens(self, chunk_tokens: int) -> None: ...

    def replace_vectors(self, stored: Stored, vectors: Vectors, identity: str) -> Stored:
        return replace(stored, vectors=vectors, identity=identity)

    def remove(self, document_id: str) -> None:
        self._ids.discard(document_id)
        if self._memory is not None:
            self._memory.free(self, document_id)
