"""What is kept only to be faster stays within one budget, whoever keeps it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Hashable
from typing import Any

import pytest

from grit_app.gritlm import Conversation, GritLM
from grit_app.gritlm.budget import Budget


class Kept:
    """A holder that notes what it had to let go."""

    def __init__(self, in_use: bool = False) -> None:
        self.gone: list[Hashable] = []
        self.in_use = in_use

    def let_go(self, key: Hashable) -> bool:
        if not self.in_use:
            self.gone.append(key)
        return not self.in_use


def test_the_least_recently_used_goes_first_whoever_holds_it() -> None:
    budget, one, other = Budget(100), Kept(), Kept()
    budget.use(one, "a", 40)
    budget.use(other, "b", 40)
    budget.use(one, "a", 40)
    budget.use(other, "c", 40)
    assert (one.gone, other.gone, budget.bytes) == ([], ["b"], 80)


def test_what_is_in_use_stays_and_the_next_one_goes() -> None:
    budget, busy, idle = Budget(100), Kept(in_use=True), Kept()
    budget.use(busy, "a", 60)
    budget.use(idle, "b", 30)
    budget.use(idle, "c", 30)
    assert idle.gone == ["b"] and budget.bytes == 90


def test_what_cannot_be_made_again_is_refused_where_there_is_no_room_and_pushes_caches_out() -> None:
    budget, files, caches = Budget(100), Kept(in_use=True), Kept()
    budget.use(caches, "cache", 50)
    assert budget.hold(files, "a", 80) and caches.gone == ["cache"]
    assert not budget.hold(files, "b", 30)
    budget.free(files, "a")
    assert budget.bytes == 0 and budget.hold(files, "b", 30)


def test_a_holder_that_is_gone_counts_no_more() -> None:
    budget, kept = Budget(100), Kept()
    budget.use(kept, "a", 60)
    del kept
    gc.collect()
    assert budget.bytes == 0


def test_threads_that_use_and_let_go_at_once_neither_wait_for_ever_nor_lose_count() -> None:
    budget, holders = Budget(500), [Kept() for _ in range(4)]

    def work(holder: Kept) -> None:
        for number in range(300):
            budget.use(holder, number % 7, 50)

    threads = [threading.Thread(target=work, args=(holder,), daemon=True) for holder in holders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert 0 < budget.bytes <= 500


def test_chats_share_the_budget_and_a_cleared_one_frees_its_part(load_tiny: Any) -> None:
    """Each open chat kept its keys and values for as long as its page was open: 0.5 GB for 4,096 tokens of a 7B."""
    model: GritLM = load_tiny("mistral")
    said = [{"role": "user", "content": "Bees make honey."}]
    chats = [Conversation(), Conversation()]
    before = model.memory.bytes

    for chat in chats:
        list(model.stream(said, max_new_tokens=4, temperature=0.0, conversation=chat))
    assert model.memory.bytes == before + sum(chat.nbytes for chat in chats) > before
    chats[0].clear()
    assert chats[0].nbytes == 0 and model.memory.bytes == before + chats[1].nbytes
    limit, model.memory.limit_bytes = model.memory.limit_bytes, 1
    try:
        list(model.stream(said, max_new_tokens=4, temperature=0.0, conversation=chats[0]))
        assert chats[1].nbytes == 0, "the older chat made room"
        again = list(model.stream(said, max_new_tokens=4, temperature=0.0, conversation=chats[1]))
        assert again, "and is read anew when it goes on"
    finally:
        model.memory.limit_bytes = limit


@pytest.mark.parametrize("limit", [0, 10])
def test_one_entry_larger_than_the_budget_is_kept_alone(limit: int) -> None:
    budget, kept = Budget(limit), Kept()
    budget.use(kept, "a", 60)
    budget.use(kept, "b", 60)
    assert kept.gone == ["a"] and budget.bytes == 60
