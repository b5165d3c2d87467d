"""Measures the training code side by side with the plain way, in one run on one machine.

    python -m training.benchmark --json OUT.json

throughput   useful tokens a second of a unified step, beside a plain loop over the same model and samples: padded
             batches in the order they come, logits of all positions, no chunks by length. Lengths are log-normal.
memory       peak resident memory of a contrastive batch of `large` queries and of 64 at the same chunk budget, each in
             a process of its own
gradcache    time of a step with GradCache and without, at equal batch and chunks (bound: one forward more, 4/3)

Every pair is interleaved and repeated; ratios of medians of the same run. Absolute numbers are the machine's.
"""

from __future__ import annotations

import json
import math
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jsonargparse import SUPPRESS, ArgumentParser, Namespace
from torch.nn import functional as F
from transformers import MistralConfig, MistralForCausalLM

from training.config import (
    ContrastiveConfig,
    DataConfig,
    DataFile,
    GenerativeConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from training.data.batches import StepLoader
from training.data.formats import ContrastiveSample, GenerativeSample, open_datasets
from training.run.estimate import peak_memory_gib
from training.run.setup import Trainer, set_up
from training.step.distributed import Ranks
from training.toy.make import make_tokenizer

SHAPES: dict[str, dict[str, int]] = {
    "2m": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 3},
    "36m": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 12, "num_attention_heads": 8},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
}
MEDIAN_TOKENS, SPREAD, LONGEST = 48, 0.8, 512
"""Log-normal lengths: median, standard deviation of the logarithm, and where they are cut."""


