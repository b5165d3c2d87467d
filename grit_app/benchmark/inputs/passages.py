"""Passages of a question file as a library, so that questions over them go the app's own way.

with PassagePool(model, contexts) as pool:
    hits = pool.hits([gold, distractor])
    answer(question, pool.library, model, "docs_cache", hits=hits)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType

from grit_app.documents.chunking import Chunk
from grit_app.documents.document import Limits
from grit_app.documents.library import Hit, Library
from grit_app.gritlm import GritLM
from grit_app.gritlm.cache.pack import Scheme

CACHE_BYTES = 2 << 30


class PassagePool:
    """Each text is a document of its own, in memory. Equal texts are one."""

    def __init__(self, model: GritLM, texts: Iterable[str], scheme: Scheme = "native") -> None:
        self.texts = list(dict.fromkeys(texts))
        limits = Limits(max_documents=max(1, len(self.texts)))
        self.library = Library(model, None, limits, CACHE_BYTES, cache_scheme=scheme)
        ids = self.library.add_passages({f"{number:06d}.txt": [text] for number, text in enumerate(self.texts)})
        self._ids = dict(zip(self.texts, ids, strict=True))
        self._texts = {document_id: text for text, document_id in self._ids.items()}

    def document_id(self, text: str) -> str:
        return self._ids[text]

    def text_of(self, hit: Hit) -> str:
        """The passage that a retrieved chunk belongs to."""
        return self._texts[hit.chunk.document_id]

    def chunks(self, text: str) -> tuple[Chunk, ...]:
        return self.library.chunks(self._ids[text])

    def hits(self, texts: Sequence[str]) -> list[Hit]:
        """The passages as if they had been retrieved with certainty, in this order."""
        return [Hit(chunk, 1.0, 1.0, 1.0, "both") for text in texts for chunk in self.chunks(text)]

    def close(self) -> None:
        self.library.close()

    def __enter__(self) -> PassagePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
