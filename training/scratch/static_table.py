"""Train the initial token table as an embedding model of its own: mean of token vectors, no layers.

Before the first step of the real model, its pooled state is the mean of its token vectors
(`training.scratch.embedding_init`). That mean is a few sparse products to compute, thousands of times cheaper than a
forward pass, so what can be learned
without word order is learned here: InfoNCE over pairs (question → passage, heading → paragraph, …) with in-batch and
hard negatives, together with `similarity_distillation` to the teacher, which keeps the geometry general.

The table's parameters are the content dimensions; the slack dimension follows from them (rows of length 1).
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.scratch.corpus import CorpusError
from training.scratch.distill import similarity_distillation
from training.scratch.embedding_init import mean_matrix

log = logging.getLogger(__name__)

MOST_CONTENT = 0.999


@dataclass(frozen=True, kw_only=True)
class StaticConfig:
    """How the table is trained before the model. `steps: 0` leaves it as it was counted."""

    steps: int = 0
    batch_size: int = 384
    mixture_dir: Path | None = None
    """Output of training.mixture."""

    files: dict[str, float] = field(default_factory=dict)
    """Rule of training.mixture → how often a batch of its file comes, relative to the others."""

    most_rows: int = 12_000
    """Rows of a file that are used."""

    temperature: float = 0.05
    learning_rate: float = 0.002
    distill_texts: int = 384
    distill_weight: float = 1.0


class Pairs:
    """The token shares of queries, positives and one hard negative a row, as sparse matrices."""

    def __init__(
        self, path: Path, tokenizer: Any, rng: np.random.Generator, most_rows: int, max_tokens: int = 256
    ) -> None:
        if not path.is_file():
            raise CorpusError(f"{path} is not there. Make it with: python -m training.mixture --config …")
        with path.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in islice(lines, most_rows)]
        self.vocab_size = len(tokenizer)
        self.size = len(rows)
        self.has_negatives = all(row["neg"] for row in rows)
        self.queries = self._matrix([row["query"] for row in rows], tokenizer, max_tokens)
        self.positives = self._matrix([row["pos"][0] for row in rows], tokenizer, max_tokens)
        if self.has_negatives:
            texts = [row["neg"][rng.integers(len(row["neg"]))] for row in rows]
            self.negatives = self._matrix(texts, tokenizer, max_tokens)
        # Equal positives in one batch are no negatives of each other.
        self.keys = np.array([zlib.crc32(row["pos"][0].encode()) for row in rows])

    def _matrix(self, texts: Sequence[str], tokenizer: Any, max_tokens: int) -> Any:
        ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return mean_matrix([row[:max_tokens] for row in ids], self.vocab_size)


class _SparseProduct(torch.autograd.Function):
    """Constant scipy CSR matrix times dense tensor: on a CPU several times faster than torch.sparse, both ways."""

    @staticmethod
    def forward(ctx: Any, matrix: Any, dense: Tensor) -> Tensor:
        ctx.matrix = matrix
        return torch.from_numpy(matrix @ dense.detach().numpy())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, torch.from_numpy(ctx.matrix.T @ gradients[0].contiguous().numpy())


def means_of(matrix: Any, table: Tensor) -> Tensor:
    """[n, hidden]: mean token vectors of n texts given as rows of `mean_matrix`."""
    product: Tensor = _SparseProduct.apply(matrix, table)
    return product


def rows_of(content: Tensor, slack_weight: float) -> Tensor:
    """What the final norm makes of the table: content, and the weighted slack that fills rows up to length 1."""
    slack = (1 - content.square().sum(1, keepdim=True)).clamp_min(1e-6).sqrt()
    return torch.cat([content, slack_weight * slack], dim=1)


def info_nce_step(table: Tensor, pairs: Pairs, rows: np.ndarray, temperature: float) -> Tensor:
    """InfoNCE of the rows' queries over their positives and hard negatives."""
    queries = functional.normalize(means_of(pairs.queries[rows], table), dim=-1)
    passages = functional.normalize(means_of(pairs.positives[rows], table), dim=-1)
    scores = queries @ passages.T / temperature
    same = torch.from_numpy(pairs.keys[rows][:, None] == pairs.keys[rows][None, :])
    scores = scores.masked_fill(same & ~torch.eye(len(rows), dtype=torch.bool), float("-inf"))
    if pairs.has_negatives:
        hard = functional.normalize(means_of(pairs.negatives[rows], table), dim=-1)
        scores = torch.cat([scores, (queries * hard).sum(-1, keepdim=True) / temperature], dim=1)
    return functional.cross_entropy(scores, torch.arange(len(rows)))


def train_static(
    table: Tensor, config: StaticConfig, tokenizer: Any, texts: Sequence[str], teacher: np.ndarray, slack_weight: float
) -> Tensor:
    """The trained table [vocab, hidden], rows of length 1. A pure function of its arguments."""
    rng = np.random.default_rng(0)
    if config.mixture_dir is None:
        raise CorpusError("static.mixture_dir is not set. Make the pairs with: python -m training.mixture --config …")
    pairs = [
        Pairs(config.mixture_dir / "train" / f"{name}.jsonl", tokenizer, rng, config.most_rows) for name in config.files
    ]
    weights = np.array(list(config.files.values()))
    means = mean_matrix(
        [ids[:256] for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]], len(table)
    )
    content = table[:, :-1].clone().requires_grad_()
    usual_length = content.detach().norm(dim=1).mean()
    optimizer = torch.optim.Adam([content], lr=config.learning_rate, betas=(0.9, 0.99))
    for step in range(config.steps):
        source = pairs[rng.choice(len(pairs), p=weights / weights.sum())]
        rows = rng.choice(source.size, size=min(config.batch_size, source.size), replace=False)
        vectors = rows_of(content, slack_weight)
        loss = info_nce_step(vectors, source, rows, config.temperature)
        chosen = rng.choice(len(texts), size=min(config.distill_texts, len(texts)), replace=False)
        pooled = means_of(means[chosen], vectors)
        target = torch.from_numpy(teacher[chosen].astype(np.float32))
        distance = similarity_distillation(pooled, target, temperature=0.1)
        optimizer.zero_grad()
        (loss + config.distill_weight * distance).backward()
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - step / config.steps)
        optimizer.step()
        with torch.no_grad():
            # The loss does not see a common factor, and Adam's noise makes it grow until all rows are full and the
            # lengths, which tell how much a token matters, are lost: 92 % of the rows were full after 400 steps.
            content.mul_(usual_length / content.norm(dim=1).mean())
            content.mul_((MOST_CONTENT / content.norm(dim=1, keepdim=True)).clamp_max(1.0))
        if step % 100 == 0:
            log.info(
                "static table: step %d  loss %.3f  distance %.3f", step, float(loss.detach()), float(distance.detach())
            )
    return rows_of(content.detach(), 1.0)
