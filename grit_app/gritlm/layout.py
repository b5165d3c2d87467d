"""One description of "blocks that are encoded alone, then a tail that sees them", for serving, training and tests.

Serving encodes each block by itself, joins the caches and runs the tail; training runs `input_ids`, `position_ids` and
`mask` in one forward. Both give the same numbers, because the mask keeps blocks apart exactly as separate passes do.

               b1  b2  tail
      b1     [  1   0   0  ]      a bidirectional block is a full square, a causal one a lower triangle
      b2     [  0   1   0  ]
      tail   [  1   1   ◣  ]      the tail is causal and sees the visible columns of every block

Positions (H = header length, the tokens before the sample: BOS, instruction, marker)
  consecutive   the first block stands at 0; of later blocks only the samples are visible, on consecutive positions.
                A later header keeps its distance to its sample, so the whole block is moved by `offset - H`. Its
                positions overlap the block before, which nobody can notice: nothing attends to both. With
                `keep_headers` it is visible too, and the block is moved by `offset`.
  colliding     every block stands at 0 with its header visible, and the tail starts at the sum of the lengths: what
                concatenating unmoved caches gives (the published two-cache runs).
Attention scores depend on differences of positions only, so moving a block changes nothing inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from grit_app.gritlm.errors import InputError

Role = Literal["document", "query", "prompt"]
Attention = Literal["bidirectional", "causal"]
Positions = Literal["consecutive", "colliding"]


@dataclass(frozen=True)
class Block:
    """Tokens that are encoded alone. `ids[:header_length]` is the header, the rest the sample."""

    ids: Sequence[int]
    role: Role = "document"
    attention: Attention = "bidirectional"
    header_length: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.header_length < len(self.ids):
            raise InputError(
                f"A block of {len(self.ids)} tokens cannot have a header of {self.header_length}: no sample is left."
            )

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Layout:
    """Blocks and the tail that sees them. Indices count `input_ids()`: all blocks with their headers, then the tail."""

    blocks: Sequence[Block]
    tail: Sequence[int]
    positions: Positions = "consecutive"
    keep_headers: bool = False
    """Show the headers of later blocks to the tail. `colliding` always does: it is plain concatenation."""

    @property
    def length(self) -> int:
        """Number of input ids, hidden headers included."""
        return sum(map(len, self.blocks)) + len(self.tail)

    @property
    def tail_span(self) -> tuple[int, int]:
        """Half-open range of the tail in `input_ids()`."""
        return self.length - len(self.tail), self.length

    @property
    def cached_length(self) -> int:
        """Key and value columns of the joined cache: the tokens that the tail can see before itself."""
        return sum(stop - start for start, stop in self.visible_spans())

    @property
    def tail_position(self) -> int:
        """Position id of the tail's first token."""
        return self.cached_length

    def block_starts(self) -> list[int]:
        """Index in `input_ids()` of each block's first token."""
        starts, start = [], 0
        for block in self.blocks:
            starts.append(start)
            start += len(block)
        return starts

    def block_shifts(self) -> list[int]:
        """By how much each block is moved from the positions 0, 1, … at which it is encoded. May be negative."""
        shifts, offset = [], 0
        for number, block in enumerate(self.blocks):
            hidden = self._hidden_header(number)
            if self.positions == "colliding":
                shifts.append(0)
            else:
                shifts.append(offset - hidden)
            offset += len(block) - hidden
        return shifts

    def visible_spans(self) -> list[tuple[int, int]]:
        """For each block the half-open range in `input_ids()` that the tail can see, and that a joined cache holds."""
        return [
            (start + self._hidden_header(number), start + len(block))
            for number, (start, block) in enumerate(zip(self.block_starts(), self.blocks, strict=True))
        ]

    def pooled_spans(self) -> list[tuple[int, int]]:
        """For each bidirectional block the half-open range of its sample: what its embedding is pooled from."""
        return [
            (start + block.header_length, start + len(block))
            for start, block in zip(self.block_starts(), self.blocks, strict=True)
            if block.attention == "bidirectional"
        ]

    def input_ids(self) -> Tensor:
        """[T] int64."""
        return torch.tensor([i for block in self.blocks for i in block.ids] + list(self.tail), dtype=torch.long)

    def position_ids(self) -> Tensor:
        """[T] int64."""
        pieces = [
            torch.arange(shift, shift + len(block))
            for shift, block in zip(self.block_shifts(), self.blocks, strict=True)
        ]
        return torch.cat([*pieces, torch.arange(self.tail_position, self.tail_position + len(self.tail))])

    def mask(self) -> Tensor:
        """[T, T] bool; `mask[q, k]` is True where token q may attend to token k."""
        mask = torch.zeros(self.length, self.length, dtype=torch.bool)
        for start, block in zip(self.block_starts(), self.blocks, strict=True):
            square = mask[start : start + len(block), start : start + len(block)]
            square[:] = True
            if block.attention == "causal":
                square.tril_()
        tail_start = self.tail_span[0]
        for start, stop in self.visible_spans():
            mask[tail_start:, start:stop] = True
        mask[tail_start:, tail_start:] = torch.ones(len(self.tail), len(self.tail), dtype=torch.bool).tril()
        return mask

    def _hidden_header(self, number: int) -> int:
        """Leading tokens of a block that the tail does not see."""
        if number == 0 or self.keep_headers or self.positions == "colliding":
            return 0
        return self.blocks[number].header_length


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The mask as numbers to add to attention scores: 0 where allowed, the lowest number elsewhere; [..., T, T].

    Both eager and sdpa attention take this form; eager would *add* a bool mask, which is silently wrong.
    """
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)
