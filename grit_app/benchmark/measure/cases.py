"""One measured case: a question over documents by one strategy, from the question's text to the answer's last token.

The path is the app's own: `rag.answering.answer` over a `Library` on disk, with its index, store and cache budget, told
of each stage by an observer that waits for the device. The clocks:

    question_ttft   embed · search · tokenise · load · join · tail      the question's text → first token on the host
    prefill_ttft                                load · join · tail      the prompt is laid out → first token on the host
    total           question_ttft · decode                              → end of the answer

`load` gets caches from the library; native files are memory-mapped, so their bytes are read in `join`, which also turns
the keys. `tail` computes what no cache holds, and chooses the token. Passages that are read one by one give their first
word when all have been read, so that `decode` lies before it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from grit_app.benchmark.measure.floors import forget
from grit_app.benchmark.timing import synchronize
from grit_app.documents.document import Limits
from grit_app.documents.library import Hit, Library
from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.cache.pack import Scheme
from grit_app.gritlm.errors import Cancelled, InputError
from grit_app.gritlm.layout import Layout
from grit_app.rag.answering import answer
from grit_app.rag.block_caches import gather
from grit_app.rag.events import Done
from grit_app.rag.stages import StageTimes
from grit_app.rag.strategies import REFERENCE, Strategy, build_layouts, find_strategy

State = Literal["hot", "warm", "cold", "none"]
STATES: tuple[State, ...] = ("hot", "warm", "cold")

TWO_MODELS = "two_models"
"""Not a way to use caches but the set-up without any: one copy of the weights retrieves, another one generates."""

RETRIEVAL = ("embed", "search", "tokenise")
"""Stages before the prefill."""


@dataclass(frozen=True)
class Workload:
    """One question and the passages found for it."""

    question: str
    passages: Sequence[str]
    query_tokens: int
    doc_tokens: int
    """Over all passages."""

    others: Sequence[str] = ()
    """Questions of other lengths, one a repeat: a run that repeats one length hides what new ones cost."""

    def asked(self, turn: int) -> str:
        """The question of a run: in the first the one of exactly `query_tokens`, then another each time."""
        return self.others[(turn - 1) % len(self.others)] if turn and self.others else self.question


@dataclass(frozen=True)
class Sample:
    """One run of a case, in milliseconds."""

    stages: dict[str, float]
    """Those that the strategy has."""

    prefill_ttft: float
    question_ttft: float
    total: float
    new_tokens: int


class DeviceStages(StageTimes):
    """Stages read with the device at rest."""

    def __init__(self, model: GritLM) -> None:
        super().__init__()
        self._device = model.device

    def settle(self) -> None:
        synchronize(self._device)


class Shelf:
    """A library's worth of passages on disk, as a visitor's, and the documents of one workload among them.

    Vectors are random: how long a search takes does not depend on what it finds, and the passages to be read are those
    of the workload whatever their score.
    """

    def __init__(
        self, model: GritLM, folder: Path, filler: Sequence[str], scheme: Scheme = "native", seed: int = 0
    ) -> None:
        self._random = np.random.default_rng(seed)
        self._width = model.hidden_size
        limits = Limits(max_documents=1_000_000)
        self.library = Library(model, folder, limits, cache_scheme=scheme)
        self.scheme = scheme
        self.library.add_passages({"library.txt": filler}, self._vectors(len(filler)))
        self._documents: list[str] = []

    def put(self, work: Workload) -> list[str]:
        """Adds the workload's documents; gives their ids."""
        texts = {f"document {number}.txt": [text] for number, text in enumerate(work.passages)}
        ids = self.library.add_passages(texts, self._vectors(len(texts)))
        self._documents += ids
        return ids

    def clear(self) -> None:
        """Removes the workloads' documents with their caches."""
        for document in self._documents:
            self.library.remove(document)
        self._documents.clear()

    def close(self) -> None:
        self.library.close()

    def _vectors(self, count: int) -> NDArray[np.float32]:
        vectors = self._random.standard_normal((count, self._width), dtype=np.float32)
        unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


