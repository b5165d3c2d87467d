"""GritLM: one model that embeds and writes.

    model = GritLM.from_pretrained("assets/gritlm-135m")
    vectors = model.encode(["a", "b"], instruction="Represent the sentence")     # float32 [2, hidden]
    text = model.generate([{"role": "user", "content": "Hi"}])

Every forward of the weights, in any thread, is a turn at `model.scheduler` and states `is_causal` (see attention.py).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.embed.attention import prove_attention
from grit_app.gritlm.embed.encoding import Encoding as Encoding
from grit_app.gritlm.embed.encoding import encode_stream
from grit_app.gritlm.embed.short_attention import use_products
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.load.few_rows import rows_bytes, use_few_rows
from grit_app.gritlm.load.loading import (
    PROVEN_FAMILIES,
    choose_quantization,
    load_hf_model,
    load_tokenizer,
    resolve_device,
    resolve_dtype,
)
from grit_app.gritlm.load.size import read_weights
from grit_app.gritlm.load.sources import find_folder, fingerprint
from grit_app.gritlm.loaded import Loaded
from grit_app.gritlm.write import generation
from grit_app.gritlm.write.decoding import Constraint, Sampling, TokenStream

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


class GritLM(Loaded):
    """A loaded model that embeds and writes. Methods may be called from several threads at once."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        quantization: str = "none",
        device: str = "cpu",
        dtype: torch.dtype | str | None = None,
        attention: str | None = None,
        pooling: str | None = None,
    ) -> GritLM:
        """Load from a folder, a GGUF file, the hub's cache, or the hub.

        quantization   none, 8bit, 4bit, or auto: none if that fits, else 4bit
        device         cpu, cuda, cuda:N, or auto
        dtype          None: bfloat16 where the hardware multiplies it, else float32
        attention, pooling   override the checkpoint's; this warns, for a model used otherwise than trained gives poor
                             vectors

        Raises ModelError if the model cannot be found, does not fit, or is damaged.
        """
        folder = find_folder(name_or_path)
        checkpoint_config = GritConfig.load(folder)
        config = checkpoint_config.overridden(attention=attention, pooling=pooling)
        for setting in ("attention", "pooling"):
            trained, used = getattr(checkpoint_config, setting), getattr(config, setting)
            if used != trained:
                log.warning("%s was trained with %s %s and now runs with %s.", name_or_path, setting, trained, used)
        target = resolve_device(device)
        precision = resolve_dtype(target, dtype)
        chosen = choose_quantization(quantization, read_weights(folder), precision, target, str(name_or_path))
        hf_model = load_hf_model(folder, device=target, dtype=precision, quantization=chosen)
        if target.type == "cpu":
            use_products(hf_model)
            use_few_rows(hf_model, folder)
        if hf_model.config.model_type not in PROVEN_FAMILIES:
            prove_attention(hf_model, with_bidirectional=not config.embedding_is_causal)
        parts = [fingerprint(folder), config.prompt_version, config.attention, str(precision), chosen]
        identity = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        name = Path(name_or_path).resolve().name if Path(name_or_path).exists() else str(name_or_path)
        return cls(hf_model, load_tokenizer(folder), config, name=name, identity=identity, quantization=chosen)

    def describe(self) -> dict[str, Any]:
        """Facts for a badge or a report: name, parameters, device, dtype, quantization, memory_bytes, context."""
        return {
            "name": self.name,
            "parameters": int(self.hf_model.num_parameters()),
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "quantization": self.quantization,
            "memory_bytes": int(self.hf_model.get_memory_footprint()) + rows_bytes(self.hf_model),
            "context": self.context,
        }

    def encode(
        self,
        texts: Iterable[str],
        instruction: str = "",
        batch_size: int = 32,
        max_length: int | None = None,
        normalize: bool | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> NDArray[np.float32]:
        """One vector a text, in the order given: float32 [n, hidden]. See `encode_iter` for the arguments.

        Logs a warning if texts had to be cut. No texts give an array of shape [0, hidden].
        """
        if isinstance(texts, str):
            raise InputError("encode takes a list of texts, not one string. Put the text into a list.")
        rows: list[NDArray[np.float32]] = []
        cut = 0
        for encoding in self.encode_iter(
            texts, instruction, False, batch_size, max_length, normalize, progress=progress, cancel=cancel
        ):
            rows.append(encoding.vector)
            cut += encoding.truncated
        if cut:
            log.warning(
                "%d of %d texts were longer than %d tokens and were cut.", cut, len(rows), max_length or self.context
            )
        return np.stack(rows) if rows else np.zeros((0, self.hidden_size), dtype=np.float32)

    def encode_iter(
        self,
        texts: Iterable[str],
        instruction: str = "",
        return_cache: bool = False,
        batch_size: int = 32,
        max_length: int | None = None,
        normalize: bool | None = None,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
    ) -> Iterator[Encoding]:
        """Encodings one by one in the order of the texts, with memory that does not grow with their number.

        instruction   the same for all texts; convention: for queries, not for documents
        return_cache  also give each text's keys and values, its own tokens only, on the model's device
        batch_size    in texts of 256 tokens: shorter texts share a batch in larger numbers, longer ones in smaller. An
                      upper limit; a CPU is faster with less
        max_length    ids of a text with its header; None: the model's own context. Longer texts are cut at the end and
                      say so in `Encoding.truncated`; quality beyond `config.trained_context` is unproven
        normalize     None: as the checkpoint says (L2 by default)
        progress      called with (texts done, all texts); 0 for "all" while a generator's end is unknown
        cancel        an event; once it is set, Cancelled is raised before the next batch. A `Job` also says whose work
                      it is, and how urgent

        Raises InputError naming the index of an empty text, or if the instruction alone fills max_length.
        """
        return encode_stream(
            self,
            texts,
            instruction,
            return_cache=return_cache,
            batch_size=batch_size,
            max_length=max_length,
            normalize=self.config.normalized if normalize is None else normalize,
            progress=progress,
            cancel=cancel,
        )

    def stream(
        self,
        messages: Sequence[Mapping[str, str]],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        cancel: threading.Event | None = None,
        conversation: generation.Conversation | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
    ) -> TokenStream:
        """The answer to a chat, piece by piece: iterate it for text, then read `.stats`. Temperature 0 is greedy.

        With the same `conversation` given at each turn, what was read before is not read again. The repetition guards
        (see `Sampling`) are the checkpoint's own unless they are given.
        """
        sampling = Sampling(
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            repetition_penalty=repetition_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
        )
        return generation.stream(self, messages, sampling, cancel, conversation)

    def generate(
        self,
        messages: Sequence[Mapping[str, str]],
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        cancel: threading.Event | None = None,
        conversation: generation.Conversation | None = None,
        repetition_penalty: float | None = None,
        no_repeat_ngram_size: int | None = None,
    ) -> str:
        """The whole answer to a chat; see `stream`."""
        return self.stream(
            messages,
            max_new_tokens,
            temperature,
            top_p,
            seed,
            cancel,
            conversation,
            repetition_penalty,
            no_repeat_ngram_size,
        ).read_all()

    def stream_ids(
        self,
        tail_ids: Sequence[int],
        cache: KVCache | None = None,
        sampling: Sampling | None = None,
        constraint: Constraint | None = None,
        cancel: threading.Event | None = None,
        beyond_context: bool = False,
    ) -> TokenStream:
        """The answer to a prompt given as a cache (or none) and the ids that follow it.

        beyond_context   for measuring time only: read prompts that are longer than the model's context
        """
        return generation.stream_ids(self, tail_ids, cache, sampling, constraint, cancel, beyond_context)

    def causal_cache(self, ids: Sequence[int], cancel: threading.Event | None = None) -> KVCache:
        """Keys and values of ids as the beginning of a prompt: exact for whatever follows."""
        return generation.causal_cache(self, ids, cancel)

    def score(
        self,
        prompt_ids: Sequence[int],
        continuations: Sequence[Sequence[int]],
        cache: KVCache | None = None,
        cancel: threading.Event | None = None,
    ) -> list[float]:
        """Log-likelihood of each continuation's ids after the cache (or none) and the prompt, summed over its ids."""
        return generation.score(self, prompt_ids, continuations, cache, cancel)
