"""From logits to streamed text: choosing tokens, turning them into characters, stopping, and what it took.

stream = TokenStream(reader, prompt_ids, decode=prompts.decode, stop_ids={2}, sampling=Sampling(max_new_tokens=64))
for piece in stream:
    show(piece)
stream.text, stream.token_ids, stream.stats.ttft_ms
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from grit_app.gritlm.errors import Cancelled, InputError

FinishReason = Literal["running", "stop", "length", "cancelled"]

REPLACEMENT = "\ufffd"  # what a tokenizer's decoder writes for bytes that are no character (yet)


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and how many."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the most likely token each time; higher is more varied."""

    top_p: float = 1.0
    """Only the most likely tokens that together have this probability may be drawn."""

    seed: int | None = None
    """The same seed gives the same answer. None: another one each time."""

    repetition_penalty: float | None = None
    """Tokens that the answer has already become less likely: positive logits are divided by it, negative multiplied.
    1 changes nothing; None: the checkpoint's own value."""

    no_repeat_ngram_size: int | None = None
    """No run of so many tokens may come twice in the answer. 0 allows all; None: the checkpoint's own value."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        if not 0 <= self.temperature <= 100:
            raise InputError(
                f"temperature must lie between 0 (always the likeliest token) and 100, not {self.temperature}."
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, not {self.top_p}.")
        check_repetition(self.repetition_penalty, self.no_repeat_ngram_size)


def check_repetition(penalty: float | None, ngram_size: int | None) -> None:
    """Raises InputError for a repetition guard that cannot be meant."""
    if penalty is not None and not 0 < penalty <= 100:
        raise InputError(f"repetition_penalty must be above 0 and at most 100 (1 changes nothing), not {penalty}.")
    if ngram_size is not None and ngram_size < 0:
        raise InputError(f"no_repeat_ngram_size must be 0 (off) or a number of tokens, not {ngram_size}.")


@dataclass(frozen=True)
class GenerationStats:
    """What one answer took. Times run from the first request for a piece of the answer."""

    prompt_tokens: int
    """All tokens that the answer was conditioned on, cached ones included."""

    cached_tokens: int
    """Those whose keys and values were there already."""

    new_tokens: int
    """Tokens of the answer; the end-of-text token is not one of them."""

    prefill_ms: float
    """Making room and reading the tokens that were not cached."""

    ttft_ms: float
    """Until the first token was known. 0 while there is none."""

    total_ms: float
    tokens_per_s: float
    """After the first token. 0 for fewer than two."""

    finish_reason: FinishReason
    """"stop": the model ended. "length": max_new_tokens reached. "cancelled": the caller stopped it."""

    mean_log_probability: float = 0.0
    """Of the answer's tokens that were chosen, the end-of-text token included; natural logarithm."""