@dataclass
class Case:
    """A strategy on a workload, with what it needs prepared: `run` gives one sample.

    Raises InputError if a passage is longer than the model's context.
    """

    model: GritLM
    strategy: str
    state: State
    workload: Workload
    shelf: Shelf
    documents: Sequence[str]
    """The workload's, in the shelf's library."""

    retriever: GritLM | None = None
    """Embeds the question instead of `model`: only for `two_models`."""

    new_tokens: int = 16
    layouts: list[Layout] = field(init=False)
    files: list[Path] = field(init=False)
    """Of the caches that the strategy reads."""

    first: Sample | None = None
    """The run before all others, which pays for what a first use costs; not among `samples`."""

    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.row: Strategy = find_strategy(REFERENCE if self.strategy == TWO_MODELS else self.strategy)
        passages = self.workload.passages if self.row.retrieves else [""]
        self.layouts = build_layouts(self.row, self.model.prompts, self.model.config, self.workload.question, passages)
        for layout in self.layouts:
            if layout.cached_length + len(layout.tail) + self.new_tokens > self.model.context:
                raise InputError(f"The prompt is longer than the model's context of {self.model.context} tokens.")
        library = self.shelf.library
        chunks = [library.chunks(document)[0] for document in self.documents]
        groups = [[chunk] for chunk in chunks] if self.row.one_by_one else [chunks]
        for layout, group in zip(self.layouts, groups, strict=False):
            gather(self.model, layout, library, group)  # as adding documents does: caches are there before the question
        kind = {"none": None, "bidirectional": "bidirectional", "causal": "causal"}[self.row.documents]
        read = chunks[: sum(block.role == "document" for layout in self.layouts for block in layout.blocks)]
        kept = {key: path for document in self.documents for key, path in library.caches.files(document).items()}
        self.files = [kept[chunk.id, kind] for chunk in read if kind is not None and (chunk.id, kind) in kept]  # type: ignore[index]

    @property
    def cached_tokens(self) -> int:
        return sum(layout.cached_length for layout in self.layouts)

    @property
    def computed_tokens(self) -> int:
        return sum(len(layout.tail) for layout in self.layouts)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the files that the strategy reads."""
        return sum(path.stat().st_size for path in self.files)

    def run(self, cancel: threading.Event | None = None, turn: int = 0) -> Sample:
        """One question, timed; the workload says which question a turn asks. Raises Cancelled."""
        self._set_state()
        question = self.workload.asked(turn)
        stages = DeviceStages(self.model)
        events = answer(
            question,
            self.shelf.library,
            self.model,
            self.row.name,
            mode="free",
            sampling=Sampling(max_new_tokens=self.new_tokens),
            cancel=cancel,
            hits=partial(self._search, question),
            stages=stages,
            retriever=self.retriever,
        )
        done = next(event.answer for event in events if isinstance(event, Done))
        if done.finish_reason == "cancelled":
            raise Cancelled("The measurement was stopped.")
        first = done.timings_ms["first_token"]
        return Sample(
            stages={name: ms for name, ms in stages.ms.items() if ms},
            prefill_ttft=first - sum(stages.ms[name] for name in RETRIEVAL),
            question_ttft=first,
            total=first if self.row.one_by_one else first + stages.ms["decode"],
            new_tokens=done.new_tokens,
        )

    def _set_state(self) -> None:
        """Hot caches are in the library's memory from the run before; the others must be read from their files."""
        if self.state in ("warm", "cold"):
            for document in self.documents:
                self.shelf.library.caches.cool(document)
        if self.state == "cold":
            for path in self.files:
                forget(path)

    def _search(self, question: str, vector: NDArray[np.float32]) -> list[Hit]:
        """The app's own search, narrowed to the workload's documents, which are then read in their own order."""
        found = self.shelf.library.search(vector, question, len(self.documents), self.documents)
        return sorted(found, key=lambda hit: self.documents.index(hit.chunk.document_id))
