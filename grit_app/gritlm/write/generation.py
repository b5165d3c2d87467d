"""Everything that writes with the model: answers over caches, chats that keep their cache, likelihoods.

`GritLM` has thin methods for these functions. Each forward is a turn at the model's scheduler, not a whole answer: an
answer owns its keys and values, so other work goes on between two of its tokens, and between two layers.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from grit_app.gritlm.budget import Budget
from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.loaded import Loaded
from grit_app.gritlm.memory import with_second_try
from grit_app.gritlm.write.decoding import Constraint, Sampling, TokenStream
from grit_app.gritlm.write.fixed_step import Steps
from grit_app.gritlm.write.runtime import Decoder, Workspace
from grit_app.gritlm.write.scoring import score as score

SHORTER = "Ask with fewer or shorter passages, start a new conversation, or load the model with --quantization 4bit."

ANSWER_ROOM_TOKENS = 512
"""Rows made ready for an answer at first; a longer one moves to a larger buffer when it gets there."""


def stream_ids(
    model: Loaded,
    tail_ids: Sequence[int],
    cache: KVCache | None = None,
    sampling: Sampling | None = None,
    constraint: Constraint | None = None,
    cancel: threading.Event | None = None,
    beyond_context: bool = False,
) -> TokenStream:
    """The answer to a prompt given as `cache` (may be None) followed by `tail_ids` (at least one).

    The cache is left as it was and can be used again, also by several answers at once.
    beyond_context   for measuring time only: read prompts that are longer than the model's context
    """
    if not tail_ids:
        raise InputError("The prompt is empty: at least one token must be computed to answer it.")
    sampling = sampling or Sampling()
    reader = _CacheReader(model, cache, len(tail_ids), sampling)
    return _stream(model, reader, tail_ids, sampling, constraint, cancel, beyond_context)


def stream(
    model: Loaded,
    messages: Sequence[Mapping[str, str]],
    sampling: Sampling | None = None,
    cancel: threading.Event | None = None,
    conversation: Conversation | None = None,
) -> TokenStream:
    """The model's answer to a chat. With `conversation`, what it has read of this chat before is not read again."""
    ids = model.prompts.chat(messages).ids
    if conversation is None:
        return stream_ids(model, ids, sampling=sampling, cancel=cancel)
    sampling = sampling or Sampling()
    return _stream(model, _ConversationReader(model, conversation, ids, sampling), ids, sampling, None, cancel)


def _stream(
    model: Loaded,
    reader: _CacheReader | _ConversationReader,
    ids: Sequence[int],
    sampling: Sampling,
    constraint: Constraint | None,
    cancel: threading.Event | None,
    beyond_context: bool = False,
) -> TokenStream:
    room = sampling.max_new_tokens if beyond_context else model.context - reader.prompt_tokens
    if room < 1:
        raise InputError(
            f"The prompt has {reader.prompt_tokens:,} tokens, and this model reads at most {model.context:,}. Shorten "
            "it, or start a new conversation."
        )
    return TokenStream(
        reader,
        ids,
        decode=model.prompts.decode,
        stop_ids=stop_ids(model),
        sampling=completed(sampling, model, room),
        constraint=constraint,
        cancel=cancel,
    )


def completed(sampling: Sampling, model: Loaded, room: int) -> Sampling:
    """The sampling with the checkpoint's guards where it names none, and no more tokens than there is room for."""
    penalty, ngram_size = sampling.repetition_penalty, sampling.no_repeat_ngram_size
    return replace(
        sampling,
        max_new_tokens=min(sampling.max_new_tokens, room),
        repetition_penalty=model.config.repetition_penalty if penalty is None else penalty,
        no_repeat_ngram_size=model.config.no_repeat_ngram_size if ngram_size is None else ngram_size,
    )


def stop_ids(model: Loaded) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's EOS, and those of the checkpoint's generation settings."""
    settings = model.hf_model.generation_config
    extra = settings.eos_token_id if settings is not None else None
    return frozenset([model.prompts.eos_id, *([extra] if isinstance(extra, int) else extra or [])])


def causal_cache(model: Loaded, ids: Sequence[int], cancel: threading.Event | None = None) -> KVCache:
    """Keys and values of `ids` read as a prompt's beginning: what follows is answered as after the full prompt."""
    if not ids:
        raise InputError("There are no tokens to read into a KV cache.")
    decoder = Decoder(model.hf_model, model.scheduler.breathe)
    space = decoder.workspace(None, new_tokens=len(ids))
    with model.scheduler.turn(cancel, tokens=len(ids)):
        decoder.hidden(ids, space, cancel)
    return KVCache(
        keys=torch.stack([keys.to(model.device) for keys in space.keys]),
        values=torch.stack([values.to(model.device) for values in space.values]),
        ids=torch.tensor(list(ids), dtype=torch.int32),
        header_length=0,
        attention="causal",
    )


