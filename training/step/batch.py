"""What one process computes in one step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from training.data.chunk import Chunk, Stream


@dataclass(frozen=True)
class Taught:
    """What teachers say about the texts of a contrast. Vectors of different teachers stand in columns of their own."""

    query_vectors: Tensor
    """[n, width] float32, L2-normalised; 0 in other teachers' columns"""
    query_teachers: Tensor
    """[n] the teacher's number, −1: none"""
    passage_vectors: Tensor
    """[m, width]"""
    passage_teachers: Tensor
    """[m]"""


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
    taught: Taught | None = None


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

    def pin_memory(self) -> StepBatch:
        """The same with its chunks in pinned memory (torch's DataLoader asks for it by this name)."""
        groups = {
            stream: replace(group, chunks=[chunk.pinned() for chunk in group.chunks])
            for stream, group in self.groups.items()
        }
        return replace(self, write=[chunk.pinned() for chunk in self.write], groups=groups)

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
