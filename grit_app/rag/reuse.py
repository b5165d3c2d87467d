"""What an edit of a prompt leaves of its caches, for each way to keep them.

A prompt is a list of passages and a question. Kept were the caches of the prompt `before`; asked is what the prompt
`now` can use of them:

- nothing     no cache: everything is read
- beginning   keys and values of the whole prompt, as inference servers keep them: good up to the first change
- passages    each passage by itself (docs_cache): good wherever the passage stands, until its own text changes
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grit_app.gritlm.embed.encoding import cache_bytes_per_token
from grit_app.gritlm.layout import Layout
from grit_app.gritlm.model import GritLM
from grit_app.rag.strategies import REFERENCE, build_layout

KINDS: Final = ("nothing", "beginning", "passages")


@dataclass(frozen=True)
class Piece:
    """A stretch of the prompt, as it is read."""

    text: str
    tokens: int
    is_kept: bool


@dataclass(frozen=True)
class Reuse:
    """The prompt under one way of keeping caches."""

    kind: str
    pieces: tuple[Piece, ...]
    kept_bytes: int
    """Of the caches that are used."""

    read_s: float | None
    """For the tokens that are not kept, at the speed that was measured last; None before anything was."""

    @property
    def kept_tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces if piece.is_kept)

    @property
    def read_tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces if not piece.is_kept)


Prompt = tuple[Sequence[str], str]
"""Passages and question."""


def reuse(model: GritLM, before: Prompt, now: Prompt) -> list[Reuse]:
    """One result for each of KINDS. Raises InputError for a prompt without a question or without passages."""
    old, new = ([*_layout(model, REFERENCE, prompt).tail] for prompt in (before, now))
    shared = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    shared = min(shared, len(new) - 1)  # the last one is read for what follows it
    known = {tuple(block.ids) for block in _layout(model, "docs_cache", before).blocks}
    layout = _layout(model, "docs_cache", now)
    blocks = [
        Piece(text, len(block.ids), tuple(block.ids) in known)
        for text, block in zip(now[0], layout.blocks, strict=True)
    ]
    tail = Piece(model.prompts.decode(layout.tail), len(layout.tail), False)
    beginning = [Piece(model.prompts.decode(new[:shared]), shared, True)] if shared else []
    return [
        _priced(model, "nothing", [Piece(model.prompts.decode(new), len(new), False)]),
        _priced(model, "beginning", [*beginning, Piece(model.prompts.decode(new[shared:]), len(new) - shared, False)]),
        _priced(model, "passages", [*blocks, tail]),
    ]


def _layout(model: GritLM, strategy: str, prompt: Prompt) -> Layout:
    passages, question = prompt
    return build_layout(strategy, model.prompts, model.config, question, passages)


def _priced(model: GritLM, kind: str, pieces: Sequence[Piece]) -> Reuse:
    priced = Reuse(kind, tuple(pieces), 0, None)
    speed = model.scheduler.speed("own")
    return Reuse(
        kind,
        priced.pieces,
        priced.kept_tokens * cache_bytes_per_token(model),
        priced.read_tokens / speed if speed else None,
    )
