"""Several answers decoded together: one forward a step, over separate caches of different lengths.

    together = BatchedDecoder(model)
    first = together.add(tail_ids, cache, sampling)
    second = together.add(other_tail_ids, other_cache)
    while together.answers:
        for answer, piece in together.step(cancel):
            show(answer, piece)

A forward of one token costs mostly the reading of the weights, so a second answer in the same forward is nearly free.
Each answer keeps its own keys and values, sampling and end: its tokens are those of the answer alone. Answers may be
added and removed between any two steps; a prompt that was just added is read in the same forward as the others' tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.errors import Cancelled, InputError
from grit_app.gritlm.loaded import Loaded
from grit_app.gritlm.write.decoding import Constraint, Continuation, Sampling
from grit_app.gritlm.write.generation import ANSWER_ROOM_TOKENS, completed, stop_ids
from grit_app.gritlm.write.runtime import Decoder, Workspace


class BatchedAnswer(Continuation):
    """An answer among those decoded together. `text`, `token_ids` and `finish` stay readable after its end."""

    space: Workspace
    """Its keys and values; closed when it has ended."""

    rival: Sequence[int] = ()
    """Ids of another answer, whose likelihood is wanted beside this one's: the refusal, say."""

    rival_log_likelihood = 0.0
    """Of the rival as the whole answer to the same prompt; known after the first step."""


class BatchedDecoder:
    """The answers that are running. Not for use from several threads at once."""

    def __init__(self, model: Loaded) -> None:
        self._model = model
        self._decoder = Decoder(model.hf_model, model.scheduler.breathe)
        self.answers: list[BatchedAnswer] = []
        """Those that still run, in the order added."""

    def add(
        self,
        tail_ids: Sequence[int],
        cache: KVCache | None = None,
        sampling: Sampling | None = None,
        constraint: Constraint | None = None,
        rival: Sequence[int] = (),
    ) -> BatchedAnswer:
        """Begins the answer to a prompt given as a cache (or none) and the ids that follow it, at least one.

        rival   ids of another answer to judge beside it: see `BatchedAnswer.rival_log_likelihood`

        Nothing is read before the next step; the cache is left as it was. Raises InputError for an empty tail, or a
        prompt that fills the model's context.
        """
        if not tail_ids:
            raise InputError("The prompt is empty: at least one token must be computed to answer it.")
        length = (cache.length if cache else 0) + len(tail_ids)
        room = self._model.context - length
        if room < 1:
            raise InputError(
                f"The prompt has {length:,} tokens, and this model reads at most {self._model.context:,}. Shorten it."
            )
        sampling = completed(sampling or Sampling(), self._model, room)
        new_tokens = len(tail_ids) + min(sampling.max_new_tokens, ANSWER_ROOM_TOKENS)
        answer = BatchedAnswer(
            tail_ids,
            decode=self._model.prompts.decode,
            stop_ids=stop_ids(self._model),
            sampling=sampling,
            constraint=constraint,
        )
        answer.space = self._decoder.workspace(cache, new_tokens)
        answer.rival = tuple(rival)
        self.answers.append(answer)
        return answer

    def step(self, cancel: threading.Event | None = None) -> list[tuple[BatchedAnswer, str]]:
        """One token of every running answer; gives the text that became certain, and lets go of what has ended.

        Raises Cancelled within the forward once `cancel` is set: the answers then are as before the step.
        """
        reading = [answer for answer in self.answers if answer.needs_logits]
        rows = self._read(reading, cancel) if reading else []
        logits = {id(answer): row for answer, row in zip(reading, rows, strict=True)}
        pieces = [(answer, answer.advance(logits.get(id(answer)))) for answer in self.answers]
        for answer in [answer for answer in self.answers if answer.finish != "running"]:
            self.remove(answer)
        return [(answer, piece) for answer, piece in pieces if piece]

    def _read(self, answers: Sequence[BatchedAnswer], cancel: threading.Event | None) -> Sequence[Tensor]:
        """Float32 logits [vocabulary] behind each answer's unread tokens, which are added to its workspace."""
        for answer in answers:
            answer.space.make_room(len(answer.unread))
        before = [answer.space.length for answer in answers]
        try:
            with self._model.scheduler.turn(cancel, tokens=sum(len(answer.unread) for answer in answers)):
                states = self._decoder.hidden_together([(answer.unread, answer.space) for answer in answers], cancel)
                rows = list(self._decoder.project(torch.stack([state[-1] for state in states])))
                new = [number for number, answer in enumerate(answers) if answer.rival and not answer.chosen]
                self._judge([answers[number] for number in new], [rows[number] for number in new], cancel)
        except Cancelled:
            for answer, length in zip(answers, before, strict=True):
                answer.space.crop(length)
            raise
        return rows

    def _judge(
        self, answers: Sequence[BatchedAnswer], logits: Sequence[Tensor], cancel: threading.Event | None
    ) -> None:
        """The likelihood of each answer's rival, read behind its prompt and forgotten again."""
        for answer in answers:
            answer.space.make_room(len(answer.rival))
        longer = [answer for answer in answers if len(answer.rival) > 1]
        parts = [(answer.rival[:-1], answer.space) for answer in longer]
        states = self._decoder.hidden_together(parts, cancel) if parts else []
        for ids, space in parts:
            space.crop(space.length - len(ids))
        rows = {id(answer): self._decoder.project(state) for answer, state in zip(longer, states, strict=True)}
        for answer, first in zip(answers, logits, strict=True):
            behind = torch.cat([first[None], rows[id(answer)]]) if id(answer) in rows else first[None]
            chosen = behind.log_softmax(dim=-1)[torch.arange(len(behind)), torch.tensor(answer.rival)]
            answer.rival_log_likelihood = float(chosen.sum())

    def remove(self, answer: BatchedAnswer) -> None:
        """Stops an answer that runs, and frees its memory. Does nothing for one that has ended."""
        if answer in self.answers:
            self.answers.remove(answer)
            answer.end("cancelled")
            answer.space.close()

    def close(self) -> None:
        """Stops all answers."""
        for answer in list(self.answers):
            self.remove(answer)
