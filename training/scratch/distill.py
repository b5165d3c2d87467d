"""Distil the geometry of an open sentence encoder into the pooled states: no labels needed.

The student's vectors live in a basis of their own (half of it made for language modelling). Two losses cross that gap:

- `similarity_distillation` compares the similarities within a batch: each row of the teacher's cosine matrix, softened,
  is the target of the student's row. It needs nothing in common, but a batch tells only of its own pairs.
- `vector_distillation` compares each vector with the teacher's, turned once and for all into the student's basis
  (`common_basis`): hundreds of targets a text, however small the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from grit_app.gritlm.embed.pooling import pool
from training.scratch.teacher import load_teacher_vectors


def similarity_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean KL divergence of the student's similarity rows from the teacher's, without the diagonal, in float32.

    student  [n, d]  pooled states, any length
    teacher  [n, k]  L2-normalised

    Plus the squared error of the cosines themselves, which fixes their scale (KL alone leaves an offset free).
    """
    own = functional.normalize(student.float(), dim=-1)
    own_cosine, other_cosine = own @ own.T, teacher.float() @ teacher.float().T
    off = ~torch.eye(len(own), dtype=torch.bool, device=own.device)
    own_rows = own_cosine[off].view(len(own), -1)
    other_rows = other_cosine[off].view(len(own), -1)
    target = functional.log_softmax(other_rows / temperature, dim=-1)
    prediction = functional.log_softmax(own_rows / temperature, dim=-1)
    divergence = functional.kl_div(prediction, target, log_target=True, reduction="batchmean")
    return divergence + 10.0 * functional.mse_loss(own_rows, other_rows)


def common_basis(student: Tensor, teacher: Tensor) -> Tensor:
    """The rotation R [k, d] with orthonormal rows (k ≤ d) that brings teacher · R nearest to the student's vectors.

    student  [n, d], teacher [n, k]; orthogonal Procrustes (Schönemann 1966), in float64

    Cosines between the turned vectors are the teacher's own. Raises ValueError if the student has fewer dimensions.
    """
    if teacher.shape[1] > student.shape[1]:
        raise ValueError(
            f"Vectors of {teacher.shape[1]} dimensions cannot be turned into {student.shape[1]} without a loss."
        )
    own = functional.normalize(student.double(), dim=-1)
    u, _, vh = torch.linalg.svd(teacher.double().T @ own, full_matrices=False)
    return (u @ vh).float()


def vector_distillation(student: Tensor, target: Tensor) -> Tensor:
    """Mean of 1 − cosine between pooled states [n, d] of any length and their targets [n, d], in float32."""
    return 1.0 - functional.cosine_similarity(student.float(), target.float(), dim=-1).mean()


@dataclass(frozen=True)
class TeacherBatch:
    """Texts of one step, right-padded."""

    input_ids: Tensor  # [n, t]
    attention_mask: Tensor  # [n, t]
    pool_mask: Tensor  # [n, t]
    teacher: Tensor  # [n, k]

    def to(self, device: str) -> TeacherBatch:
        return TeacherBatch(*(getattr(self, f.name).to(device) for f in fields(self)))


class TeacherTexts:
    """Batches of encoded texts of like length; which ones come at a step is a pure function of (seed, step)."""

    def __init__(self, folders: Sequence[Path], prompts: Any, max_length: int, seed: int) -> None:
        texts, self.vectors = load_teacher_vectors(folders)
        self.seed = seed
        encoded = [prompts.embed(text, max_length=max_length) for text in texts]
        self.ids = [e.ids for e in encoded]
        self.headers = [e.header_length for e in encoded]
        self.lengths = np.array([len(ids) for ids in self.ids])

    def batch(self, step: int, size: int) -> TeacherBatch:
        """`size` texts: a random slice, by length, of a random draw of eight times as many. All are equally likely."""
        rng = np.random.default_rng([self.seed, step])
        slices = max(1, min(8, len(self.ids) // size))
        rows = rng.choice(len(self.ids), size=min(slices * size, len(self.ids)), replace=False)
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        first = int(rng.integers(slices)) * size
        rows = rows[first : first + size]
        width = max(len(self.ids[i]) for i in rows)
        ids, mask, pool = (torch.zeros(len(rows), width, dtype=torch.long) for _ in range(3))
        for row, i in enumerate(rows):
            length = len(self.ids[i])
            ids[row, :length] = torch.tensor(self.ids[i])
            mask[row, :length] = 1
            pool[row, self.headers[i] : length] = 1
        return TeacherBatch(ids, mask, pool, torch.from_numpy(self.vectors[rows].astype(np.float32)))


def pooled_states(model: Any, batch: TeacherBatch) -> Tensor:
    """Mean of the last hidden states over the sample's own tokens [n, hidden], with bidirectional attention."""
    hidden = model.get_decoder()(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, is_causal=False, use_cache=False
    ).last_hidden_state
    return pool(hidden, batch.pool_mask, "mean")