class Reader(Protocol):
    """Reads tokens into a model on top of what was read before. `decoding` knows nothing else of models."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def cached_tokens(self) -> int: ...

    def read(self, ids: Sequence[int], cancel: threading.Event | None) -> Tensor:
        """Float32 logits [vocabulary] of what follows, until the next call. The first call reads the prompt."""
        ...

    def close(self) -> None: ...


class ConstraintState(Protocol):
    """What may come next in one answer."""

    def allowed(self) -> Collection[int]:
        """Ids that may follow, never none; a stop id among them means that the answer may end here."""
        ...

    def advance(self, token_id: int) -> None: ...


class Constraint(Protocol):
    """Limits an answer to certain texts. Shared by any number of answers."""

    def begin(self) -> ConstraintState: ...


def choose_token(
    logits: Tensor,
    sampling: Sampling,
    generator: torch.Generator,
    allowed: Collection[int] | None = None,
    written: Sequence[int] = (),
) -> int:
    """The next token for float32 logits [vocabulary]; only one of `allowed` if given.

    written   the answer's tokens so far, for the guards against repetition

    An answer that is limited to certain texts may repeat what they repeat, so repetition is not looked at there.
    """
    candidates = None if allowed is None else torch.tensor(sorted(allowed))
    logits = without_repetition(logits, sampling, written) if candidates is None else logits[candidates]
    if sampling.temperature < 1e-4:  # no different from 0, and a division by less could overflow
        choice = int(logits.argmax())
    else:
        choice = _draw(torch.softmax(logits / sampling.temperature, dim=-1), sampling.top_p, generator)
    return choice if candidates is None else int(candidates[choice])


def without_repetition(logits: Tensor, sampling: Sampling, written: Sequence[int]) -> Tensor:
    """Logits [vocabulary] under the repetition guards, as transformers' processors of the same names give them.

    The prompt is not counted: an answer may say what the question and its passages say.
    """
    penalty, size = sampling.repetition_penalty or 1.0, sampling.no_repeat_ngram_size or 0
    if not written or (penalty == 1.0 and size == 0):
        return logits
    logits = logits.clone()
    if penalty != 1.0:
        ids = torch.tensor(sorted(set(written)))
        known = logits[ids]
        logits[ids] = torch.where(known < 0, known * penalty, known / penalty)
    if size:
        logits[repeated_ends(written, size)] = -torch.inf
    return logits


def repeated_ends(written: Sequence[int], size: int) -> list[int]:
    """Tokens that would make the last `size` tokens a run that was written before."""
    start = tuple(written[len(written) - size + 1 :]) if size > 1 else ()
    if len(start) < size - 1:
        return []
    runs = range(len(written) - size + 1)
    return [written[at + size - 1] for at in runs if tuple(written[at : at + size - 1]) == start]


def _draw(probabilities: Tensor, top_p: float, generator: torch.Generator) -> int:
    """An index drawn from the smallest set of likeliest entries that together have at least `top_p`."""
    ordered, order = probabilities.sort(descending=True, stable=True)
    # An entry stays if those before it have not reached top_p: so the first always does.
    kept = ordered.masked_fill(ordered.cumsum(0) - ordered >= top_p, 0.0)
    upto = kept.cumsum(0)
    # The number is the host's wherever the logits lie, so that a seed gives the same answer on every device.
    place = float(torch.rand((), generator=generator)) * upto[-1]
    return int(order[(upto <= place).sum().clamp_max(kept.count_nonzero() - 1)])


class Detokenizer:
    """Turns ids into text piece by piece; the pieces joined are the text of all ids.

    A character whose bytes are spread over several tokens is held back until it is whole. Some tokens before the new
    ones are decoded along, because decoders treat the beginning of a text specially (they drop its leading space).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._shown = list(context)[-4:]  # ids whose text is out, as far as decoding needs them
        self._held: list[int] = []

    def push(self, token_id: int) -> str:
        """The text that `token_id` makes certain; may be empty."""
        self._held.append(token_id)
        piece = self._piece()
        if piece.endswith(REPLACEMENT) or not piece:
            return ""
        self._shown, self._held = [*self._shown, *self._held][-8:], []
        return piece

    def flush(self) -> str:
        """What is left at the end, without the bytes of an unfinished character."""
        piece = self._piece().rstrip(REPLACEMENT) if self._held else ""
        self._held = []
        return piece

    def _piece(self) -> str:
        return self._decode([*self._shown, *self._held])[len(self._decode(self._shown)) :]


class Continuation:
    """One answer apart from its model: which token follows from the logits, what text that is, and whether it ends.

    while answer.finish == "running":
        logits = read(answer.unread) if answer.needs_logits else None
        piece = answer.advance(logits)      # text that is certain now; may be empty
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        *,
        decode: Callable[[Sequence[int]], str],
        stop_ids: Collection[int],
        sampling: Sampling,
        constraint: Constraint | None = None,
    ) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.unread: list[int] = list(prompt_ids)
        self.finish: FinishReason = "running"
        self.log_likelihood = 0.0
        """Of the tokens chosen, the end-of-text token included, by the model's own logits; natural logarithm."""

        self.chosen = 0
        """Tokens that the log-likelihood counts: forced ones are not chosen."""

        self._detokenizer = Detokenizer(decode, prompt_ids)
        self._stop_ids = frozenset(stop_ids)
        self._sampling = sampling
        self._state = constraint.begin() if constraint else None
        self._generator = torch.Generator()
        self._generator.manual_seed(sampling.seed) if sampling.seed is not None else self._generator.seed()
        self._allowed = self._state.allowed() if self._state else None

    @property
    def needs_logits(self) -> bool:
        """False where only one token may follow: it is read together with what comes after it."""
        return self._allowed is None or len(self._allowed) > 1

    @property
    def mean_log_probability(self) -> float:
        """Of the chosen tokens; 0 before the first."""
        return self.log_likelihood / self.chosen if self.chosen else 0.0

    def advance(self, logits: Tensor | None) -> str:
        """Takes the next token; gives the text that it makes certain. Logits: float32 [vocabulary], after `unread`."""
        if logits is None:
            assert self._allowed is not None, "without logits there must be one token only"
            (token_id,) = self._allowed
        else:
            token_id = choose_token(logits, self._sampling, self._generator, self._allowed, self.token_ids)
            self.log_likelihood += float(logits[token_id] - logits.logsumexp(0))
            self.chosen += 1
            self.unread = []
        if token_id in self._stop_ids:
            self.finish = "stop"
            return self._show(self._detokenizer.flush())
        if self._state:
            self._state.advance(token_id)
            self._allowed = self._state.allowed()
        self.token_ids.append(token_id)
        self.unread.append(token_id)
        piece = self._detokenizer.push(token_id)
        if len(self.token_ids) >= self._sampling.max_new_tokens:
            self.finish = "length"
            piece += self._detokenizer.flush()
        return self._show(piece)

    def end(self, reason: FinishReason) -> str:
        """Stops a running answer; gives what text is left."""
        if self.finish != "running":
            return ""
        self.finish = reason
        return self._show(self._detokenizer.flush())

    def _show(self, piece: str) -> str:
        self.text += piece
        return piece


