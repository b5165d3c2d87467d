"""The language model itself, and how fast and how large the whole is."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import psutil

from grit_app.gritlm import GritLM

WINDOW_TOKENS = 256


def bits_per_byte(model: GritLM, texts: Sequence[str]) -> float:
    """Bits that the model needs for a byte of UTF-8 text. Each window of 256 tokens starts from BOS alone."""
    log_likelihood, size = 0.0, 0
    for text in texts:
        ids = model.prompts.continuation(text)
        size += len(text.encode("utf-8"))
        for at in range(0, len(ids), WINDOW_TOKENS):
            log_likelihood += model.score([model.prompts.bos_id], [ids[at : at + WINDOW_TOKENS]])[0]
    return -log_likelihood / math.log(2) / max(1, size)


def speed(model: GritLM, texts: Sequence[str], load_s: float) -> dict[str, float]:
    """Tokens a second of embedding and of writing, start-up and memory: of this machine as busy as it is now."""
    tokens = sum(len(model.prompts.embed(text).ids) for text in texts)
    model.encode(texts[:8])
    started_s = time.perf_counter()
    model.encode(texts)
    encode_s = time.perf_counter() - started_s
    rates = []
    for seed in range(3):
        stream = model.stream(
            [{"role": "user", "content": "Write about a river."}], max_new_tokens=96, temperature=1.0, seed=seed
        )
        stream.read_all()
        rates.append(stream.stats.tokens_per_s)
    return {
        "encode_tokens_per_s": tokens / encode_s,
        "decode_tokens_per_s": sorted(rates)[1],
        "load_s": load_s,
        "resident_mb": psutil.Process().memory_info().rss / 1e6,
        "parameters": float(model.describe()["parameters"]),
    }
