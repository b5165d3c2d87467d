"""From the states of tokens to one vector, in float32 whatever the model's precision."""

from __future__ import annotations

import torch
from torch import Tensor

from grit_app.gritlm.errors import InputError, ModelError


def pool(hidden: Tensor, mask: Tensor, method: str = "mean") -> Tensor:
    """One vector a row.

    hidden  [batch, seq, hidden]   states after the final norm, any precision
    mask    [batch, seq]           True (or 1) for the tokens of the sample; not BOS, instruction, markers or padding
    method  mean           Σ m·h / Σ m
            weightedmean   Σ w·h / Σ w with w = m · cumsum(m): later tokens weigh more (causal models)
            lasttoken      h at the last token of the mask
            cls            h at position 0, whatever the mask

    Returns float32 [batch, hidden]. A row without any token to pool raises InputError on a CPU; on a GPU it gives nan,
    because the question would make the device wait at every call.
    """
    m = mask.to(device=hidden.device, dtype=torch.float32)
    if m.device.type == "cpu" and not bool(m.any(dim=1).all()):
        raise InputError("A text has no token left to make an embedding from.")
    if method == "mean":
        return _weighted(hidden, m)
    if method == "weightedmean":
        return _weighted(hidden, m * m.cumsum(dim=1))
    if method == "lasttoken":
        last = (m * torch.arange(1, m.shape[1] + 1, device=m.device)).argmax(dim=1)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), last].float()
    if method == "cls":
        return hidden[:, 0].float()
    raise ModelError(f"There is no pooling method {method!r}. Known: mean, weightedmean, lasttoken, cls.")


def _weighted(hidden: Tensor, weights: Tensor) -> Tensor:
    # float32: a bfloat16 sum over thousands of tokens would lose the small ones.
    weighted_sum = torch.bmm(weights.unsqueeze(1), hidden.float()).squeeze(1)
    return weighted_sum / weights.sum(dim=1, keepdim=True)


def l2_normalize(vectors: Tensor) -> Tensor:
    """Rows of length 1; [batch, hidden] → the same shape. A zero row stays zero."""
    return torch.nn.functional.normalize(vectors, dim=-1)