class TokenStream(Iterator[str]):
    """An answer in the making: iterate it for pieces of text. Nothing runs before the first piece is asked for.

    Ends by itself, when `cancel` is set (within one token), or with `close`; `text`, `token_ids` and `stats` stay
    readable, as they are at any time in between. Not for use from several threads at once.
    """

    def __init__(
        self,
        reader: Reader,
        prompt_ids: Sequence[int],
        *,
        decode: Callable[[Sequence[int]], str],
        stop_ids: Collection[int],
        sampling: Sampling,
        constraint: Constraint | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self._reader = reader
        self.answer = Continuation(
            prompt_ids, decode=decode, stop_ids=stop_ids, sampling=sampling, constraint=constraint
        )
        self._cancel = cancel
        self._started_s = self._first_s = self._ended_s = 0.0
        self._prefill_ms = 0.0
        self._pieces = self._run()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stops the answer and frees its memory."""
        self._pieces.close()
        self.answer.end("cancelled")
        self._reader.close()

    def read_all(self) -> str:
        """Runs to the end; the whole text."""
        for _ in self:
            pass
        return self.text

    @property
    def text(self) -> str:
        """What is written so far."""
        return self.answer.text

    @property
    def token_ids(self) -> list[int]:
        return self.answer.token_ids

    @property
    def stats(self) -> GenerationStats:
        """What it has taken so far."""
        now_s = self._ended_s or (time.perf_counter() if self._started_s else 0.0)
        decode_s = now_s - self._first_s
        count = len(self.token_ids)
        return GenerationStats(
            prompt_tokens=self._reader.prompt_tokens,
            cached_tokens=self._reader.cached_tokens,
            new_tokens=count,
            prefill_ms=self._prefill_ms,
            ttft_ms=(self._first_s - self._started_s) * 1e3 if self._first_s else 0.0,
            total_ms=(now_s - self._started_s) * 1e3,
            tokens_per_s=(count - 1) / decode_s if count > 1 and decode_s > 0 else 0.0,
            finish_reason=self.answer.finish,
            mean_log_probability=self.answer.mean_log_probability,
        )

    def _run(self) -> Generator[str, None, None]:
        self._started_s = time.perf_counter()
        try:
            while self.answer.finish == "running":
                if self._cancel is not None and self._cancel.is_set():
                    raise Cancelled("Stopped.")
                if piece := self._next_piece():
                    yield piece
        except Cancelled:
            if piece := self.answer.end("cancelled"):
                yield piece
        finally:
            self._ended_s = time.perf_counter()
            self.answer.end("cancelled")
            self._reader.close()

    def _next_piece(self) -> str:
        """One token. Sets the times on the way."""
        logits = self._read(self.answer.unread) if self.answer.needs_logits else None
        piece = self.answer.advance(logits)
        if not self._first_s:
            self._first_s = time.perf_counter()
        return piece

    def _read(self, ids: Sequence[int]) -> Tensor:
        logits = self._reader.read(ids, self._cancel)
        if not self._prefill_ms:
            self._prefill_ms = (time.perf_counter() - self._started_s) * 1e3
        return logits
