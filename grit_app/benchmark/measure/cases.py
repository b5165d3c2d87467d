"""One measured case: a question over documents by one strategy, from the question's text to the answer's last token.

The path is the app's: `rag.strategies.build_layout` → caches → `kv_cache.join` → `GritLM.stream_ids`. The clocks:

    question_ttft   tokenise · embed · search · load · join · tail      the question's text → first token on the host
    prefill_ttft                              load · join · tail        retrieval is done → first token on the host
    total           question_ttft · decode                              → end of the answer

`load` opens a cache file and checks whose it is (and unpacks int8 and int4); native files are memory-mapped, so their
bytes are read in `join`, which also turns the keys. `tail` computes what no cache holds, and chooses the token.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from grit_app.benchmark.measure.floors import forget
from grit_app.benchmark.timing import StageClock
from grit_app.documents.keep.index import VectorIndex
from grit_app.documents.keep.keywords import KeywordIndex, tokens
from grit_app.gritlm import GritLM, KVCache, Layout, Sampling, join
from grit_app.gritlm.cache import file as kv_file
from grit_app.gritlm.cache.pack import Scheme
from grit_app.gritlm.errors import Cancelled, InputError
from grit_app.gritlm.layout import Block
from grit_app.rag.strategies import REFERENCE, build_layout

State = Literal["hot", "warm", "cold", "none"]
STATES: tuple[State, ...] = ("hot", "warm", "cold")

TWO_MODELS = "two_models"
"""Not a way to use caches but the set-up without any: one copy of the weights retrieves, another one generates."""


FOUND = 8
"""Passages asked for in a search."""


@dataclass(frozen=True)
class Workload:
    """One question and the passages found for it."""

    question: str
    passages: Sequence[str]
    query_tokens: int
    doc_tokens: int
    """Over all passages."""


@dataclass(frozen=True)
class Sample:
    """One run of a case, in milliseconds."""

    stages: dict[str, float]
    prefill_ttft: float
    question_ttft: float
    total: float
    new_tokens: int


class CacheShelf:
    """Caches of blocks that are read before the question comes, in memory and as files; made once for all cases.

    A block is known by its ids and attention, so that strategies that need the same block share it.
    """

    def __init__(self, model: GritLM, folder: Path, scheme: Scheme = "native") -> None:
        self._model = model
        self._folder = folder
        self.scheme: Scheme = scheme
        self._hot: dict[Path, KVCache] = {}

    def add(self, block: Block, text: str) -> Path:
        """Reads the block unless it is on the shelf; gives the file."""
        name = hashlib.sha256(f"{block.attention} {list(block.ids)}".encode()).hexdigest()[:32]
        path = self._folder / f"{name}.safetensors"
        if path not in self._hot:
            cache = read_block(self._model, block, text)
            kv_file.save(cache, path, scheme=self.scheme, identity=self._model.identity)
            self._hot[path] = cache
        return path

    def hot(self, path: Path) -> KVCache:
        return self._hot[path]

    def load(self, path: Path) -> KVCache:
        cache = kv_file.load(path, identity=self._model.identity)
        assert cache is not None, f"{path} was written by this run"
        return cache

    def clear(self) -> None:
        """Forgets the caches in memory and deletes the files."""
        for path in self._hot:
            path.unlink(missing_ok=True)
        self._hot.clear()


def read_block(model: GritLM, block: Block, text: str, instruction: str = "") -> KVCache:
    """The cache of a block as the app makes it: by the embedding pass, or causally as a prompt's beginning."""
    if block.header_length == 0:
        return model.causal_cache(list(block.ids))
    encoding = next(iter(model.encode_iter([text], instruction, return_cache=True)))
    if encoding.truncated:
        raise InputError(f"A text of {len(block.ids)} tokens is longer than the model's context of {model.context}.")
    assert encoding.cache is not None and encoding.cache.ids.tolist() == list(block.ids)
    return encoding.cache


