"""The model on a Space with ZeroGPU, where a GPU is lent for seconds and only inside decorated functions.

Such a function runs in a process of its own: what it is given and what it returns is pickled, and what it changes is
lost. So each job here takes plain data (texts, ids, caches in the machine's memory) and gives plain data back.
Libraries and pages stay in the main process.

    model = on_zero_gpu(model)        # encode, stream and race ask for a GPU; everything else works as it did
    race = run_race(model, …)         # every lane in one call, so that its clock never waits for a GPU

The time asked for is computed from the work: shorter requests wait less in the queue.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final, TypeVar

import torch

from grit_app.benchmark.measure import race
from grit_app.gritlm import Conversation, Encoding, GenerationStats, GritLM, KVCache, Sampling
from grit_app.gritlm.cache.rope import Rope
from grit_app.gritlm.errors import Cancelled
from grit_app.gritlm.write.decoding import Constraint

Job = TypeVar("Job", bound=Callable[..., Any])

START_S: Final = 4.0
"""Until a lent GPU holds the weights."""

LONGEST_S: Final = 120
READ_TOKENS_S: Final = 3e13
WRITE_TOKENS_S: Final = 1.6e11
"""Tokens a second times parameters, with room to spare: a 7B reads 4,200 and writes 23."""

TEXTS_A_CALL: Final = 256

_MODEL: GritLM | None = None
"""Placed before the first call: every lent process is forked with it."""


def is_zero_gpu() -> bool:
    """Whether this is a Space with ZeroGPU."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def seconds(read: float, written: float = 0.0) -> int:
    """Seconds of a GPU to ask for, enough to read and to write so many tokens."""
    parameters = float(_MODEL.describe()["parameters"]) if _MODEL else 7e9
    needed = START_S + read * parameters / READ_TOKENS_S + written * parameters / WRITE_TOKENS_S
    return min(LONGEST_S, max(10, round(1.5 * needed)))


def on_gpu(duration: Callable[..., int]) -> Callable[[Job], Job]:
    """Decorates a job with ZeroGPU's own decorator where that rules, and leaves it alone elsewhere."""
    if not is_zero_gpu():
        return lambda job: job
    import spaces

    return spaces.GPU(duration=duration)  # type: ignore[no-any-return]


def place(model: GritLM) -> GritLM:
    """Makes `model` the one that jobs use; its weights must be on the GPU's place already."""
    global _MODEL
    _MODEL = model
    return model


def placed() -> GritLM:
    """The placed model."""
    assert _MODEL is not None, "place() comes before the first job"
    return _MODEL


def _words(texts: Sequence[str]) -> float:
    return sum(len(text) for text in texts) / 3  # characters a token, with room to spare


@on_gpu(lambda texts, *_: seconds(_words(texts)))
def encode_job(texts: Sequence[str], instruction: str, return_cache: bool, settings: dict[str, Any]) -> list[Encoding]:
    """Encodings with caches in the machine's memory."""
    found = placed().encode_iter(texts, instruction, return_cache, **settings)
    return [replace(one, cache=on_host(one.cache)) for one in found]


@on_gpu(lambda ids, cache, sampling, *_: seconds(len(ids), sampling.max_new_tokens))
def write_job(
    ids: Sequence[int], cache: KVCache | None, sampling: Sampling, constraint: Constraint | None
) -> Iterator[tuple[str, list[int], GenerationStats]]:
    """Each piece of text with the ids and the statistics so far; a last empty piece with the final ones."""
    stream = placed().stream_ids(ids, cache, sampling, constraint)
    for piece in stream:
        yield piece, list(stream.token_ids), stream.stats
    yield "", list(stream.token_ids), stream.stats


@on_gpu(lambda prompt, continuations, cache: seconds(len(prompt) + sum(map(len, continuations))))
def score_job(prompt: Sequence[int], continuations: Sequence[Sequence[int]], cache: KVCache | None) -> list[float]:
    return placed().score(prompt, continuations, cache)


@on_gpu(lambda question, text, strategies, *_: seconds(4 * len(strategies) * _words([text]), 96 * len(strategies)))
def race_job(question: str, text: str, strategies: Sequence[str], settings: dict[str, Any]) -> race.Race:
    return race.run(placed(), question, text, strategies, **settings)


@on_gpu(lambda ids: seconds(len(ids)))
def causal_cache_job(ids: Sequence[int]) -> KVCache | None:
    return on_host(placed().causal_cache(ids))


def on_host(cache: KVCache | None) -> KVCache | None:
    """The cache with its own memory in the machine, to be sent between processes."""
    if cache is None:
        return None
    return replace(cache.clone(), keys=cache.keys.cpu().clone(), values=cache.values.cpu().clone())


