"""Moving keys to other positions.

Rotary embeddings turn channel pair (i, i + d/2) of a key at position p by the angle p·θ_i. Turns add up, so a cached
key moves from p to p + Δ by one more turn by Δ:

    x' = x·cos(Δθ) − y·sin(Δθ),    y' = y·cos(Δθ) + x·sin(Δθ)          R(a)·R(b) = R(a + b)

Δ is the same for all tokens of one text, so a text needs d/2 cosines and sines. Values are never turned. The θ_i are
the model's own: scaled kinds (linear, llama3, yarn) are still pure turns; their `attention_scaling` is inside the
cached key already and is not applied again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grit_app.gritlm.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Kinds whose θ_i change with the length of the sequence: a key made at one length is wrong at another."""


class Rope:
    """The rotation of one model. `Rope.of(model).move(keys, 7)` gives the keys as if encoded seven positions later."""

    def __init__(self, inv_freq: Tensor, kind: str = "default") -> None:
        self.inv_freq = inv_freq.detach().to(torch.float32)  # [d/2]
        self.kind = kind

    @classmethod
    def of(cls, hf_model: PreTrainedModel) -> Rope:
        """The rotation that `hf_model` uses, taken from its own rotary module."""
        rotary = hf_model.get_decoder().rotary_emb
        return cls(rotary.inv_freq, rotary.rope_type)

    @property
    def device(self) -> torch.device:
        """Where the model computes, and so where moved keys belong."""
        return self.inv_freq.device

    @property
    def is_movable(self) -> bool:
        """False if the angles change with length, so that cached keys can only be used where they were made."""
        return self.kind not in LENGTH_DEPENDENT

    def move(self, keys: Tensor, delta: int | Tensor, out: Tensor | None = None) -> Tensor:
        """`keys` turned by `delta` positions, computed in float32 and rounded once to the dtype of the keys.

        keys    [..., T, d], half-split layout, already rotated (delta = Δ) or un-rotated (delta = positions)
        delta   one number for all tokens, or one for each token [T]
        out     written and returned if given, of the same shape; it may be a view into a larger buffer

        Always move the stored original: moving a moved copy in bfloat16 rounds twice.
        Raises ModelError for the kinds of rotation that depend on the sequence's length.
        """
        if out is None:
            out = torch.empty_like(keys)
        if isinstance(delta, int) and delta == 0:
            return out.copy_(keys)
        if not self.is_movable:
            raise ModelError(
                f"This model's rotary positions are of the kind {self.kind!r}: their angles change with the length of "
                "the text, so cached keys cannot be moved to other positions. Use a strategy that keeps one document "
                "in its place (doc_cache), or one without caches (rag_doc_query)."
            )
        cos, sin = self._turn(delta, keys.device)
        _turn_into(keys, cos, sin, out)
        return out

    def _turn(self, delta: int | Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines [d/2], or [T, d/2] for one delta a token."""
        # float64: at delta 100,000 a float32 angle is off by up to 0.004 radians before the cosine is taken. The
        # model's own angles carry such rounding, each at its own position; a move adds none.
        frequencies = self.inv_freq.to(device=device, dtype=torch.float64)
        # A number goes to the device as an argument of the product: no copy that would wait for the device.
        angles = frequencies * delta if isinstance(delta, int) else delta.to(frequencies)[..., None] * frequencies
        return angles.cos().float(), angles.sin().float()


def _turn_into(keys: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Writes the turned `keys` [..., T, d] into `out`."""
    half = keys.shape[-1] // 2
    x, y = keys[..., :half], keys[..., half:]  # products with float32 angles are float32 in any precision
    if out.dtype == torch.float32 and out.data_ptr() != keys.data_ptr():
        torch.mul(x, cos, out=out[..., :half]).addcmul_(y, sin, value=-1)
        torch.mul(y, cos, out=out[..., half:]).addcmul_(x, sin)
    else:
        out[..., :half] = x * cos - y * sin
        out[..., half:] = y * cos + x * sin
