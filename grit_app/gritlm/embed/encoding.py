"""The embedding pass over many texts: windows, batches by token budget, pooling, caches.

    texts ─ window (bounded tokens) ─ sort by length ─ batches ─ forward ─ pool ─ back into the order of the texts

A window is what is held at once; it bounds memory, also with caches. Inside it texts are sorted, so that a batch holds
texts of nearly equal length and wastes little on padding. A batch has a budget of tokens, not of texts: many short ones
or few long ones make forwards of about the same cost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.cache.staging import to_device
from grit_app.gritlm.embed.attention import run_trunk
from grit_app.gritlm.embed.pooling import l2_normalize, pool
from grit_app.gritlm.errors import Cancelled, InputError, ModelError
from grit_app.gritlm.layout import Attention
from grit_app.gritlm.loaded import Loaded
from grit_app.gritlm.memory import with_second_try
from grit_app.gritlm.prompts import EmbedPrompt

TYPICAL_TOKENS: Final = 256
"""Tokens of the text that `batch_size` counts."""

CPU_TOKENS_PER_THREAD: Final = 512
CPU_BATCH_TOKENS: Final = (1024, 4096)
"""On a CPU a batch is not larger than this (least, most). Its activations should stay in the processor's caches, and
below the size at which the allocator maps fresh pages for each tensor. Measured with 36 M parameters on one thread and
11,464 tokens: batches of 1,024 tokens 12.5 s, of 2,048 14.2 s, of 8,192 22.7 s."""

BATCH_S: Final = 0.3
"""Longest forward, but for a single text that takes longer."""

WINDOW_TEXTS: Final = 2048
"""Texts that are sorted together."""

WINDOW_CACHE_BYTES: Final = 256 * 2**20
"""Keys and values held at once while texts wait for their turn; one batch may exceed it."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """One text's result."""

    vector: NDArray[np.float32]
    """[hidden]"""

    cache: KVCache | None
    tokens: int
    """Ids that were read, header included."""

    truncated: bool


def encode_stream(
    model: Loaded,
    texts: Iterable[str],
    instruction: str,
    *,
    return_cache: bool,
    batch_size: int,
    max_length: int | None,
    normalize: bool,
    progress: Callable[[int, int], None] | None,
    cancel: threading.Event | None,
) -> Iterator[Encoding]:
    """See `GritLM.encode_iter`."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}.")
    limit = model.context if max_length is None else min(max_length, model.context)
    total = len(texts) if isinstance(texts, Sequence) else 0
    done = 0
    for window in _windows(model, texts, instruction, limit, return_cache):
        results: list[Encoding | None] = [None] * len(window)
        budget = batch_tokens(batch_size, model.device, model.scheduler.speed("stock"))
        for batch in batches(window, budget):
            if cancel is not None and cancel.is_set():
                raise Cancelled("Embedding was stopped.")
            prompts = [window[index] for index in batch]
            for index, encoding in zip(
                batch, _encode_batch(model, prompts, return_cache, normalize, cancel), strict=True
            ):
                results[index] = encoding
            done += len(batch)
            if progress is not None:
                progress(done, total)
        for index, result in enumerate(results):
            assert result is not None
            results[index] = None  # the consumer's now: a kept window would pin every cache in it
            yield result


def batch_tokens(batch_size: int, device: torch.device, speed: float | None = None) -> int:
    """Tokens in one forward, padding included, for batches of `batch_size` texts of typical length.

    speed   tokens a second, as measured: other people's embeddings wait for at most one forward
    """
    budget = batch_size * TYPICAL_TOKENS
    if speed is not None:
        budget = min(budget, max(1, int(BATCH_S * speed)))
    if device.type != "cpu":
        return budget
    least, most = CPU_BATCH_TOKENS
    return min(budget, max(least, min(most, CPU_TOKENS_PER_THREAD * torch.get_num_threads())))


def _windows(
    model: Loaded, texts: Iterable[str], instruction: str, limit: int, return_cache: bool
) -> Iterator[list[EmbedPrompt]]:
    """Tokenised texts in groups that may be held in memory together."""
    bytes_a_token = cache_bytes_per_token(model) if return_cache else 0
    source, start = iter(texts), 0
    while chunk := list(islice(source, WINDOW_TEXTS)):
        prompts = tokenised(model, chunk, instruction, limit, start)
        start += len(chunk)
        window: list[EmbedPrompt] = []
        held = 0
        for prompt in prompts:
            size = len(prompt.ids) * bytes_a_token
            if window and held + size > WINDOW_CACHE_BYTES:
                yield window
                window, held = [], 0
            window.append(prompt)
            held += size
        yield window


def tokenised(
    model: Loaded, texts: Sequence[str], instruction: str, limit: int | None = None, start: int = 0
) -> list[EmbedPrompt]:
    """The texts' prompts, cut at `limit` ids or at the model's context.

    Raises InputError naming the index of an empty text, counted from `start`.
    """
    for index, text in enumerate(texts, start):
        if not isinstance(text, str) or not text.strip():
            kind = "empty" if isinstance(text, str) else f"not a string but of kind {type(text).__name__}"
            raise InputError(f"Text {index} is {kind}. An embedding needs at least one visible character.")
    return model.prompts.embed_many(texts, instruction, model.context if limit is None else limit)


def batches(prompts: Sequence[EmbedPrompt], budget: int) -> list[list[int]]:
    """Indices of prompts in groups of nearly equal length, the longest first.

    A group has at most `budget` tokens, padding included, or it is one text.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].ids), reverse=True)
    groups: list[list[int]] = []
    for index in order:
        longest = len(prompts[groups[-1][0]].ids) if groups else 0
        if groups and (len(groups[-1]) + 1) * longest <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def encode_prompts(model: Loaded, prompts: list[EmbedPrompt], cancel: threading.Event | None = None) -> list[Encoding]:
    """Vectors of prompts of any instructions in one forward, normalised as the checkpoint says; no caches."""
    return _encode_batch(model, prompts, False, model.config.normalized, cancel)


