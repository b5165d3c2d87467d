"""Answers that are written side by side, a token of each at a step, over keys and values of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grit_app.errors import InputError
from grit_app.gritlm import GritLM, KVCache, Sampling
from grit_app.gritlm.write.decoding import Constraint, Detokenizer, FinishReason, choose_token
from grit_app.gritlm.write.generation import ANSWER_ROOM_TOKENS, stop_ids
from grit_app.gritlm.write.runtime import Decoder, Workspace

Observer = Callable[[int, Tensor | None], None]


class RunningAnswer:
    """One answer: which token follows, what text that is, and whether it ends."""

    def __init__(
        self,
        model: GritLM,
        tail_ids: Sequence[int],
        space: Workspace,
        sampling: Sampling,
        constraint: Constraint | None,
    ) -> None:
        self.token_ids: list[int] = []
        self.finish: FinishReason = "running"
        self.space = space
        """Its keys and values; its own room is given back when it has ended."""

        self.unread = list(tail_ids)
        """Ids that the model has not read yet."""

        self.observe: Observer | None = None
        """Called with each token and the logits it was chosen from; None for one that had to follow."""

        self._detokenizer = Detokenizer(model.prompts.decode, tail_ids)
        self._stop_ids = stop_ids(model)
        self._sampling = sampling
        self._state = constraint.begin() if constraint else None
        self._allowed = self._state.allowed() if self._state else None
        self._generator = torch.Generator()
        self._generator.manual_seed(sampling.seed) if sampling.seed is not None else self._generator.seed()

    @property
    def needs_logits(self) -> bool:
        """False where only one token may follow: it is read together with what comes after it."""
        return self._allowed is None or len(self._allowed) > 1

    def advance(self, logits: Tensor | None) -> str:
        """Takes the next token; gives the text that it makes certain. Logits: float32 [vocabulary], after `unread`."""
        if logits is None:
            assert self._allowed is not None, "without logits there must be one token only"
            (token_id,) = self._allowed
        else:
            token_id = choose_token(logits, self._sampling, self._generator, self._allowed, self.token_ids)
            self.unread = []
        if token_id in self._stop_ids:
            self.finish = "stop"
            return self._detokenizer.flush()
        self.token_ids.append(token_id)
        self.unread.append(token_id)
        if self.observe is not None:
            self.observe(token_id, logits)
        if self._state:
            self._state.advance(token_id)
            self._allowed = self._state.allowed()
        piece = self._detokenizer.push(token_id)
        if len(self.token_ids) >= self._sampling.max_new_tokens:
            self.finish = "length"
            piece += self._detokenizer.flush()
        return piece


class Together:
    """The answers that are running. Not for use from several threads at once."""

    def __init__(self, model: GritLM) -> None:
        self._model = model
        self._decoder = Decoder(model.hf_model, model.scheduler.breathe)
        self.answers: list[RunningAnswer] = []

    def add(
        self,
        tail_ids: Sequence[int],
        cache: KVCache | None = None,
        sampling: Sampling | None = None,
        constraint: Constraint | None = None,
    ) -> RunningAnswer:
        """Begins the answer to a prompt given as a cache (or none) and the ids that follow it, at least one.

        Nothing is read before the next step; the cache is left as it was. Raises InputError for a prompt that fills the
        model's context.
        """
        length = (cache.length if cache else 0) + len(tail_ids)
        room = self._model.context - length
        if room < 1:
            raise InputError(
                f"The prompt has {length:,} tokens, and this model reads at most {self._model.context:,}. Shorten it."
            )
        sampling = sampling or Sampling()
        sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
        space = self._decoder.workspace(cache, len(tail_ids) + min(sampling.max_new_tokens, ANSWER_ROOM_TOKENS))
        answer = RunningAnswer(self._model, tail_ids, space, sampling, constraint)
        self.answers.append(answer)
        return answer

    def step(self, cancel: threading.Event) -> list[tuple[RunningAnswer, str]]:
        """One token of every running answer; gives the text that became certain, and lets go of what has ended."""
        pieces = [(answer, answer.advance(self._read(answer, cancel))) for answer in list(self.answers)]
        for answer in [answer for answer in self.answers if answer.finish != "running"]:
            self.remove(answer)
        return [(answer, piece) for answer, piece in pieces if piece]

    def _read(self, answer: RunningAnswer, cancel: threading.Event) -> Tensor | None:
        if not answer.needs_logits:
            return None
        answer.space.make_room(len(answer.unread))
        with self._model.scheduler.turn(cancel, tokens=len(answer.unread)):
            return self._decoder.logits(answer.unread, answer.space, cancel)

    def remove(self, answer: RunningAnswer) -> None:
        """Stops an answer that runs, and frees its memory. Does nothing for one that has ended."""
        if answer in self.answers:
            self.answers.remove(answer)
            answer.space.close()

    def close(self) -> None:
        """Stops all answers."""
        for answer in list(self.answers):
            self.remove(answer)
