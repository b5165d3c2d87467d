"""Causal pretraining from nothing, with an optional second stream that teaches the pooled states meaning.

    python -m training.pretrain --config training/recipes/mini-pretrain.yaml --output_dir D --resume auto

One step = one batch of packed rows through the causal model (next-token loss and a z-loss), then, if `distill_texts` is
set, one batch of short texts through the bidirectional one (`training.scratch.distill`). Stopped by SIGTERM or a
kill, the
run goes on with `--resume auto` bit for bit (on a CPU); `--init_from FOLDER` starts anew from weights alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from jsonargparse import auto_cli
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from grit_app.gritlm.load.loading import resolve_dtype
from grit_app.gritlm.prompts import Prompts
from training.run.optimizer import wsd
from training.scratch.checkpoints import RunState, checkpoints, load_state, save_checkpoint
from training.scratch.config import Phase, PretrainConfig
from training.scratch.corpus import CorpusError, SourceConfig, read_documents
from training.scratch.distill import (
    TeacherTexts,
    common_basis,
    pooled_states,
    similarity_distillation,
    vector_distillation,
)
from training.scratch.embedding_init import fit_head, initial_table
from training.scratch.fused_head import head_loss
from training.scratch.muon import Muon, parameter_groups
from training.scratch.packing import RowOrder, TokenSource
from training.scratch.static_table import train_static
from training.scratch.teacher import load_teacher_vectors

log = logging.getLogger(__name__)

# Length of the table's rows: residual additions of the first steps would cover shorter ones (scratch/LOG.md).
TABLE_LENGTH = 6.0

# How much of the slack dimension the final norm lets through; the head needs it as its bias (scratch/LOG.md).
SLACK_WEIGHT = 0.1

DISTILL_TEMPERATURE = 0.1

# Texts that the teacher's basis is turned by: several for each of its some hundred dimensions.
BASIS_TEXTS = 4096

# Running text that the initial table and head are counted from.
COUNTED_TOKENS = 6_000_000


@dataclass(frozen=True)
class Plan:
    """The steps of the run: (phase, first step) pairs."""

    phases: tuple[tuple[Phase, int], ...]
    total_steps: int

    @classmethod
    def of(cls, phases: list[Phase], fraction: float) -> Plan:
        placed, start = [], 0
        for phase in phases:
            placed.append((phase, start))
            start += max(1, round(phase.tokens * fraction / phase.batch_tokens))
        return cls(tuple(placed), start)

    def at(self, step: int) -> tuple[Phase, int]:
        """The phase of a step and the step's number within it."""
        phase, start = [p for p in self.phases if p[1] <= step][-1]
        return phase, step - start


def tokenize_source(config: PretrainConfig, source: SourceConfig, tokenizer: Any) -> TokenSource:
    """All documents of a source as one array, each `<s>` … `</s>`, in an order made by the seed; kept on disk."""
    total = sum(s.weight for s in config.sources)
    budget = int(config.corpus_characters * config.fraction * source.weight / total) + 20_000
    key = json.dumps([asdict(source), budget, config.seed, str(config.data_dir), tokenizer.backend_tokenizer.to_str()])
    path = config.output_dir / "tokens" / f"{source.file}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npy"
    if not path.is_file():
        documents = read_documents(config.data_dir, source)
        np.random.default_rng(config.seed).shuffle(documents)
        sizes = np.cumsum([len(d) for d in documents])
        documents = documents[: int(np.searchsorted(sizes, budget)) + 1]
        ids = tokenizer(documents, add_special_tokens=False)["input_ids"]
        edges = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate([np.array([edges[0], *row, edges[1]], dtype=np.uint16) for row in ids]))
    return TokenSource(f"{source.file}:{source.template}", np.load(path), source.weight)


