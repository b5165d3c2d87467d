"""Several answers decoded together: one forward a step, over separate caches of different lengths.

    together = BatchedDecoder(model)
    first = together.add(tail_ids, cache, sampling)
    second = together.add(other_tail_ids, other_cache)
    while together.answers:
        for answer, piece in together.step(cancel):
            show(answer, piece)

A forward of one token costs mostly the reading of the weights, so a second answer in the same forward is nearly free.
Each answer keeps its own keys and values, sampling and end: its tokens are those of the answer alone. Answers may be
added and removed between any two steps; a prompt that was just added is read in the same forward as the others' tokens,
a long one in pieces if `prompt_s` says how long a step may take for that: so nobody's next token waits for it to end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.errors import Cancelled, InputError
from grit_app.gritlm.loaded import Loaded
from grit_app.gritlm.write.decoding import Constraint, Continuation, Sampling
from grit_app.gritlm.write.generation import ANSWER_ROOM_TOKENS, completed, stop_ids
from grit_app.gritlm.write.runtime import Decoder, Workspace

Observer = Callable[[int, Tensor | None], None]

LEAST_PROMPT_TOKENS = 64
"""Read of new prompts in a step at least: fewer cost about as much, for the weights are read anyway."""

UNMEASURED_PROMPT_TOKENS = 256
"""Read of new prompts in a step until the model's speed is known."""


class BatchedAnswer(Continuation):
    """An answer among those decoded together. `text`, `token_ids` and `finish` stay readable after its end."""

    space: Workspace
    """Its keys and values; closed when it has ended."""

    rival: Sequence[int] = ()
    """Ids of another answer, whose likelihood is wanted beside this one's: the refusal, say."""

    rival_log_likelihood = 0.0
    """Of the rival as the whole answer to the same prompt; known after the first step."""

    observe: Observer | None = None
    """Called with each token of the answer and the logits it was chosen from; None for one that had to follow."""

    def advance(self, logits: Tensor | None) -> str:
        count = len(self.token_ids)
        piece = super().advance(logits)
        if self.observe is not None and len(self.token_ids) > count:
            self.observe(self.token_ids[-1], logits)
        return piece


class BatchedDecoder:
    """The answers that are running. Not for use from several threads at once."""

    def __init__(self, model: Loaded, prompt_s: float | None = None) -> None:
        """prompt_s   about so many seconds of a step go into reading prompts; None: each is read at once."""
        self._model = model
        self._prompt_s = prompt_s
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
        logits = self._read(reading, cancel) if reading else {}
        ready = [answer for answer in self.answers if id(answer) in logits or not answer.needs_logits]
        pieces = [(answer, answer.advance(logits.get(id(answer)))) for answer in ready]
        for answer in [answer for answer in self.answers if answer.finish != "running"]:
            self.remove(answer)
        return [(answer, piece) for answer, piece in pieces if piece]

    def _read(self, answers: Sequence[BatchedAnswer], cancel: threading.Event | None) -> dict[int, Tensor]:
        """Float32 logits [vocabulary] behind the tokens of each answer that is read to its end now."""
        counts = self._shares([len(answer.unread) for answer in answers])
        parts = [(answer.unread[:count], answer.space) for answer, count in zip(answers, counts, strict=True) if count]
        whole = [answer for answer, count in zip(answers, counts, strict=True) if count == len(answer.unread)]
        for ids, space in parts:
            space.make_room(len(ids))
        before = [space.length for _, space in parts]
        try:
            with self._model.scheduler.turn(cancel, tokens=sum(count for count in counts if count > 1)):
                found = self._decoder.hidden_together(parts, cancel)
                last = {id(space): state[-1] for (_, space), state in zip(parts, found, strict=True)}
                ends = [last[id(answer.space)] for answer in whole]
                rows: list[Tensor] = list(self._decoder.project(torch.stack(ends))) if ends else []
                new = [number for number, answer in enumerate(whole) if answer.rival and not answer.chosen]
                self._judge([whole[number] for number in new], [rows[number] for number in new], cancel)
        except Cancelled:
            for (_, space), length in zip(parts, before, strict=True):
                space.crop(length)
            raise
        for answer, count in zip(answers, counts, strict=True):
            answer.unread = answer.unread[count:]
        return {id(answer): row for answer, row in zip(whole, rows, strict=True)}

    def _shares(self, unread: Sequence[int]) -> list[int]:
        """How many of each answer's unread tokens this step reads: single ones always, of prompts what time allows.

        Short prompts go first, for then most answers begin soon; half of the time is the oldest one's, so none starves.
        """
        if self._prompt_s is None:
            return list(unread)
        speed = self._model.scheduler.speed("own")
        left = UNMEASURED_PROMPT_TOKENS if speed is None else max(LEAST_PROMPT_TOKENS, int(self._prompt_s * speed))
        prompts = [number for number, count in enumerate(unread) if count > 1]
        shares = [int(count == 1) for count in unread]
        for number in prompts[:1]:
            shares[number] = min(unread[number], left // 2)
        left -= sum(shares[number] for number in prompts)
        for number in sorted(prompts, key=lambda one: unread[one]):
            more = min(unread[number] - shares[number], left)
            shares[number] += more
            left -= more
        return shares

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
