"""Counts what one step asks of a GPU, on a machine without one: forwards, and operations that would be launches.

    python -m training.benchmark.launches [--rows padded]

The step is of the served recipe's size (512 queries with a negative each, 64 chats, 48 answers in the app's layouts)
over a model of 30 narrow layers: neither number depends on a layer's width. Every operation that writes a tensor counts
as one launch; views do not. Attention over packed rows counts as the one kernel that it is on CUDA: the library's own
operator runs here with a CPU implementation, one sequence after the other.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from jsonargparse import auto_cli
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from grit_app.benchmark.launches import Launches
from training.config import (
    ContrastiveConfig,
    DataConfig,
    DataFile,
    GenerativeConfig,
    ModelConfig,
    RagConfig,
    RunConfig,
    TrainConfig,
)
from training.data.batches import StepLoader
from training.data.chunk import Segments
from training.data.formats import open_datasets
from training.run.kernels import fuse_norms
from training.run.setup import set_up
from training.step import segments
from training.toy.make import make_tokenizer


def varlen_on_cpu() -> None:
    """Gives `varlen_attn` an implementation for CPU tensors, and has packed rows use it."""
    from torch.nn.attention import varlen

    @varlen._varlen_attn.register_kernel("cpu")
    def forward(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_ends: Tensor,
        key_ends: Tensor,
        max_q: int,
        max_k: int,
        is_causal: bool = False,
        scale: float | None = None,
        *rest: Any,
        **_: Any,
    ) -> Any:
        part = Segments(0, len(query), query_ends, key_ends, max_q, max_k, is_causal)
        output = segments.one_by_one(query, key, value, part, scale).contiguous()
        return output, output.new_zeros(query.shape[1], len(query)), torch.zeros(2, dtype=torch.uint64)

    @varlen._varlen_attn_backward.register_kernel("cpu")
    def backward(
        grad: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        out: Tensor,
        lse: Tensor,
        query_ends: Tensor,
        key_ends: Tensor,
        max_q: int,
        max_k: int,
        is_causal: bool,
        rng: Tensor,
        scale: float | None = None,
        window_size: Any = None,
    ) -> Any:
        part = Segments(0, len(query), query_ends, key_ends, max_q, max_k, is_causal)
        return _gradients(grad, query, key, value, part, query.shape[2] ** -0.5 if scale is None else scale)


def _gradients(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, part: Segments, scale: float) -> Any:
    """Of attention, by its definition; autograd does not reach into an operator."""
    found = tuple(torch.zeros_like(tensor) for tensor in (query, key, value))
    queries, keys = part.query_ends.tolist(), part.key_ends.tolist()
    heads, kv_heads = query.shape[1], key.shape[1]
    for start, stop, first, last in zip(queries, queries[1:], keys, keys[1:], strict=False):
        q, g = (tensor[start:stop].transpose(0, 1) for tensor in (query, grad))
        k, v = (t[first:last].repeat_interleave(heads // kv_heads, 1).transpose(0, 1) for t in (key, value))
        scores = q @ k.transpose(1, 2) * scale
        if part.is_causal:
            allowed = torch.ones(scores.shape[1:], dtype=torch.bool).tril(scores.shape[2] - scores.shape[1])
            scores = scores.masked_fill(~allowed, -torch.inf)
        shares = scores.softmax(-1)
        above = g @ v.transpose(1, 2)
        of_scores = shares * (above - (above * shares).sum(-1, keepdim=True)) * scale
        found[0][start:stop] = (of_scores @ k).transpose(0, 1)
        for place, of_keys in ((1, of_scores.transpose(1, 2) @ q), (2, shares.transpose(1, 2) @ g)):
            found[place][first:last] = of_keys.unflatten(0, (kv_heads, -1)).sum(1).transpose(0, 1)
    return found


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """What is counted."""

    rows: Literal["packed", "padded"] = "packed"
    queries: int = 512
    chats: int = 64
    answers: int = 48
    layers: int = 30
    contrastive_tokens: int = 49152
    other_tokens: int = 49152


def count(config: LaunchConfig) -> dict[str, float]:
    """Forwards, launches, launches a forward, and waits of one step."""
    with tempfile.TemporaryDirectory() as name:
        settings = _settings(config, Path(name))
        trainer = set_up(settings)
        is_packed = config.rows == "packed"
        if is_packed:
            varlen_on_cpu()
            fuse_norms(trainer.core)
        datasets = open_datasets(settings.data.train)
        loader = StepLoader(settings, datasets, trainer.prompts, trainer.grit, forwards=trainer.forwards)
        batch = loader.load(0)
        forwards: list[int] = []
        trainer.core.register_forward_hook(lambda *_: forwards.append(1))
        with patch.object(segments, "has_kernel", lambda query: is_packed), Launches() as launches:
            trainer.stepper.gradients(batch)
        loader.close()
    return {
        "tokens": batch.tokens,
        "padding_share": 1 - batch.tokens / batch.padded_tokens,
        "forwards": len(forwards),
        "launches": launches.total,
        "waits": launches.asked,
    }


def _settings(config: LaunchConfig, folder: Path) -> TrainConfig:
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefghijklmnop") for _ in range(3)) for _ in range(400)]

    def text(median: float, longest: int) -> str:
        return " ".join(rng.choice(words) for _ in range(min(longest, max(4, round(rng.lognormvariate(median, 0.7))))))

    make_tokenizer([" ".join(words)] * 50, vocab_size=1000).save_pretrained(folder / "model")
    shape = LlamaConfig(
        vocab_size=1024,
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=config.layers,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=8192,
    )
    LlamaForCausalLM(shape).save_pretrained(folder / "model")

    def pair() -> dict[str, Any]:
        return {"query": text(2.5, 60), "pos": [text(4.2, 210)], "neg": [text(4.2, 210)]}

    def answer() -> dict[str, Any]:
        passages = [text(4.6, 210) for _ in range(5)]
        return {"question": text(2.5, 30), "passages": passages, "gold": [0], "answer": text(1.5, 30)}

    files = {
        "pairs": [pair() for _ in range(config.queries)],
        "chats": [{"text": [text(3, 200), text(4, 800)]} for _ in range(config.chats)],
        "answers": [answer() for _ in range(config.answers)],
    }
    for name, rows in files.items():
        _write(folder / f"{name}.jsonl", rows)
    layouts = {
        "rag_doc_query": 0.35,
        "docs_cache": 0.3,
        "docs_query_cache": 0.15,
        "query_cache": 0.1,
        "prefix_cache": 0.1,
    }
    return TrainConfig(
        model=ModelConfig(path=str(folder / "model")),
        data=DataConfig(
            train=[DataFile(path=str(folder / f"{name}.jsonl")) for name in files],
            query_max_length=96,
            passage_max_length=224,
            generative_max_length=1600,
        ),
        run=RunConfig(steps=1, precision="fp32", rows=config.rows),
        contrastive=ContrastiveConfig(batch_size=config.queries, negatives=1, chunk_tokens=config.contrastive_tokens),
        generative=GenerativeConfig(batch_size=config.chats, chunk_tokens=config.other_tokens),
        rag=RagConfig(batch_size=config.answers, layouts=layouts, max_documents=5, chunk_tokens=config.other_tokens),
    )


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    print(json.dumps(count(auto_cli(LaunchConfig, as_positional=False))))
