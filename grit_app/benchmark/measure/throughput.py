"""Tokens per second beside the libraries that people would use instead: `python -m grit_app.benchmark throughput`.

    encode   `GritLM.encode` beside sentence-transformers: same weights, ids, mask, pooling and precision
    decode   `GritLM.stream_ids` beside `transformers.generate`: same weights, context and greedy tokens

The two sides take turns in one process, and before anything is timed their results must agree: a ratio between two
programs that compute different things would say nothing. Lengths differ from turn to turn: other texts, a context a few
tokens longer. What the first use of each side took is told apart (`first_ours_ms`, `first_peer_ms`).
"""

from __future__ import annotations

import copy
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from grit_app.benchmark import environment
from grit_app.benchmark.inputs.texts import TextMaker
from grit_app.benchmark.options import (
    load_model,
    model_folder,
    model_parser,
    names,
    numbers,
    parse,
    teller,
    write_result,
)
from grit_app.benchmark.timing import summarize
from grit_app.errors import GritError, SettingsError
from grit_app.gritlm import GritLM, KVCache, Sampling
from grit_app.gritlm.load import int8
from grit_app.gritlm.load.loading import quiet_transformers
from grit_app.gritlm.load.sources import find_folder
from grit_app.gritlm.prompts import EMBED

Record = dict[str, Any]
Task = Literal["encode", "decode"]
Side = Literal["ours", "peer"]

MEDIAN_WORDS, SPREAD, MOST_WORDS = 40, 0.8, 400
"""Log-normal lengths like those of sentences and paragraphs in one collection; cut where a passage would be cut."""

AGREEMENT = 0.999
"""Least cosine between the two sides' vectors of a text, in float32."""

FIRST_TEXTS = 64
"""Whose vectors are compared before anything is timed, and whose time is that of the first use."""

STRIDE = 7
"""Tokens by which the contexts of two turns differ."""

HALF_AGREEMENT = 0.99
"""The same in half precision, where both sides round at other places."""


class DisagreementError(GritError):
    """The two sides of a comparison computed different things, so their speeds cannot be compared."""


def measure_encode(
    model: GritLM,
    peer: SentenceTransformersPeer,
    texts: int = 2000,
    batch_size: int = 32,
    repeats: int = 3,
    seed: int = 0,
) -> Record:
    """Embedding speed in turns with sentence-transformers. Raises DisagreementError."""
    collections = [log_normal_texts(model, texts, seed + turn) for turn in range(repeats)]
    first = collections[0][:FIRST_TEXTS]
    sides: dict[Side, Callable[[list[str]], Any]] = {
        "ours": lambda some: model.encode(some, batch_size=batch_size),
        "peer": lambda some: peer.encode(some, batch_size),
    }
    firsts = {side: _milliseconds(partial(run, first)) for side, run in sides.items()}
    check_vectors(model, peer, first)
    tokens = [sum(len(prompt.ids) for prompt in model.prompts.embed_many(each)) for each in collections]
    times: dict[Side, list[float]] = {"ours": [], "peer": []}
    for collection in collections:
        for side, run in sides.items():
            times[side].append(_milliseconds(partial(run, collection)))
    return _record("encode", "sentence-transformers", tokens, times, firsts, model) | {"texts": texts, "context": None}


def measure_decode(model: GritLM, context: int, new_tokens: int = 32, repeats: int = 5, seed: int = 0) -> Record:
    """Speed of writing behind about `context` cached tokens, in turns with `generate`; the first token is not
    counted."""
    longest = context + STRIDE * repeats
    ids = model.prompts.opening(TextMaker(model.prompts, model.tokenizer.get_vocab(), seed).words(longest))[:longest]
    whole = model.causal_cache(ids[:-1])
    times: dict[Side, list[float]] = {"ours": [], "peer": []}
    firsts: dict[Side, float] = {}
    tokens: list[int] = []
    same = True
    for turn in range(repeats + 1):
        length = context + STRIDE * turn
        ours = whole.slice(0, length - 1).clone()
        theirs = _dynamic_cache(ours)
        own_ms, own = _decode_ours(model, ours, ids[:length], new_tokens)
        peer_ms, other = _decode_peer(model, theirs, ids[:length], new_tokens)
        same = same and own == other
        if turn == 0:
            firsts = {"ours": own_ms, "peer": peer_ms}
            continue
        tokens.append(len(own) - 1)
        times["ours"].append(own_ms)
        times["peer"].append(peer_ms)
    return _record("decode", "transformers.generate", tokens, times, firsts, model) | {
        "context": context,
        "texts": None,
        "same_tokens": same,
    }


