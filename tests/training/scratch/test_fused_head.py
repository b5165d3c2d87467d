"""The head's loss by blocks against the plain one, in float64 and for any weights."""

from __future__ import annotations

import pytest
import torch

from training.scratch import fused_head
from training.scratch.fused_head import head_loss


@pytest.mark.parametrize("rows", [1, 7, 12])
def test_loss_and_gradients_equal_a_plain_float64_computation(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 5 rows, the last one shorter; logits large enough that exp without the shift would overflow."""
    monkeypatch.setattr(fused_head, "ROWS", 5)
    torch.manual_seed(rows)
    states = (40 * torch.randn(rows, 6)).requires_grad_()
    head = (5 * torch.randn(11, 6)).requires_grad_()
    targets, weights = torch.randint(11, (rows,)), torch.rand(rows)
    loss, cross_entropy = head_loss(states, head, targets, weights, z_loss=1e-3)
    (3 * loss).backward()

    wide_states = states.detach().double().requires_grad_()
    wide_head = head.detach().double().requires_grad_()
    logits = wide_states @ wide_head.T
    surprise = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    expected = ((surprise + 1e-3 * logits.logsumexp(-1) ** 2) * weights).sum()
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert cross_entropy.item() == pytest.approx(float((surprise * weights).sum().detach()), rel=1e-5, abs=1e-6)
    for own, wide in ((states.grad, wide_states.grad), (head.grad, wide_head.grad)):
        assert own is not None and wide is not None
        assert (own - wide).abs().max() < 1e-4 * wide.abs().max() + 1e-6


def test_bfloat16_products_stay_near() -> None:
    torch.manual_seed(0)
    states, head = torch.randn(64, 32).requires_grad_(), torch.randn(50, 32).requires_grad_()
    targets, weights = torch.randint(50, (64,)), torch.full((64,), 1 / 64)
    exact = head_loss(states, head, targets, weights)[0]
    (wanted,) = torch.autograd.grad(exact, states)
    narrow = head_loss(states, head, targets, weights, dtype=torch.bfloat16)[0]
    (got,) = torch.autograd.grad(narrow, states)
    assert narrow.item() == pytest.approx(exact.item(), rel=0.01)
    assert torch.nn.functional.cosine_similarity(got.flatten(), wanted.flatten(), dim=0) > 0.999
