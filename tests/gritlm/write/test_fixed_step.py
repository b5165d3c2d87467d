"""Decoding at a fixed shape gives the plain path's tokens. On a CPU the same step runs uncaptured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from grit_app.gritlm import Conversation, GritLM, Sampling
from grit_app.gritlm.write import fixed_step
from grit_app.gritlm.write.fixed_step import FixedStep, FixedSteps, bucket, can_be_captured, steps_of
from grit_app.gritlm.write.runtime import Decoder
from tests.conftest import FAMILIES, tiny_hf_model


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fixed steps on the CPU as well; gives the lengths at which they ran."""
    monkeypatch.setattr(fixed_step, "can_be_captured", lambda *_: True)
    ran: list[int] = []
    plain = FixedStep.run
    monkeypatch.setattr(FixedStep, "run", lambda self, token: ran.append(self.length) or plain(self, token))
    return ran


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_every_step_are_those_of_the_plain_path(family: str) -> None:
    hf_model = tiny_hf_model(family)
    ids = random_ids(12)
    decoder = Decoder(hf_model)
    plain, space = decoder.workspace(None, 60), decoder.workspace(None, 60)
    decoder.logits(ids, plain)
    decoder.logits(ids, space)
    step = FixedStep(decoder, 60)
    step.hold(space)
    for token in random_ids(8, seed=1):
        expected = decoder.logits([token], plain)
        assert expected.std() > 0.3, "flat logits would hide errors"
        assert (step.run(token) - expected).abs().max() < 1e-4
    step.write_back(space)
    assert (space.length, space.position) == (plain.length, plain.position) == (20, 20)
    assert (decoder.logits([7], space) - decoder.logits([7], plain)).abs().max() < 1e-4


def test_a_slot_forgets_the_answer_before() -> None:
    """Rows behind the new answer's are left over from a longer one; the mask hides them."""
    hf_model = tiny_hf_model("mistral")
    decoder = Decoder(hf_model)
    step = FixedStep(decoder, 100)
    long, short, plain = (decoder.workspace(None, 100) for _ in range(3))
    decoder.logits(random_ids(90), long)
    step.hold(long)
    step.run(5)
    for space in (short, plain):
        decoder.logits(random_ids(9, seed=2), space)
    step.hold(short)
    assert (step.run(6) - decoder.logits([6], plain)).abs().max() < 1e-4


def test_buckets_waste_a_fourth_at_most_and_are_few() -> None:
    sizes = {bucket(length) for length in range(1, 32_769)}
    assert all(0 <= bucket(length) - length < max(256, length / 4 + 1) for length in range(1, 32_769))
    assert len(sizes) < 32


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_and_chats_are_the_same_text(
    tiny_model: GritLM, everywhere: list[int], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two turns of a chat: the second continues from rows that the slot gave back."""
    sampling = Sampling(max_new_tokens=24, temperature=temperature, seed=3)

    def run() -> list[Any]:
        answer = tiny_model.stream_ids(random_ids(10), sampling=sampling)
        said: list[Any] = [answer.read_all(), answer.token_ids]
        chat, messages = Conversation(), [{"role": "user", "content": "Hello"}]
        for turn in ("the river", "and then"):
            reply = tiny_model.stream(messages, 12, temperature, seed=4, conversation=chat)
            messages += [{"role": "assistant", "content": reply.read_all()}, {"role": "user", "content": turn}]
            said += [reply.token_ids, reply.stats.cached_tokens]
        return said

    with_steps = run()
    assert len(everywhere) > 30, "the plain path ran, so nothing was compared"
    monkeypatch.setattr(fixed_step, "can_be_captured", lambda *_: False)
    assert run() == with_steps
    assert with_steps[-1] > 0, "the second turn reused nothing"


def test_slots_come_back_and_are_few(tiny_model: GritLM, everywhere: list[int]) -> None:
    pool = steps_of(tiny_model.hf_model)
    pool.clear()
    streams = [tiny_model.stream_ids(random_ids(10, seed), sampling=Sampling(max_new_tokens=9)) for seed in range(6)]
    for stream in streams:
        for _ in range(3):
            next(stream, None)
    assert len({id(stream) for stream in streams}) > fixed_step.SLOTS
    texts = [stream.read_all() for stream in streams]
    for stream in streams:
        stream.close()
    assert 1 <= len(pool._free) <= fixed_step.SLOTS
    again = [tiny_model.stream_ids(random_ids(10, seed), sampling=Sampling(max_new_tokens=9)) for seed in range(6)]
    assert [stream.read_all() for stream in again] == texts


def test_a_slot_that_is_too_small_makes_way(load_tiny: Callable[..., Any]) -> None:
    decoder, pool = Decoder(load_tiny("llama").hf_model), FixedSteps()
    small = pool.take(decoder, 200)
    assert small is not None
    pool.give(small)
    large = pool.take(decoder, 900)
    assert large is not None and large.capacity >= 900
    pool.give(large)
    assert pool.take(decoder, 100) is large


def test_what_cannot_be_captured_is_known_beforehand(load_tiny: Callable[..., Any]) -> None:
    """On a CPU nothing is; on one GPU all but 8 bits and routed experts."""
    decoder = Decoder(load_tiny("mistral").hf_model)
    assert not can_be_captured(decoder, "none")


def test_the_same_seed_draws_the_same_token_wherever_the_logits_lie() -> None:
    """The draw follows the distribution: the number is the host's, the rest is arithmetic on the logits' device."""
    from grit_app.gritlm.write.decoding import choose_token

    logits = torch.tensor([2.0, 0.0, 1.0, -3.0])
    generator = torch.Generator().manual_seed(0)
    sampling = Sampling(temperature=1.0)
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[choose_token(logits, sampling, generator)] += 1
    assert (counts / 4000 - logits.softmax(0)).abs().max() < 0.03
    narrow = Sampling(temperature=1.0, top_p=0.5)
    assert {choose_token(logits, narrow, generator) for _ in range(50)} == {0}