def _encode_batch(
    model: Loaded, prompts: list[EmbedPrompt], return_cache: bool, normalize: bool, cancel: threading.Event | None
) -> list[Encoding]:
    return with_second_try(
        lambda: _forward(model, prompts, return_cache, normalize, cancel), "Use a smaller batch_size or shorter texts."
    )


def _forward(
    model: Loaded, prompts: list[EmbedPrompt], return_cache: bool, normalize: bool, cancel: threading.Event | None
) -> list[Encoding]:
    ids, lengths = right_padded([prompt.ids for prompt in prompts], model.device)
    headers = host_numbers([prompt.header_length for prompt in prompts], model.device)
    columns = torch.arange(ids.shape[1], device=model.device)
    real = columns < lengths[:, None]
    is_causal = model.config.embedding_is_causal
    # Without padding no mask: sdpa then takes its faster path. Causal rows never see the padding behind them anyway.
    is_padded = len({len(prompt.ids) for prompt in prompts}) > 1
    attention_mask = real.long() if is_padded and not is_causal else None
    with model.scheduler.turn(cancel, "stock", ids.numel()), torch.inference_mode():
        output: Any = run_trunk(
            model.hf_model, ids, is_causal=is_causal, attention_mask=attention_mask, use_cache=return_cache
        )
        vectors = pool(output.last_hidden_state, real & (columns >= headers[:, None]), model.config.pooling)
        if normalize:
            vectors = l2_normalize(vectors)
        rows = vectors.cpu().numpy()  # the one wait of a batch
    if not np.isfinite(rows).all():
        raise ModelError("The model gave no numbers for a text. In float16 some models overflow: load it in float32.")
    caches: list[KVCache | None] = [None] * len(prompts)
    if return_cache:
        # On one device, also where the layers are spread over several.
        layers = [(c.keys.to(model.device), c.values.to(model.device)) for c in output.past_key_values.layers]
        kind: Attention = "causal" if is_causal else "bidirectional"
        caches = [KVCache.harvest(layers, row, p.ids, p.header_length, kind) for row, p in enumerate(prompts)]
    return [
        Encoding(rows[row].copy(), caches[row], len(prompt.ids), prompt.truncated) for row, prompt in enumerate(prompts)
    ]


def right_padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids [batch, longest] filled up with 0 on the right, and lengths [batch]."""
    lengths = [len(sequence) for sequence in sequences]
    padded = np.zeros((len(sequences), max(lengths)), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        padded[row, : lengths[row]] = sequence
    return to_device(torch.from_numpy(padded), device), host_numbers(lengths, device)


def host_numbers(numbers: Sequence[int], device: torch.device) -> Tensor:
    """int64 [n] on `device`, sent without waiting for it."""
    return to_device(torch.from_numpy(np.array(numbers, dtype=np.int64)), device)


def cache_bytes_per_token(model: Loaded) -> int:
    """Bytes of keys and values of one token in all layers."""
    config = model.hf_model.config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head_size * model.dtype.itemsize)
