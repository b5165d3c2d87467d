"""One question over one long document, by several strategies: answers with the time of every piece of text.

    race = run(model, question, text, ["rag_doc_query", "docs_cache"])
    for lane in race.lanes: lane.ttft_ms, lane.text, lane.at(120.0)      # the words that stood there after 120 ms

Each lane is an answer of the app over a library that holds the document, alone on the device, after a run of its own
that is thrown away. Its clock starts with the question and holds whatever then remains to be done: embed the question,
tokenise, join caches, read the tail, decode. Caches of the document are made before: that happens when a document is
added.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from grit_app.benchmark.measure.cases import DeviceStages
from grit_app.benchmark.timing import synchronize
from grit_app.documents.library import Hit, Library
from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.errors import Cancelled, InputError
from grit_app.rag.answering import answer
from grit_app.rag.block_caches import gather
from grit_app.rag.events import Done, Token
from grit_app.rag.run import AnswerMode
from grit_app.rag.strategies import build_layouts, find_strategy


@dataclass(frozen=True)
class Lane:
    """One strategy's run, in milliseconds since the question arrived."""

    strategy: str
    pieces: tuple[tuple[float, int], ...]
    """(time, characters of `text` that stood there then), ascending."""

    text: str
    ttft_ms: float
    total_ms: float
    join_ms: float
    """Of it, joining caches."""

    cached_tokens: int
    computed_tokens: int
    cache_bytes: int
    prepare_ms: float
    """What making the document's caches took, before the question."""

    finish_reason: str

    def at(self, elapsed_ms: float) -> str:
        """The answer as far as it stood `elapsed_ms` after the question."""
        length = max((count for when, count in self.pieces if when <= elapsed_ms), default=0)
        return self.text[:length]


@dataclass(frozen=True)
class Race:
    """All lanes of one question."""

    question: str
    doc_tokens: int
    lanes: tuple[Lane, ...]

    @property
    def speedup(self) -> float:
        """The first lane's time to the first token over the last one's."""
        return self.lanes[0].ttft_ms / self.lanes[-1].ttft_ms

    @property
    def same_answer(self) -> bool:
        return len({lane.text for lane in self.lanes}) == 1


def cut_to_tokens(model: GritLM, text: str, tokens: int) -> tuple[str, int]:
    """The beginning of a text with at most `tokens` tokens, ending with a sentence if it can; and its length."""
    ids = model.prompts.continuation(text)
    if len(ids) > tokens:
        text = model.prompts.decode(ids[:tokens])
        end = max(text.rfind(mark) for mark in (". ", ".\n", "\n"))
        text = text[: end + 1] if end > len(text) // 2 else text
    return text.strip(), len(model.prompts.continuation(text.strip()))


def run(
    model: GritLM,
    question: str,
    text: str,
    strategies: Sequence[str],
    *,
    sampling: Sampling | None = None,
    is_quoting: bool = False,
    on_lane: Callable[[str], None] | None = None,
    cancel: threading.Event | None = None,
) -> Race:
    """All strategies, one after the other. `on_lane` is called with a strategy's name when its turn begins.

    is_quoting   as the app answers in quote mode: the model compares the few sentences whose words fit best, and the
                 chosen one stands there at once. Otherwise it writes, token by token.

    Raises InputError for an empty question or text, or one beyond the model's context; Cancelled.
    """
    if not question.strip() or not text.strip():
        raise InputError("A race needs a question and a document.")
    sampling = sampling or Sampling(max_new_tokens=48)
    tokens = len(model.prompts.continuation(text))
    if tokens + sampling.max_new_tokens + 256 > model.context:
        raise InputError(
            f"{tokens:,} tokens of document do not fit into the model's context of {model.context:,}. "
            "Choose a shorter one."
        )
    lanes = []
    prepared: dict[str, float] = {}  # by the kind of cache: what making it took
    with TemporaryDirectory(prefix="grit-race-") as folder:
        library = Library(model, Path(folder))
        try:
            vector = np.zeros((1, model.hidden_size), dtype=np.float32)  # the one document is given, not searched for
            (document,) = library.add_passages({"document.txt": [text]}, vector)
            mode: AnswerMode = "quote" if is_quoting else "free"
            for strategy in strategies:
                if on_lane is not None:
                    on_lane(strategy)
                lanes.append(_lane(library, document, strategy, question, mode, sampling, cancel, prepared))
        finally:
            library.close()
    return Race(question, tokens, tuple(lanes))


def _lane(
    library: Library,
    document: str,
    strategy: str,
    question: str,
    mode: AnswerMode,
    sampling: Sampling,
    cancel: threading.Event | None,
    prepared: dict[str, float],
) -> Lane:
    model, (chunk,) = library.model, library.chunks(document)
    row = find_strategy(strategy)
    (layout,) = build_layouts(row, model.prompts, model.config, question, [chunk.text])
    if row.caches_documents and row.documents not in prepared:
        start = time.perf_counter()
        gather(model, layout, library, [chunk], cancel=cancel)
        synchronize(model.device)
        prepared[row.documents] = (time.perf_counter() - start) * 1e3
    _timed(library, document, strategy, question, mode, Sampling(max_new_tokens=1), cancel)
    lane = _timed(library, document, strategy, question, mode, sampling, cancel)
    read = [path for (_, kind), path in library.caches.files(document).items() if kind == row.documents]
    return replace(
        lane,
        cached_tokens=layout.cached_length,
        computed_tokens=len(layout.tail),
        cache_bytes=sum(path.stat().st_size for path in read),
        prepare_ms=prepared.get(row.documents, 0.0),
    )


def _timed(
    library: Library,
    document: str,
    strategy: str,
    question: str,
    mode: AnswerMode,
    sampling: Sampling,
    cancel: threading.Event | None,
) -> Lane:
    """One answer through the app's path, with the time of every piece."""
    hits = [Hit(chunk, 1.0, 1.0, 1.0, "both") for chunk in library.chunks(document)]
    stages = DeviceStages(library.model)
    synchronize(library.model.device)
    start = time.perf_counter()
    pieces: list[tuple[float, int]] = []
    text, done_ms = "", 0.0
    events = answer(
        question,
        library,
        library.model,
        strategy,
        mode=mode,
        sampling=sampling,
        cancel=cancel,
        hits=hits,
        stages=stages,
    )
    for event in events:
        match event:
            case Token(piece):
                text, done_ms = text + piece, (time.perf_counter() - start) * 1e3
                pieces.append((done_ms, len(text)))
            case Done(done):
                if done.finish_reason == "cancelled":
                    raise Cancelled("The race was stopped.")
                first = done.timings_ms["first_token"]
                join_ms = stages.ms["join"]
                if mode == "quote" or find_strategy(strategy).one_by_one:  # chosen as a whole: it stands there at once
                    pieces, done_ms = [(first, len(text))], first
                return Lane(strategy, tuple(pieces), text, first, done_ms, join_ms, 0, 0, 0, 0.0, done.finish_reason)
    raise AssertionError("an answer ends with Done")