class LentStream(Iterator[str]):
    """An answer written by a job; read it as a TokenStream."""

    def __init__(
        self, pieces: Iterator[tuple[str, list[int], GenerationStats]], cancel: threading.Event | None
    ) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self._stats: GenerationStats | None = None
        self._pieces = pieces
        self._cancel = cancel

    def __next__(self) -> str:
        if self._cancel is not None and self._cancel.is_set():
            self.close()
            raise StopIteration
        piece, self.token_ids, self._stats = next(self._pieces)
        self.text += piece
        return piece or next(self)

    @property
    def stats(self) -> GenerationStats:
        """What it has taken so far; nothing before the first piece."""
        return self._stats or GenerationStats(0, 0, 0, 0.0, 0.0, 0.0, 0.0, "running")

    def read_all(self) -> str:
        for _ in self:
            pass
        return self.text

    def close(self) -> None:
        """Gives the GPU back."""
        getattr(self._pieces, "close", lambda: None)()
        if self._stats is not None and self._stats.finish_reason == "running":
            self._stats = replace(self._stats, finish_reason="cancelled")


class ZeroGritLM(GritLM):
    """A model whose forwards are jobs. Caches lie, and are joined, in the machine's memory."""

    @property
    def device(self) -> torch.device:
        """Where caches and ids lie in this process: no GPU is to be had here."""
        return torch.device("cpu")

    def encode_iter(
        self,
        texts: Iterable[str],
        instruction: str = "",
        return_cache: bool = False,
        batch_size: int = 32,
        max_length: int | None = None,
        normalize: bool | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Encoding]:
        """As GritLM's, some hundred texts a call."""
        source, done = iter(texts), 0
        settings = {"batch_size": batch_size, "max_length": max_length, "normalize": normalize}
        while part := list(islice(source, TEXTS_A_CALL)):
            if cancel is not None and cancel.is_set():
                raise Cancelled("Embedding was stopped.")
            yield from encode_job(part, instruction, return_cache, settings)
            done += len(part)
            if progress is not None:
                progress(done, len(texts) if isinstance(texts, Sequence) else 0)

    def stream(
        self,
        messages: Sequence[Mapping[str, str]],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        cancel: threading.Event | None = None,
        conversation: Conversation | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
    ) -> Any:
        """As GritLM's, but nothing is kept of a conversation between calls: it is read again, in milliseconds."""
        sampling = Sampling(
            max_new_tokens,
            temperature,
            top_p,
            seed,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
        )
        return self.stream_ids(self.prompts.chat(messages).ids, None, sampling, cancel=cancel)

    def stream_ids(
        self,
        tail_ids: Sequence[int],
        cache: KVCache | None = None,
        sampling: Sampling | None = None,
        constraint: Constraint | None = None,
        cancel: threading.Event | None = None,
        beyond_context: bool = False,
    ) -> Any:
        """As GritLM's."""
        return LentStream(write_job(list(tail_ids), on_host(cache), sampling or Sampling(), constraint), cancel)

    def causal_cache(self, ids: Sequence[int], *_: Any) -> KVCache:
        """As GritLM's."""
        cache = causal_cache_job(list(ids))
        assert cache is not None
        return cache

    def score(
        self, prompt_ids: Sequence[int], continuations: Sequence[Sequence[int]], cache: KVCache | None = None, *_: Any
    ) -> list[float]:
        """As GritLM's."""
        return score_job(list(prompt_ids), [list(ids) for ids in continuations], on_host(cache))


def on_zero_gpu(model: GritLM) -> ZeroGritLM:
    """The model for the main process; the given one is placed for jobs."""
    place(model)
    lent = object.__new__(ZeroGritLM)  # the same parts: a second construction would hook the layers twice
    lent.__dict__.update(model.__dict__)
    lent.rope = Rope(model.rope.inv_freq.cpu(), model.rope.kind)
    return lent


def run_race(
    model: GritLM,
    question: str,
    text: str,
    strategies: Sequence[str],
    *,
    on_lane: Callable[[str], None] | None = None,
    cancel: threading.Event | None = None,
    **settings: Any,
) -> race.Race:
    """`race.run`; on ZeroGPU all lanes in one call, which cannot be stopped in between."""
    if isinstance(model, ZeroGritLM):
        if on_lane is not None:
            on_lane(strategies[0])
        return race_job(question, text, list(strategies), settings)
    return race.run(model, question, text, strategies, on_lane=on_lane, cancel=cancel, **settings)