def new_model(config: PretrainConfig, tokenizer: Any, sources: list[TokenSource]) -> MistralForCausalLM:
    """Random matrices, zero residual outputs, and the counted token table if a teacher is given."""
    torch.manual_seed(config.seed)
    shape = asdict(config.shape)
    rope = {"rope_theta": shape.pop("rope_theta"), "rope_type": "default"}
    model = MistralForCausalLM(
        MistralConfig(
            **shape,
            rope_parameters=rope,
            vocab_size=len(tokenizer),
            tie_word_embeddings=False,
            sliding_window=None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        if not config.teacher_dirs:
            model.lm_head.weight.zero_()
        else:
            _set_counted_tables(config, model, tokenizer, sources)
    return model


def _set_counted_tables(config: PretrainConfig, model: Any, tokenizer: Any, sources: list[TokenSource]) -> None:
    """Input table, final norm and head from counts: a sentence encoder and a model of token pairs, before any step."""
    texts, vectors = load_teacher_vectors(config.teacher_dirs)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    tokens = mixed_tokens(sources, COUNTED_TOKENS)
    hidden = config.shape.hidden_size
    kept = config.output_dir / "initial_table.pt"
    if kept.is_file():
        table = torch.load(kept, weights_only=True)
    else:
        table = initial_table(tokens, ids, vectors, len(tokenizer), hidden)
        if config.static.steps:
            with torch.enable_grad():
                table = train_static(table, config.static, tokenizer, texts, vectors, SLACK_WEIGHT)
        torch.save(table, kept)
    model.model.embed_tokens.weight.copy_(TABLE_LENGTH * table)
    model.model.norm.weight[-1] = SLACK_WEIGHT
    if not config.head_steps:
        model.lm_head.weight.zero_()
        return
    head, loss = fit_head(table * hidden**0.5 * model.model.norm.weight, tokens, steps=config.head_steps)
    model.lm_head.weight.copy_(head)
    log.info("head fitted to %d token pairs: %.3f nats a token", len(tokens), loss)


def mixed_tokens(sources: list[TokenSource], count: int) -> np.ndarray:
    """About `count` tokens of running text, each source's beginning by its weight."""
    total = sum(s.weight for s in sources)
    return np.concatenate([s.tokens[: int(count * s.weight / total)] for s in sources]).astype(np.int64)


def causal_states(model: Any, rows: Tensor) -> Tensor:
    """Last hidden states [n, t, hidden] of rows [n, t]."""
    states: Tensor = model.get_decoder()(input_ids=rows, is_causal=True, use_cache=False).last_hidden_state
    return states


def target_weights(rows: np.ndarray, marker: Sequence[int], eos_id: int, answer_weight: float) -> np.ndarray:
    """Weights [n, t − 1] of the predicted tokens of rows [n, t], summing to 1.

    marker   the ids that open an assistant's turn: what follows, up to and with the end of text, counts `answer_weight`
    """
    weights = np.ones(rows.shape, dtype=np.float32)
    if answer_weight != 1.0:
        windows = np.lib.stride_tricks.sliding_window_view(rows, len(marker), axis=1)
        for row, place in np.argwhere((windows == np.array(marker)).all(-1)):
            start = place + len(marker)
            ends = np.flatnonzero(rows[row, start:] == eos_id)
            weights[row, start : start + int(ends[0]) + 1 if len(ends) else None] = answer_weight
    weights = weights[:, 1:]
    return weights / weights.sum()


class Trainer:
    """The state of a run and its one step."""

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.plan = Plan.of(config.phases, config.fraction)
        torch.set_num_threads(config.threads)
        tokenizer: Any = AutoTokenizer.from_pretrained(str(config.tokenizer_dir))
        self.tokenizer = tokenizer
        self.sources = [tokenize_source(config, s, self.tokenizer) for s in config.sources]
        self.orders: dict[int, RowOrder] = {}
        folder = self._resume_folder()
        start = folder or config.init_from
        self.model: Any
        if start is None:
            self.model = new_model(config, self.tokenizer, self.sources)
        else:
            self.model = AutoModelForCausalLM.from_pretrained(str(start), dtype=torch.float32)
        self.model.to(config.device)
        matrices, tables, heads, vectors = parameter_groups(self.model)
        self.parameters = [*matrices, *tables, *heads, *vectors]
        adam = [
            {"params": tables, "lr": config.table_learning_rate},
            {"params": heads, "lr": config.head_learning_rate},
            {"params": vectors, "lr": config.vector_learning_rate},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, config.learning_rate, weight_decay=config.weight_decay, ns_steps=config.ns_steps),
            torch.optim.AdamW(adam, betas=(0.9, 0.95), weight_decay=0.0, eps=1e-10),
        ]
        self.peaks = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.state = RunState()
        if folder is not None:
            self.state = load_state(folder)
            saved = torch.load(folder / "optimizers.pt", map_location=config.device, weights_only=True)
            for optimizer, values in zip(self.optimizers, saved, strict=True):
                optimizer.load_state_dict(values)
            print(f"resumed from step {self.state.step}", flush=True)
        self.model.set_attn_implementation(config.kernel)
        wide = config.precision == "fp32" or resolve_dtype(torch.device(config.device)) == torch.float32
        self.dtype = torch.float32 if wide else torch.bfloat16
        self.causal_states: Callable[[Any, Tensor], Tensor] = (
            torch.compile(causal_states, dynamic=False) if config.compile else causal_states
        )
        self.marker: list[int] = tokenizer("\n<|assistant|>\n", add_special_tokens=False)["input_ids"]
        self.texts = None
        if config.distill_texts and config.teacher_dirs:
            self.texts = TeacherTexts(
                config.teacher_dirs, Prompts(self.tokenizer), config.distill_max_length, config.seed
            )
        self.basis = self._basis() if self.texts is not None and config.distill_vectors else None

    @torch.no_grad()
    def _basis(self) -> Tensor:
        """The turn from the teacher's vectors to this model's, from its first states; kept in the run's folder."""
        assert self.texts is not None
        kept = self.config.output_dir / "basis.pt"
        if kept.is_file():
            return cast(Tensor, torch.load(kept, weights_only=True))
        states, teacher = [], []
        for number in range(-(-BASIS_TEXTS // 64)):
            batch = self.texts.batch(number, 64).to(self.config.device)
            with self._autocast():
                states.append(pooled_states(self.model, batch).float().cpu())
            teacher.append(batch.teacher.cpu())
        basis = common_basis(torch.cat(states), torch.cat(teacher))
        torch.save(basis, kept)
        return basis

    def _resume_folder(self) -> Path | None:
        found = checkpoints(self.config.output_dir) if self.config.resume == "auto" else []
        return found[-1] if found else None

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.config.device).type, self.dtype)

    def step(self) -> dict[str, float]:
        """One optimizer step; gives what is logged."""
        config, step = self.config, self.state.step
        phase, number = self.plan.at(step)
        if phase.length not in self.orders:
            self.orders[phase.length] = RowOrder(self.sources, phase.length, self.tokenizer.bos_token_id, config.seed)
        rows = self.orders[phase.length].rows(number, phase.batch_rows)
        weights = target_weights(rows, self.marker, self.tokenizer.eos_token_id, config.answer_weight)
        total = 0.0
        for first in range(0, phase.batch_rows, phase.micro_rows):
            micro = slice(first, first + phase.micro_rows)
            total += self._causal(torch.from_numpy(rows[micro]), torch.from_numpy(weights[micro]))
        record = {"loss_generative": total}
        if self.texts is not None and step % config.distill_every == 0:
            record |= self._distill(step)
        record["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip))
        if not math.isfinite(record["grad_norm"]):
            raise CorpusError(f"The gradient is not finite at step {step}. Lower the learning rates.")
        factor = wsd(
            step,
            total_steps=self.plan.total_steps,
            warmup_steps=config.warmup_steps,
            decay_steps=int(config.decay_fraction * self.plan.total_steps),
            floor=config.decay_floor,
        )
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.state = RunState(step + 1, self.state.tokens + phase.batch_tokens)
        return record | {"lr": config.learning_rate * factor, "length": phase.length}

    def _causal(self, rows: Tensor, weights: Tensor) -> float:
        """Backward of some rows; gives their part of the step's cross-entropy."""
        rows, weights = rows.to(self.config.device), weights.to(self.config.device)
        with self._autocast():
            states = self.causal_states(self.model, rows)[:, :-1].flatten(0, 1)
        head = self.model.get_output_embeddings().weight
        targets = rows[:, 1:].flatten()
        loss, cross_entropy = head_loss(
            states, head, targets, weights.flatten(), z_loss=self.config.z_loss, dtype=self.dtype
        )
        loss.backward()
        return float(cross_entropy)

    def _distill(self, step: int) -> dict[str, float]:
        assert self.texts is not None
        batch = self.texts.batch(step, self.config.distill_texts).to(self.config.device)
        with self._autocast():
            states = pooled_states(self.model, batch)
        similarity = similarity_distillation(states, batch.teacher, temperature=DISTILL_TEMPERATURE)
        record = {"loss_distill": float(similarity.detach())}
        loss = self.config.distill_weight * similarity
        if self.basis is not None:
            distance = vector_distillation(states, batch.teacher @ self.basis.to(states.device))
            record["loss_vectors"] = float(distance.detach())
            loss = loss + self.config.distill_vectors * distance
        loss.backward()
        return record

    def save(self) -> Path:
        return save_checkpoint(self.config.output_dir, self.state, self.model, self.tokenizer, self.optimizers)


def run(config: PretrainConfig) -> Path:
    """Train to the end of the plan (or until SIGTERM) and give the last checkpoint's folder."""
    config.output_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config)
    parameters = sum(p.numel() for p in trainer.parameters)
    log.info("%.2f M parameters, %d steps, %s", parameters / 1e6, trainer.plan.total_steps, transformers.__version__)
    stop: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    saved_at = logged_at = time.monotonic()
    logged_tokens = trainer.state.tokens
    try:
        with (config.output_dir / "log.jsonl").open("a", encoding="utf-8") as file:
            while trainer.state.step < trainer.plan.total_steps and not stop:
                record = trainer.step()
                now = time.monotonic()
                if trainer.state.step % config.log_every == 0:
                    speed = (trainer.state.tokens - logged_tokens) / (now - logged_at)
                    logged_at, logged_tokens = now, trainer.state.tokens
                    record = {"step": trainer.state.step, "tokens": trainer.state.tokens} | record
                    file.write(json.dumps(record | {"tokens_per_s": round(speed)}) + "\n")
                    file.flush()
                    line = "  ".join(f"{k} {v:.4g}" for k, v in record.items() if k != "tokens")
                    log.info("%s  tokens %.2f M  %.0f tokens/s", line, trainer.state.tokens / 1e6, speed)
                if now - saved_at > config.save_every_s:
                    trainer.save()
                    saved_at = time.monotonic()
        return trainer.save()
    finally:
        signal.signal(signal.SIGTERM, previous)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(auto_cli(PretrainConfig, as_positional=False))
    except CorpusError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
