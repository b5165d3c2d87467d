"""Is the full prefill that everything is compared with a good one? It runs beside plain transformers, at its best.

A slow baseline would flatter every cache, so each latency result carries this check.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from grit_app.benchmark.timing import summarize, synchronize
from grit_app.gritlm import GritLM, Sampling

PROBE_TOKENS = 32
"""Length at which precisions are compared: without support in hardware bfloat16 is a hundred times slower."""


def check_baseline(model: GritLM, tokens: int, repeats: int = 3) -> dict[str, Any]:
    """Full prefill of `tokens` ids by this project and by plain transformers, in turns.

    Gives `{tokens, dtype, ours_ms, transformers_ms, ours_over_transformers}`; up to 1.1 the baseline is a fair one.
    transformers runs in the model's own precision, or in the other one of float32 and bfloat16 if that is faster here.
    """
    ids = torch.arange(tokens, device=model.device).remainder(model.tokenizer.vocab_size - 8)[None] + 4
    weights_dtype, best_dtype = model.dtype, _fastest_dtype(model, ids[:, : min(tokens, PROBE_TOKENS)])
    ours, theirs = [], []
    prompt = ids[0].tolist()
    for turn in range(repeats + 1):
        mine = _ours(model, prompt)
        plain = _in_dtype(model, best_dtype, ids)
        if turn > 0:  # the first is warm-up
            ours.append(mine)
            theirs.append(plain)
    assert model.dtype == weights_dtype
    ratio = sorted(a / b for a, b in zip(ours, theirs, strict=True))[len(ours) // 2]
    return {
        "tokens": tokens,
        "dtype": str(best_dtype).removeprefix("torch."),
        "ours_ms": summarize(ours),
        "transformers_ms": summarize(theirs),
        "ours_over_transformers": round(ratio, 3),
    }


def _ours(model: GritLM, prompt: list[int]) -> float:
    stream = model.stream_ids(prompt, sampling=Sampling(max_new_tokens=1))
    stream.read_all()
    return stream.stats.ttft_ms


@torch.inference_mode()
def _plain(model: GritLM, ids: torch.Tensor) -> float:
    """The stock forward as `generate` calls it: with a cache, and logits of the last token alone."""
    synchronize(model.device)
    start = time.perf_counter()
    with model.lock:
        output = model.hf_model(input_ids=ids, is_causal=True, use_cache=True, logits_to_keep=1)
        int(output.logits[0, -1].argmax())
    return (time.perf_counter() - start) * 1e3


def _in_dtype(model: GritLM, dtype: torch.dtype, ids: torch.Tensor) -> float:
    if dtype == model.dtype:
        return _plain(model, ids)
    with torch.autocast(model.device.type, dtype=dtype):
        return _plain(model, ids)


def _fastest_dtype(model: GritLM, ids: torch.Tensor) -> torch.dtype:
    """The model's own precision, or bfloat16 by autocast where that is faster."""
    candidates = [model.dtype] if model.dtype != torch.float32 else [torch.float32, torch.bfloat16]
    times = {dtype: min(_in_dtype(model, dtype, ids) for _ in range(2)) for dtype in candidates}
    return min(times, key=lambda dtype: times[dtype])
