"""Pooling against loops in float64 that share nothing with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grit_app.gritlm.embed.pooling import l2_normalize, pool
from grit_app.gritlm.errors import InputError, ModelError

METHODS = ["mean", "weightedmean", "lasttoken", "cls"]


def naive(hidden: np.ndarray, mask: np.ndarray, method: str) -> np.ndarray:
    """Row by row and token by token, in float64."""
    result = np.zeros((hidden.shape[0], hidden.shape[2]))
    for row in range(hidden.shape[0]):
        chosen = [t for t in range(hidden.shape[1]) if mask[row, t]]
        if method == "cls":
            result[row] = hidden[row, 0]
        elif method == "lasttoken":
            result[row] = hidden[row, chosen[-1]]
        else:
            weights = [1.0 if method == "mean" else position for position, _ in enumerate(chosen, 1)]
            for weight, t in zip(weights, chosen, strict=True):
                result[row] += weight * hidden[row, t]
            result[row] /= sum(weights)
    return result


def batch(seq: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    """States, and masks that begin after a header, end before padding, and once have a hole."""
    hidden = torch.randn(4, seq, 8, generator=torch.Generator().manual_seed(0)) * 3 + 1
    mask = torch.zeros(4, seq, dtype=torch.bool)
    mask[0, 3:] = True
    mask[1, 2:5] = True
    mask[2, 4] = True
    mask[3, 1:9] = True
    mask[3, 5] = False
    return hidden, mask


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mask_kind", [torch.bool, torch.long, torch.float32])
def test_pool_equals_a_float64_loop(method: str, mask_kind: torch.dtype) -> None:
    hidden, mask = batch()
    expected = naive(hidden.double().numpy(), mask.numpy(), method)
    pooled = pool(hidden, mask.to(mask_kind), method)
    assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooled.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["mean", "weightedmean"])
def test_bfloat16_states_are_pooled_in_float32(method: str) -> None:
    """In bfloat16 the result itself would be rounded to three digits."""
    hidden = torch.randn(1, 4000, 4, generator=torch.Generator().manual_seed(0)).add(1).bfloat16()
    mask = torch.ones(1, 4000, dtype=torch.bool)
    expected = naive(hidden.double().numpy(), mask.numpy(), method)
    np.testing.assert_allclose(pool(hidden, mask, method).numpy(), expected, rtol=1e-5)
    rounded = torch.from_numpy(expected).bfloat16().double().numpy()
    assert not np.allclose(rounded, expected, rtol=1e-5), "the hazard must exist"


def test_what_lies_outside_the_mask_has_no_effect() -> None:
    hidden, mask = batch()
    changed = torch.where(mask[..., None], hidden, torch.full_like(hidden, 1e4))
    for method in ["mean", "weightedmean", "lasttoken"]:
        torch.testing.assert_close(pool(changed, mask, method), pool(hidden, mask, method))


def test_a_row_without_tokens_is_an_error_and_not_nan() -> None:
    hidden, mask = batch()
    mask[1] = False
    with pytest.raises(InputError, match="no token left"):
        pool(hidden, mask)


def test_an_unknown_method_is_named() -> None:
    hidden, mask = batch()
    with pytest.raises(ModelError, match="weighted_mean"):
        pool(hidden, mask, "weighted_mean")


def test_normalised_rows_have_length_one_and_zero_stays_zero() -> None:
    rows = l2_normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