@dataclass
class Case:
    """A strategy on a workload, with what it needs prepared: `run` gives one sample."""

    model: GritLM
    strategy: str
    state: State
    workload: Workload
    shelf: CacheShelf
    search: SearchIndex
    retriever: GritLM | None = None
    """Embeds the question instead of `model`: only for `two_models`."""

    new_tokens: int = 16
    layout: Layout = field(init=False)
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout = self._build_layout()
        passages = iter(self.workload.passages)
        self.files = [self.shelf.add(block, next(passages)) for block in self.layout.blocks if block.role == "document"]

    @property
    def cached_tokens(self) -> int:
        return self.layout.cached_length

    @property
    def computed_tokens(self) -> int:
        return len(self.layout.tail)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the files that the strategy reads."""
        return sum(path.stat().st_size for path in self.files)

    def run(self, cancel: threading.Event | None = None) -> Sample:
        """One question, timed. Raises Cancelled."""
        if self.state == "cold":
            for path in self.files:
                forget(path)
        clock = StageClock(self.model.device)
        with clock.stage("tokenise"):
            layout = self._build_layout()
        question = self._retrieve(clock)
        before_prefill = sum(clock.stages.values())
        cache = self._cache(clock, layout, question)
        sampling = Sampling(max_new_tokens=self.new_tokens)
        stream = self.model.stream_ids(layout.tail, cache, sampling, cancel=cancel, beyond_context=True)
        stream.read_all()
        stats = stream.stats
        if stats.finish_reason == "cancelled":
            raise Cancelled("The measurement was stopped.")
        clock.add("tail", stats.ttft_ms)
        question_ttft = sum(clock.stages.values())
        clock.add("decode", stats.total_ms - stats.ttft_ms)
        return Sample(
            stages=clock.stages,
            prefill_ttft=question_ttft - before_prefill,
            question_ttft=question_ttft,
            total=sum(clock.stages.values()),
            new_tokens=stats.new_tokens,
        )

    def _build_layout(self) -> Layout:
        strategy = REFERENCE if self.strategy == TWO_MODELS else self.strategy
        passages = self.workload.passages if strategy != "none" else []
        return build_layout(strategy, self.model.prompts, self.model.config, self.workload.question, passages)

    def _retrieve(self, clock: StageClock) -> KVCache | None:
        """Embeds the question and searches, unless nothing is retrieved; gives the question's cache if it is used."""
        if self.strategy == "none":
            return None
        reader = self.retriever if self.retriever is not None else self.model
        wants_cache = any(block.role == "query" for block in self.layout.blocks)
        with clock.stage("embed"):
            encoding = next(
                iter(
                    reader.encode_iter(
                        [self.workload.question], reader.config.retrieval_instruction, return_cache=wants_cache
                    )
                )
            )
        with clock.stage("search"):
            self.search.find(encoding.vector, self.workload.question)
        return encoding.cache

    def _cache(self, clock: StageClock, layout: Layout, question: KVCache | None) -> KVCache | None:
        """The joined cache of the layout's blocks, or None where it has none."""
        if not layout.blocks:
            return None
        files = iter(self.files)
        with clock.stage("load"):
            caches = [
                self._block_cache(next(files)) if block.role == "document" else question for block in layout.blocks
            ]
        with clock.stage("join"):
            return join(
                [cache for cache in caches if cache is not None],
                self.model.rope,
                positions=layout.positions,
                keep_headers=layout.keep_headers,
            )

    def _block_cache(self, path: Path) -> KVCache:
        return self.shelf.hot(path) if self.state == "hot" else self.shelf.load(path)


class SearchIndex:
    """A library's worth of passages to search as the app does, by vectors and by words: the clock holds this time."""

    def __init__(self, hidden_size: int, texts: Sequence[str], seed: int = 0) -> None:
        vectors = np.random.default_rng(seed).standard_normal((len(texts), hidden_size), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = VectorIndex(None, identity="benchmark")
        self._vectors.add("benchmark", [str(number) for number in range(len(texts))], vectors)
        self._words = KeywordIndex([tokens(text) for text in texts])

    def find(self, vector: NDArray[np.float32], text: str) -> None:
        """Searches both indexes."""
        self._vectors.nearest(vector, FOUND)
        np.argsort(-self._words.scores(text))[:FOUND]

    def close(self) -> None:
        self._vectors.close()