def _record(
    task: Task,
    peer: str,
    tokens: list[int],
    times: dict[Side, list[float]],
    firsts: dict[Side, float],
    model: GritLM,
) -> Record:
    """`ratio` is the median of the turns' ratios: a slow minute of the machine hits both sides of a turn."""
    ratios = sorted(theirs / ours for ours, theirs in zip(times["ours"], times["peer"], strict=True))
    speeds = {
        side: [count / (ms / 1e3) for count, ms in zip(tokens, taken, strict=True)] for side, taken in times.items()
    }
    return {
        "task": task,
        "peer": peer,
        "dtype": str(model.dtype).removeprefix("torch."),
        "tokens": tokens,
        "ours_ms": summarize(times["ours"]),
        "peer_ms": summarize(times["peer"]),
        "first_ours_ms": summarize([firsts["ours"]]),
        "first_peer_ms": summarize([firsts["peer"]]),
        "ours_tokens_per_s": round(float(np.median(speeds["ours"])), 2),
        "peer_tokens_per_s": round(float(np.median(speeds["peer"])), 2),
        "ratio": round(float(np.median(ratios)), 3),
    }


def _milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def log_normal_texts(model: GritLM, count: int, seed: int = 0) -> list[str]:
    """Texts of words of the vocabulary, with log-normal lengths."""
    maker, draw = TextMaker(model.prompts, model.tokenizer.get_vocab(), seed), random.Random(seed)
    lengths = [min(MOST_WORDS, max(1, round(draw.lognormvariate(np.log(MEDIAN_WORDS), SPREAD)))) for _ in range(count)]
    return [maker.words(length) for length in lengths]


@contextmanager
def plain_folder(folder: Path, model: GritLM) -> Iterator[Path]:
    """The folder itself, or for an int8 checkpoint a copy for as long as it is needed, with the weights as loaded."""
    if int8.file_names(folder) is None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="grit-plain-") as name, quiet_transformers():
        model.hf_model.save_pretrained(name)
        model.tokenizer.save_pretrained(name)
        yield Path(name)


class SentenceTransformersPeer:
    """sentence-transformers over the same checkpoint: same header, left out of the mean, and the same attention."""

    def __init__(self, folder: str | Path, model: GritLM) -> None:
        try:
            from sentence_transformers import SentenceTransformer
            from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
        except ImportError as error:
            raise GritError(
                "sentence-transformers is not installed; only this comparison needs it. "
                "Install it with: pip install -r requirements-dev.txt"
            ) from error
        with plain_folder(find_folder(folder), model) as plain:
            trunk = Transformer(
                str(plain),
                model_kwargs={"dtype": model.dtype, "attn_implementation": "sdpa"},
                config_kwargs={"sliding_window": None},
                processor_kwargs={"padding_side": "right"},
                # Text alone: with a chat template, every text would be put into a chat.
                modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
                module_output_name="token_embeddings",
            )
        # What the call's argument of that name writes, for good: sentence-transformers does not pass the argument on.
        trunk.model.config.is_causal = model.config.embedding_is_causal
        self.trunk = trunk.model
        pooling = Pooling(model.hidden_size, "mean", include_prompt=False)
        self._model = SentenceTransformer(modules=[trunk, pooling, Normalize()], device=str(model.device))
        bos = str(model.tokenizer.bos_token)
        adds_bos = trunk.tokenizer("a")["input_ids"][0] == model.prompts.bos_id
        self._prompt = EMBED if adds_bos else bos + EMBED

    def encode(self, texts: list[str], batch_size: int) -> NDArray[np.float32]:
        """Float32 [n, hidden], L2-normalised."""
        rows = self._model.encode(texts, prompt=self._prompt, batch_size=batch_size, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)


