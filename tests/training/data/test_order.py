"""Order is a pure function of (seed, step)."""

from __future__ import annotations

from collections import Counter

import pytest

from training.data.order import BlockOrder, MixedOrder, row_random, share_of

SIZES, WEIGHTS = (25, 9, 40), (1.0, 2.0, 0.5)


def test_order_is_a_function_of_seed_and_step() -> None:
    """Asked in any order, and by a fresh object, a step gives the same rows; another seed gives others."""
    for make in (
        lambda seed: BlockOrder(SIZES, WEIGHTS, 4, seed),
        lambda seed: MixedOrder(SIZES, WEIGHTS, 4, seed),
    ):
        forward = [make(1).batch(step) for step in range(40)]
        one = make(1)
        assert [one.batch(step) for step in reversed(range(40))] == forward[::-1]
        assert [make(2).batch(step) for step in range(40)] != forward


def test_an_epoch_holds_every_row_as_often_as_its_weight_says() -> None:
    order = MixedOrder(SIZES, WEIGHTS, 7, seed=3)
    rows = [row for step in range(order.epoch_rows) for row in order.batch(step)][: order.epoch_rows * 2]
    for epoch in (rows[: order.epoch_rows], rows[order.epoch_rows :]):
        counts = Counter(epoch)
        assert [sum(n for (d, _), n in counts.items() if d == k) for k in range(3)] == [25, 18, 20]
        assert all(counts[0, i] == 1 for i in range(25)) and all(counts[1, i] == 2 for i in range(9))
    assert rows[: order.epoch_rows] != rows[order.epoch_rows :]


def test_batches_come_from_one_data_set_but_for_pooled_leftovers() -> None:
    """Leftovers make mixed batches; what fills none is dropped, counted, and another epoch drops others."""
    order = BlockOrder(SIZES, WEIGHTS, 4, seed=0)
    assert order.epoch_batches == (25 + 18 + 20) // 4 and order.dropped == 63 % 4
    for epoch in range(3):
        batches = [order.batch(epoch * order.epoch_batches + i) for i in range(order.epoch_batches)]
        pure = [len({dataset for dataset, _ in batch}) == 1 for batch in batches]
        assert sum(pure) >= 25 // 4 + 18 // 4 + 20 // 4
        used = Counter(row for batch in batches for row in batch)
        assert sum(used.values()) == 63 - order.dropped
        assert max(used[0, i] for i in range(25)) == 1


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_shares_of_all_processes_are_the_batch(world_size: int) -> None:
    rows = [(0, i) for i in range(11)]
    assert [row for rank in range(world_size) for row in share_of(rows, rank, world_size)] == rows


def test_choices_of_a_row_do_not_depend_on_who_draws_them() -> None:
    assert row_random(1, "rag", 5, (0, 3)).random() == row_random(1, "rag", 5, (0, 3)).random()
    others = {
        row_random(*key).random() for key in [(2, "rag", 5, (0, 3)), (1, "rag", 6, (0, 3)), (1, "rag", 5, (0, 4))]
    }
    assert len(others | {row_random(1, "rag", 5, (0, 3)).random()}) == 4
