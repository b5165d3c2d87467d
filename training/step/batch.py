"""What one process computes in one step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.data.collate import Chunk, Stream


@dataclass(frozen=True)
class ContrastGroup:
    """Sequences whose vectors meet in one InfoNCE. n queries, m passages, all of this process; numbers are local."""

    chunks: list[Chunk]
    query_vectors: list[int]
    """[n] each query's vector, as a number in the group."""
    passage_vectors: list[int]
    """[m]"""
    targets: Tensor
    """[n] number of the own positive among the passages, −1 for none"""
    hashes: Tensor
    """[m]"""
    owners: Tensor
    """[m] the query that brought the passage"""
    right_answers: Tensor
    """[n, k]"""
    own_only: Tensor
    """[n] bool"""


@dataclass(frozen=True)
class StepBatch:
    """Everything one process computes in one step."""

    step: int
    write: list[Chunk] = field(default_factory=list)
    groups: dict[Stream, ContrastGroup] = field(default_factory=dict)
    label_counts: dict[Stream, Tensor] = field(default_factory=dict)
    """Trained tokens of each local sample of a stream, int64."""
    rows: dict[Stream, list[str]] = field(default_factory=dict)
    """Where the samples come from, for messages."""
    replaced: int = 0

    def chunks(self) -> list[Chunk]:
        return [*self.write, *(chunk for group in self.groups.values() for chunk in group.chunks)]

    @property
    def tokens(self) -> int:
        return sum(chunk.tokens for chunk in self.chunks())

    @property
    def padded_tokens(self) -> int:
        return sum(chunk.input_ids.numel() for chunk in self.chunks())


def padded(rows: list[list[int]]) -> Tensor:
    """[n, longest] filled with −1, which no hash is."""
    width = max(map(len, rows), default=1)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)