def check_vectors(model: GritLM, peer: SentenceTransformersPeer, texts: list[str]) -> None:
    """Raises DisagreementError if a text's two vectors differ by more than rounding."""
    cosines = (model.encode(texts, normalize=True) * peer.encode(texts, batch_size=8)).sum(axis=1)
    least = AGREEMENT if model.dtype == torch.float32 else HALF_AGREEMENT
    if cosines.min() < least:
        raise DisagreementError(
            f"sentence-transformers gives other vectors for the same texts (cosine {cosines.min():.4f}), so the speeds "
            "of the two cannot be compared. Check its version against requirements-dev.txt."
        )


def _decode_ours(model: GritLM, cache: KVCache, ids: list[int], new_tokens: int) -> tuple[float, list[int]]:
    """Milliseconds after the first token, and the tokens."""
    plain = Sampling(max_new_tokens=new_tokens, repetition_penalty=1.0, no_repeat_ngram_size=0)
    stream = model.stream_ids(ids[-1:], cache, plain, beyond_context=True)
    stream.read_all()
    return stream.stats.total_ms - stream.stats.ttft_ms, list(stream.token_ids)


class _Stopwatch(BaseStreamer):
    """Notes when each token of `generate` arrives on the host."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None: ...


def _decode_peer(model: GritLM, cache: DynamicCache, ids: list[int], new_tokens: int) -> tuple[float, list[int]]:
    """The same by `generate`, which gets the whole prompt and a copy of its cache: all but the last token."""
    watch, prompt = _Stopwatch(), torch.tensor([ids], device=model.device)
    with model.lock, torch.inference_mode():
        output: Any = model.hf_model.generate(  # type: ignore[operator]  # a mixin that the stubs do not know
            prompt,
            attention_mask=torch.ones_like(prompt),
            past_key_values=copy.deepcopy(cache),
            max_new_tokens=new_tokens,
            do_sample=False,
            streamer=watch,
            pad_token_id=model.prompts.eos_id,
        )
    # The first value is the prompt, the second the first token.
    tokens = output[0, len(ids) :].tolist()
    return (watch.times[-1] - watch.times[1]) * 1e3, [token for token in tokens if token != model.prompts.eos_id]


def _dynamic_cache(cache: KVCache) -> DynamicCache:
    """What transformers holds for the same tokens."""
    return DynamicCache([(keys[None], values[None]) for keys, values in zip(cache.keys, cache.values, strict=True)])


def main(argv: Sequence[str]) -> int:
    """The command. See `--help`."""
    parser = model_parser("throughput", __doc__ or "")
    parser.add_argument("--tasks", type=names, default=["encode", "decode"], help="What to measure.")
    parser.add_argument("--texts", type=int, default=2000, help="Texts to embed.")
    parser.add_argument("--batch_size", type=int, default=32, help="Of sentence-transformers, and of ours.")
    parser.add_argument("--contexts", type=numbers, default=[64, 4096, 8192], help="Tokens before decoding begins.")
    parser.add_argument("--new_tokens", type=int, default=32, help="Tokens to decode.")
    parser.add_argument("--repeats", type=int, default=3, help="Turns of each pair.")
    options = parse(parser, argv)
    if unknown := sorted(set(options.tasks) - {"encode", "decode"}):
        raise SettingsError(f"There is no task {unknown[0]!r}. Use encode, decode, or both.")
    tell = teller()
    with model_folder(options) as folder:
        model = load_model(options, folder)
        facts, records = environment.describe(model), []
        if "encode" in options.tasks:
            peer = SentenceTransformersPeer(folder, model)
            records.append(
                measure_encode(model, peer, options.texts, options.batch_size, options.repeats, options.seed)
            )
            tell(one_line(records[-1]))
        for context in options.contexts if "decode" in options.tasks else []:
            records.append(measure_decode(model, context, options.new_tokens, options.repeats, options.seed))
            tell(one_line(records[-1]))
    write_result({"environment": facts, "records": records}, options.json)
    return 0


def one_line(record: Record) -> str:
    """The record for a terminal."""
    what = f"{record['texts']} texts" if record["context"] is None else f"{record['context']} tokens before"
    return (
        f"{record['task']:<7}{what:<20}{record['ours_tokens_per_s']:>10.1f} tokens/s   {record['peer']} "
        f"{record['peer_tokens_per_s']:.1f}   ratio {record['ratio']:.2f}"
    )
