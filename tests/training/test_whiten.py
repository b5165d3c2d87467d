"""Whitening inside the weights: the same logits, and vectors as if a matrix stood behind the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from grit_app.errors import GritError
from grit_app.gritlm import GritLM
from training.whiten import fold, whitening

TEXTS = ["A short text.", "Which city lies at the river?", "Bees make honey.", "It rains on the old mill today."]


@pytest.fixture
def model(tiny_model_folder: Any) -> GritLM:
    model = GritLM.from_pretrained(tiny_model_folder("mistral", tie_word_embeddings=False), dtype="float32")
    torch.manual_seed(0)
    for name, weight in model.hf_model.named_parameters():
        if "norm" in name:  # ones would hide a norm that was forgotten
            weight.data.uniform_(0.5, 1.5)
    return model


def test_logits_stay_and_vectors_are_those_of_the_matrix(model: GritLM) -> None:
    torch.manual_seed(1)
    size = model.hidden_size
    matrix = torch.randn(size, size) / size**0.5 + torch.eye(size)
    ids = torch.tensor([[1, 5, 9, 40, 7, 30, 12]])
    before = torch.from_numpy(model.encode(TEXTS, normalize=False))
    with torch.no_grad():
        logits = model.hf_model(ids).logits
        fold(model.hf_model, matrix)
        after_logits = model.hf_model(ids).logits
    assert (after_logits - logits).abs().max() < 1e-4 * logits.abs().max()
    after = torch.from_numpy(model.encode(TEXTS, normalize=False))
    wanted = before @ matrix
    # A rotation of all vectors is free, so inner products are compared.
    assert (after @ after.T - wanted @ wanted.T).abs().max() < 1e-3 * (wanted @ wanted.T).abs().max()
    assert (before @ before.T - wanted @ wanted.T).abs().max() > 0.1 * (wanted @ wanted.T).abs().max()


def test_full_whitening_evens_all_directions_and_none_changes_nothing() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(4000, 6) * torch.tensor([9.0, 4.0, 2.0, 1.0, 1.0, 0.5]) @ torch.randn(6, 6)
    spread = torch.linalg.eigvalsh(torch.cov((vectors.double() @ whitening(vectors, 1.0, 0.0)).T))
    assert spread.max() / spread.min() == pytest.approx(1.0, abs=1e-3)
    assert torch.allclose(whitening(vectors, 0.0, 0.0), torch.eye(6, dtype=torch.float64), atol=1e-6)


def test_a_tied_head_is_refused(tiny_model_folder: Any) -> None:
    model = GritLM.from_pretrained(tiny_model_folder("mistral", tie_word_embeddings=True), dtype="float32")
    with pytest.raises(GritError, match="tied"):
        fold(model.hf_model, torch.eye(model.hidden_size))
