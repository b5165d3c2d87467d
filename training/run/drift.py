"""How far a rounded model is from the one it was made of: its vectors, and its next tokens, on the sample texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grit_app.gritlm import GritLM
from grit_app.places import ASSETS

SAMPLES = ("harbour_museum.md", "field_guide.txt")
PASSAGES, WORDS = 4, 100
"""Of each document."""


@dataclass(frozen=True)
class Drift:
    """Averages over the texts (cosine) and over their tokens (kl, same)."""

    cosine: float
    """Least cosine of a text's two vectors."""

    mean_cosine: float

    kl_nats: float
    """KL divergence of the rounded model's next-token distribution from the exact one's, a token."""

    same_token: float
    """Share of places where both have the same most likely next token."""

    def __str__(self) -> str:
        return (
            f"cosine of vectors {self.mean_cosine:.4f} (least {self.cosine:.4f}), KL of the next token "
            f"{self.kl_nats:.4f} nats, same most likely token {100 * self.same_token:.1f} %"
        )


def passages() -> list[str]:
    """The beginnings of the sample documents, in passages of equal length."""
    chosen: list[str] = []
    for name in SAMPLES:
        words = (ASSETS / "samples" / name).read_text(encoding="utf-8").split()
        chosen += [" ".join(words[at : at + WORDS]) for at in range(0, PASSAGES * WORDS, WORDS)]
    return chosen


@dataclass(frozen=True)
class Reading:
    """What one model makes of the texts."""

    texts: list[str]
    vectors: NDArray[np.float32]
    logits: list[Tensor]
    """Of each text as the beginning of a prompt: float32 [tokens, vocabulary]."""

    @classmethod
    def of(cls, model: GritLM, texts: list[str] | None = None) -> Reading:
        texts = passages() if texts is None else texts
        with model.lock, torch.inference_mode():
            logits = [
                model.hf_model(
                    torch.tensor([model.prompts.opening(text)[: model.context]], device=model.device), is_causal=True
                )
                .logits[0]
                .cpu()
                for text in texts
            ]
        return cls(texts, model.encode(texts, normalize=True), logits)

    def against(self, rounded: GritLM) -> Drift:
        """How far `rounded` is from this reading."""
        other = Reading.of(rounded, self.texts)
        cosines = (self.vectors * other.vectors).sum(axis=1)
        exact, found = (torch.cat(reading.logits).float().log_softmax(-1) for reading in (self, other))
        return Drift(
            cosine=float(cosines.min()),
            mean_cosine=float(cosines.mean()),
            kl_nats=float((exact.exp() * (exact - found)).sum(-1).mean()),
            same_token=float((exact.argmax(-1) == found.argmax(-1)).float().mean()),
        )
