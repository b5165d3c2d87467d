"""Losses against naive float64 loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from training.step import losses
from training.step.losses import (
    PassagePool,
    QueryBlock,
    info_nce,
    router_balance,
    token_weights,
    weighted_cross_entropy,
)

TEMPERATURE = 0.05


def contrastive_problem(seed: int = 0) -> tuple[QueryBlock, PassagePool]:
    """Seven queries with 0 to 3 negatives each; equal texts, a query without target, one with own negatives only."""
    generator = torch.Generator().manual_seed(seed)
    counts = [3, 1, 4, 2, 1, 3, 2]
    total = sum(counts)
    queries = nn.functional.normalize(torch.randn(7, 5, generator=generator), dim=1)
    passages = nn.functional.normalize(torch.randn(total, 5, generator=generator), dim=1)
    owners = torch.tensor([q for q, count in enumerate(counts) for _ in range(count)])
    starts = torch.tensor([sum(counts[:q]) for q in range(7)])
    hashes = torch.arange(100, 100 + total)
    hashes[starts[2]] = hashes[starts[0]]  # the same positive text twice
    right = torch.stack([torch.arange(500, 507), hashes[starts], torch.full((7,), -1)], dim=1)
    right[5, 2] = hashes[1]  # a second positive of query 5 stands elsewhere in the batch
    right[3, 0] = hashes[9]  # the query's own text is somebody's passage
    targets = starts.clone()
    targets[4] = -1
    own_only = torch.tensor([False, True, False, False, False, False, False])
    return QueryBlock(queries, targets, right, torch.arange(7), own_only), PassagePool(passages, hashes, owners)


def naive_info_nce(queries: QueryBlock, pool: PassagePool) -> tuple[float, int, int]:
    """(loss sum, correct, masked) by the definition, one score after the other."""
    loss, correct, masked = 0.0, 0, 0
    for i in range(len(queries.vectors)):
        target = int(queries.targets[i])
        if target < 0:
            continue
        cosines = {}
        for j in range(len(pool.vectors)):
            is_right = int(pool.hashes[j]) in [h for h in queries.right_answers[i].tolist() if h >= 0]
            masked += is_right and j != target
            foreign = bool(queries.own_only[i]) and int(pool.owners[j]) != int(queries.numbers[i])
            if j == target or not (is_right or foreign):
                pairs = zip(queries.vectors[i].tolist(), pool.vectors[j].tolist(), strict=True)
                cosines[j] = sum(a * b for a, b in pairs)
        loss -= math.log(
            math.exp(cosines[target] / TEMPERATURE) / sum(math.exp(c / TEMPERATURE) for c in cosines.values())
        )
        correct += all(cosines[target] > cosine for j, cosine in cosines.items() if j != target)
    return loss, correct, masked


@pytest.mark.parametrize("seed", range(5))
def test_info_nce_equals_the_definition(seed: int) -> None:
    queries, pool = contrastive_problem(seed)
    result = info_nce(queries, pool, temperature=TEMPERATURE)
    loss, correct, masked = naive_info_nce(queries, pool)
    assert masked >= 3
    assert float(result.loss_sum) == pytest.approx(loss, rel=1e-5)
    assert (int(result.correct), int(result.masked)) == (correct, masked)


def test_a_collapsed_embedding_is_never_right() -> None:
    """Equal vectors everywhere tie with every negative: accuracy is the number that people watch for collapse."""
    same = nn.functional.normalize(torch.ones(8, 5), dim=1)
    none = torch.full((8, 1), -1)
    block = QueryBlock(same, torch.arange(8), none, torch.arange(8), torch.zeros(8, dtype=torch.bool))
    result = info_nce(block, PassagePool(same, torch.arange(8), torch.arange(8)), temperature=TEMPERATURE)
    assert int(result.correct) == 0
    assert float(result.loss_sum) / 8 == pytest.approx(math.log(8))


def test_info_nce_rows_add_up() -> None:
    """Blocks of query rows are independent."""
    queries, pool = contrastive_problem()
    whole = info_nce(queries, pool, temperature=TEMPERATURE).loss_sum
    parts = []
    for start in range(0, 7, 3):
        part = slice(start, start + 3)
        block = QueryBlock(*(value[part] for value in vars(queries).values()))
        parts.append(info_nce(block, pool, temperature=TEMPERATURE).loss_sum)
    torch.testing.assert_close(sum(parts), whole)


def test_info_nce_has_a_finite_gradient_where_nothing_is_left() -> None:
    """A query with own negatives only and none of them, and one without target, give no NaN."""
    queries, pool = contrastive_problem()
    leaf = pool.vectors.clone().requires_grad_()
    keep = torch.tensor([1, 4])
    block = QueryBlock(*(value[keep] for value in vars(queries).values()))
    result = info_nce(block, PassagePool(leaf, pool.hashes, pool.owners), temperature=TEMPERATURE)
    result.loss_sum.backward()
    assert float(result.loss_sum.detach()) == 0.0 and torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_info_nce_refuses_targets_outside_the_pool() -> None:
    queries, pool = contrastive_problem()
    short = PassagePool(pool.vectors[:5], pool.hashes[:5], pool.owners[:5])
    with pytest.raises(ValueError, match="5 passages"):
        info_nce(queries, short, temperature=TEMPERATURE)


def naive_generative_loss(token_losses: list[list[float]], kind: str, group_size: int) -> float:
    if kind == "token":
        flat = [loss for sample in token_losses for loss in sample]
        return sum(flat) / len(flat)
    size = 1 if kind == "sample" else group_size
    means = []
    for start in range(0, len(token_losses), size):
        flat = [loss for sample in token_losses[start : start + size] for loss in sample]
        if flat:
            means.append(sum(flat) / len(flat))
    return sum(means) / len(means)


@pytest.mark.parametrize("kind", ["token", "sample", "mixed"])
@pytest.mark.parametrize("group_size", [1, 3, 32])
def test_generative_losses_equal_their_definitions(kind: Any, group_size: int) -> None:
    """Weights times token losses give the mean that the name says; samples without trained tokens count nowhere."""
    generator = torch.Generator().manual_seed(3)
    counts = [3, 90, 1, 0, 17, 40, 5, 0]
    token_losses = [(torch.rand(n, generator=generator) * 5).tolist() for n in counts]
    weights = token_weights(torch.tensor(counts), kind=kind, group_size=group_size)
    found = sum(float(w) * sum(sample) for w, sample in zip(weights, token_losses, strict=True))
    assert found == pytest.approx(naive_generative_loss(token_losses, kind, group_size), rel=1e-12)


def test_the_three_generative_losses_differ() -> None:
    """Guard: on uneven lengths the names mean different things."""
    counts = torch.tensor([3, 90, 1, 17])
    values = [token_weights(counts, kind=kind, group_size=2) for kind in ("token", "sample", "mixed")]
    assert not torch.allclose(values[0], values[1]) and not torch.allclose(values[1], values[2])


def test_cross_entropy_in_blocks_equals_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits computed block by block, and again in backward, give the loss and gradients of all at once."""
    torch.manual_seed(0)
    head = nn.Linear(6, 11, bias=False)
    labels, weights = torch.randint(0, 11, (10,)), torch.rand(10)
    results = []
    for limit in (10**9, 4 * 11 * 3):
        monkeypatch.setattr(losses, "LOGITS_AT_ONCE", limit)
        torch.manual_seed(1)
        hidden = torch.randn(10, 6, requires_grad=True)
        head.weight.grad = None
        loss = weighted_cross_entropy(hidden, labels, weights, head)
        loss.backward()
        results.append((loss.detach(), hidden.grad, head.weight.grad))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)
    logits = (hidden.double() @ head.weight.double().T).detach()
    naive = sum(
        float(weights[i]) * -math.log(math.exp(logits[i, labels[i]]) / sum(math.exp(v) for v in logits[i]))
        for i in range(10)
    )
    assert float(results[0][0]) == pytest.approx(naive, rel=1e-5)


def test_router_loss_of_one_sequence_is_the_published_one() -> None:
    """For one sample it is Mixtral's own function; several samples are their weighted sum, wherever they stand."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    torch.manual_seed(0)
    layers, experts, lengths = 3, 4, (5, 9)
    per_sample = [tuple(torch.randn(n, experts) for _ in range(layers)) for n in lengths]
    published = [float(load_balancing_loss_func(logits, experts, 2)) for logits in per_sample]
    together = tuple(torch.cat([a, torch.randn(2, experts), b]) for a, b in zip(*per_sample, strict=True))
    samples = torch.tensor([0] * 5 + [-1] * 2 + [1] * 9)
    found = router_balance(together, samples, torch.tensor([0.25, 0.75]), experts_per_token=2)
    assert float(found) == pytest.approx(0.25 * published[0] + 0.75 * published[1], rel=1e-5)