def make_files(folder: Path, rows: int, seed: int = 0) -> None:
    """A random model's tokenizer and data files in `folder`. One word is about one token."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choice("abcdefghijklmnop") for _ in range(3)) for _ in range(400)]

    def text() -> str:
        length = min(LONGEST, max(4, round(MEDIAN_TOKENS * math.exp(rng.gauss(0, SPREAD)))))
        return " ".join(rng.choice(vocabulary) for _ in range(length))

    tokenizer = make_tokenizer([" ".join(vocabulary)] * 50, vocab_size=1000)
    tokenizer.save_pretrained(folder / "model")
    pairs = [{"query": text()[:80], "pos": [text()], "neg": [text()]} for _ in range(rows)]
    chats = [{"text": [text(), text()]} for _ in range(max(64, rows // 4))]
    for name, lines in (("pairs", pairs), ("chats", chats)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make_model(folder: Path, shape: str) -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        **SHAPES[shape],  # type: ignore[arg-type]
        vocab_size=8192,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=4096,
        sliding_window=None,
        tie_word_embeddings=True,
    )
    MistralForCausalLM(config).save_pretrained(folder / "model")


def settings(folder: Path, *, batch: int, chunk_tokens: int, precision: Any, generative: bool = True) -> TrainConfig:
    names = ("pairs", "chats") if generative else ("pairs",)
    return TrainConfig(
        model=ModelConfig(path=str(folder / "model")),
        data=DataConfig(train=[DataFile(path=str(folder / f"{name}.jsonl")) for name in names]),
        run=RunConfig(steps=1, precision=precision),
        contrastive=ContrastiveConfig(batch_size=batch, chunk_tokens=chunk_tokens, cache_gradients=False),
        generative=GenerativeConfig(batch_size=max(1, batch // 4), chunk_tokens=chunk_tokens),
    )


def plain_step(trainer: Trainer, loader: StepLoader, step: int, micro_batch: int) -> int:
    """The usual way over the same samples: padded batches as they come, logits everywhere. Gives the useful tokens."""
    trainer.core.zero_grad(set_to_none=True)
    data, prompts, model = trainer.config.data, trainer.prompts, trainer.core.hf_model
    device = trainer.ranks.device
    tokens = 0
    rows = loader.orders["contrastive"].batch(step)
    sides: list[list[Any]] = [[], []]
    for dataset, index in rows:
        sample = loader.datasets["contrastive"][dataset][index]
        assert isinstance(sample, ContrastiveSample)
        sides[0].append(prompts.embed(sample.query.text, "", data.query_max_length))
        sides[1] += [
            prompts.embed(t.text, "", data.passage_max_length) for t in (sample.positives[0], sample.negatives[0])
        ]
    with trainer.accelerator.autocast():
        pooled = []
        for side in sides:
            width = max(len(p.ids) for p in side)
            ids = torch.zeros(len(side), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            spans = torch.zeros(len(side), width)
            for row, prompt in enumerate(side):
                ids[row, : len(prompt.ids)] = torch.tensor(prompt.ids)
                mask[row, : len(prompt.ids)] = 1
                spans[row, prompt.header_length : len(prompt.ids)] = 1
                tokens += len(prompt.ids)
            hidden = model.get_decoder()(
                input_ids=ids.to(device), attention_mask=mask.to(device), is_causal=False, use_cache=False
            ).last_hidden_state
            weights = spans.to(device)[:, :, None]
            pooled.append(F.normalize((hidden.float() * weights).sum(1) / weights.sum(1), dim=1))
        scores = pooled[0] @ pooled[1].T / trainer.config.contrastive.temperature
        F.cross_entropy(scores, torch.arange(len(scores), device=device) * 2).backward()
        chats = []
        for dataset, index in loader.orders["generative"].batch(step):
            sample = loader.datasets["generative"][dataset][index]
            assert isinstance(sample, GenerativeSample) and not isinstance(sample.turns, str)
            turns = [{"role": r, "content": c} for r, c in zip(("user", "assistant"), sample.turns, strict=True)]
            chats.append(prompts.chat(turns, add_generation_prompt=False))
        for start in range(0, len(chats), micro_batch):
            part = chats[start : start + micro_batch]
            width = max(len(chat.ids) for chat in part)
            ids = torch.zeros(len(part), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            labels = torch.full_like(ids, -100)
            for row, chat in enumerate(part):
                ids[row, : len(chat.ids)] = torch.tensor(chat.ids)
                mask[row, : len(chat.ids)] = 1
                for first, last in chat.answer_spans:
                    labels[row, first:last] = ids[row, first:last]
                tokens += len(chat.ids)
            moved = {"input_ids": ids, "attention_mask": mask, "labels": labels}
            model(**{k: v.to(device) for k, v in moved.items()}, use_cache=False).loss.backward()
    return tokens


def timed(run: Callable[[], int], device: torch.device) -> tuple[float, int]:
    """(seconds, what `run` gave)"""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    result = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, result


def our_step(trainer: Trainer, loader: StepLoader, step: int) -> int:
    trainer.core.zero_grad(set_to_none=True)
    batch = loader.load(step)
    trainer.stepper.gradients(batch)
    return batch.tokens


def throughput(folder: Path, options: Namespace) -> dict[str, Any]:
    """Tokens a second of both ways, interleaved, tokenising included."""
    config = settings(folder, batch=options.batch, chunk_tokens=options.chunk_tokens, precision=options.precision)
    trainer, loader = _trainer(config)
    ours, plain = [], []
    for step in range(options.repeats + 1):
        at = step % 4
        fast, tokens = timed(partial(our_step, trainer, loader, at), trainer.ranks.device)
        slow, useful = timed(partial(plain_step, trainer, loader, at, 8), trainer.ranks.device)
        assert tokens == useful, "the two ways read different samples"
        if step:  # the first round warms up
            ours.append(tokens / fast)
            plain.append(useful / slow)
    found = {"tokens_per_s": statistics.median(ours), "plain_tokens_per_s": statistics.median(plain)}
    found["ratio"] = found["tokens_per_s"] / found["plain_tokens_per_s"]
    parameters = sum(p.numel() for p in trainer.core.parameters())
    # Forward and backward: 6 FLOP a parameter and token; attention left out, so this is a lower bound.
    found["model_tflop_per_s"] = 6 * parameters * found["tokens_per_s"] / 1e12
    if options.peak_tflops:
        found["model_flops_utilisation"] = found["model_tflop_per_s"] / options.peak_tflops
    loader.close()
    return {"parameters": parameters, **found}


def gradcache_cost(folder: Path, options: Namespace) -> dict[str, float]:
    """Median seconds of a contrastive step with and without GradCache, interleaved."""
    config = settings(
        folder, batch=options.batch, chunk_tokens=options.chunk_tokens, precision=options.precision, generative=False
    )
    trainer, loader = _trainer(config)
    batch = loader.load(0)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for step in range(options.repeats + 1):
        for cached in (True, False):
            trainer.stepper.config = replace(config, contrastive=replace(config.contrastive, cache_gradients=cached))

            def run() -> int:
                trainer.core.zero_grad(set_to_none=True)
                trainer.stepper.gradients(batch)
                return 0

            spent, _ = timed(run, trainer.ranks.device)
            if step:
                seconds[cached].append(spent)
    loader.close()
    cached_s, plain_s = statistics.median(seconds[True]), statistics.median(seconds[False])
    return {"cached_s": cached_s, "plain_s": plain_s, "ratio": cached_s / plain_s}


def memory_of(folder: Path, batch: int, chunk_tokens: int, precision: str) -> dict[str, float]:
    """Peak GiB of one contrastive step with GradCache, and that of the loaded model. For a fresh process."""
    config = settings(folder, batch=batch, chunk_tokens=chunk_tokens, precision=precision, generative=False)
    config = replace(config, contrastive=replace(config.contrastive, cache_gradients=True))
    trainer, loader = _trainer(config)
    loaded = peak_memory_gib()
    our_step(trainer, loader, 0)
    loader.close()
    return {"batch": batch, "peak_gib": peak_memory_gib(), "loaded_gib": loaded}


def memory(folder: Path, options: Namespace) -> dict[str, Any]:
    """Peaks of a batch of 64 and of a large one, each in its own process."""
    found = []
    for batch in (64, options.large):
        command = [sys.executable, "-m", "training.benchmark", "--one_memory", str(folder), "--batch", str(batch)]
        command += ["--chunk_tokens", str(options.chunk_tokens), "--precision", options.precision]
        found.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return {"runs": found, "ratio": found[1]["peak_gib"] / found[0]["peak_gib"]}


def _trainer(config: TrainConfig) -> tuple[Trainer, StepLoader]:
    trainer = set_up(config)
    loader = StepLoader(config, open_datasets(config.data.train), trainer.prompts, trainer.grit)
    assert trainer.ranks == Ranks.here(trainer.ranks.device)
    return trainer, loader


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="2m")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--large", type=int, default=2048)
    parser.add_argument("--chunk_tokens", type=int, default=8192)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak_tflops", type=float, help="what the hardware can do, for model FLOPs utilisation")
    parser.add_argument("--parts", nargs="+", default=["throughput", "gradcache", "memory"])
    parser.add_argument("--one_memory", type=Path, help=SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one_memory:
        print(json.dumps(memory_of(options.one_memory, options.batch, options.chunk_tokens, options.precision)))
        return
    result: dict[str, Any] = {"environment": environment(), "options": {k: str(v) for k, v in vars(options).items()}}
    measures = {"throughput": throughput, "gradcache": gradcache_cost, "memory": memory}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, rows=max(4 * options.batch, options.large if "memory" in options.parts else 0))
        make_model(folder, options.shape)
        for part in options.parts:
            result[part] = measures[part](folder, options)
            print(f"{part}: {json.dumps(result[part])}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    return {
        "machine": platform.processor() or platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