class _CacheReader:
    """Reads on top of a cache, into a workspace of its own that lives as long as the answer."""

    def __init__(self, model: Loaded, cache: KVCache | None, tail_tokens: int, sampling: Sampling) -> None:
        self.cached_tokens = cache.length if cache else 0
        self.prompt_tokens = self.cached_tokens + tail_tokens
        self._model = model
        self._decoder = Decoder(model.hf_model, model.scheduler.breathe)
        self._cache = cache
        self._new_tokens = tail_tokens + min(sampling.max_new_tokens, ANSWER_ROOM_TOKENS)
        self._steps = Steps(self._decoder, model.hf_model, model.quantization, self._new_tokens)
        self._space: Workspace | None = None

    def read(self, ids: Sequence[int], cancel: threading.Event | None) -> Tensor:
        return with_second_try(lambda: self._read(ids, cancel), SHORTER)

    def _read(self, ids: Sequence[int], cancel: threading.Event | None) -> Tensor:
        if self._space is None:
            self._space = self._decoder.workspace(self._cache, self._new_tokens)
        self._space.make_room(len(ids))
        with self._model.scheduler.turn(cancel, tokens=len(ids)):
            return self._steps.logits(ids, self._space, cancel)

    def close(self) -> None:
        self._steps.close(None)
        if self._space is not None:
            self._space.close()
            self._space = None


class Conversation:
    """A chat's keys and values between its turns. Give the same object with each turn; it belongs to one chat.

    What a new prompt shares with the one before (usually all of it, the last answer included) is reused exactly. An
    edited or retried turn keeps what lies before the change. Safe if two turns overlap: the second starts from nothing.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held by the answer that uses the conversation, from its first to its last token."""

        self.ids: list[int] = []
        """Tokens whose keys and values are held."""

        self.memory: Budget | None = None
        """Where its bytes are counted, once it has some."""

        self._space: Workspace | None = None
        self._owner: weakref.ref[object] | None = None

    def clear(self, wait_s: float = 2.0) -> None:
        """Forgets everything and frees the memory; waits so long for an answer that was stopped a moment ago."""
        if self.lock.acquire(timeout=wait_s):
            self._forget()

    def let_go(self, _: Hashable = None) -> bool:
        """As `clear`, but False while an answer uses it."""
        if not self.lock.acquire(blocking=False):
            return False
        self._forget()
        return True

    def _forget(self) -> None:
        """Call with the lock held, which is given back."""
        self.ids, self._space, self._owner = [], None, None
        self.lock.release()
        if self.memory is not None:
            self.memory.free(self, None)

    @property
    def nbytes(self) -> int:
        """Of the keys and values, with the room for more."""
        space = self._space
        return 0 if space is None else sum(layer.nbytes for layer in (*space.keys, *space.values))

    def resume(
        self, prompt_ids: Sequence[int], decoder: Decoder, owner: object, new_tokens: int
    ) -> tuple[Workspace, int]:
        """The workspace, cropped to what `prompt_ids` shares with it, and how much that is. Call with the lock held."""
        if self._owner is None or self._owner() is not owner or self._space is None:
            self.ids, self._owner = [], weakref.ref(owner)
            self._space = decoder.workspace(None, len(prompt_ids) + new_tokens)
        shared = 0
        for known, wanted in zip(self.ids, prompt_ids[:-1], strict=False):  # the last one is read again for its logits
            if known != wanted:
                break
            shared += 1
        self._space.crop(shared)
        self.ids = self.ids[:shared]
        return self._space, shared

    def extend(self, ids: Sequence[int], space: Workspace) -> None:
        """Notes what was read. Call with the lock held."""
        self.ids = [*self.ids, *ids]
        self._space = space


class _ConversationReader:
    """Reads a whole chat prompt on top of what the conversation holds of it."""

    def __init__(
        self, model: Loaded, conversation: Conversation, prompt_ids: Sequence[int], sampling: Sampling
    ) -> None:
        self.cached_tokens = 0
        self.prompt_tokens = len(prompt_ids)
        self._model = model
        self._decoder = Decoder(model.hf_model, model.scheduler.breathe)
        self._conversation = conversation
        self._new_tokens = min(sampling.max_new_tokens, ANSWER_ROOM_TOKENS)
        self._steps = Steps(self._decoder, model.hf_model, model.quantization, self._new_tokens)
        self._space: Workspace | None = None
        self._holds_lock = False

    def read(self, ids: Sequence[int], cancel: threading.Event | None) -> Tensor:
        if self._space is None:
            ids = self._open(ids)
        assert self._space is not None
        logits = with_second_try(lambda: self._read(ids, cancel), SHORTER)
        self._conversation.extend(ids, self._space)
        return logits

    def _read(self, ids: Sequence[int], cancel: threading.Event | None) -> Tensor:
        assert self._space is not None
        self._space.make_room(len(ids))
        with self._model.scheduler.turn(cancel, tokens=len(ids)):
            return self._steps.logits(ids, self._space, cancel)

    def _open(self, prompt_ids: Sequence[int]) -> Sequence[int]:
        """Takes the conversation, or an empty one if another answer is using it; the ids still to be read."""
        self._holds_lock = self._conversation.lock.acquire(blocking=False)
        if not self._holds_lock:
            self._conversation = Conversation()
        self._space, self.cached_tokens = self._conversation.resume(
            prompt_ids, self._decoder, self._model.hf_model, self._new_tokens
        )
        return prompt_ids[self.cached_tokens :]

    def close(self) -> None:
        self._steps.close(self._space)
        self._space = None
        if self._holds_lock:
            self._holds_lock = False
            self._conversation.memory = self._model.memory
            self._conversation.lock.release()
            self._model.memory.use(self._conversation, None, self._conversation.nbytes)
