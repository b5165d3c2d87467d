"""Answers over caches, chats that keep their cache, and likelihoods: always what a plain full forward gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from grit_app.gritlm.cache import file as kv_file
from grit_app.gritlm.cache.kv_cache import join
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.write.decoding import Sampling
from grit_app.gritlm.write.generation import Conversation, causal_cache, score, stop_ids, stream, stream_ids
from grit_app.gritlm.write.runtime import Decoder
from grit_app.gritlm.write.scoring import MAX_TREE_TOKENS
from tests.conftest import FAMILIES

TOLERANCE = 1e-4
LoadTiny = Callable[..., Any]


def random_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.inference_mode()
def plain_logits(model: Any, ids: list[int]) -> Tensor:
    with model.lock:
        logits: Tensor = model.hf_model(torch.tensor([ids]), is_causal=True, use_cache=False).logits[0]
    return logits


def plain_greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """One full forward a token, and no cache anywhere."""
    tokens: list[int] = []
    for _ in range(count):
        token_id = int(plain_logits(model, [*ids, *tokens])[-1].argmax())
        if token_id in stop_ids(model):
            break
        tokens.append(token_id)
    return tokens


def first_logits(model: Any, cache: Any, tail: list[int]) -> Tensor:
    decoder = Decoder(model.hf_model)
    return decoder.logits(tail, decoder.workspace(cache, len(tail)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_causal_cache_is_exactly_the_prompt(load_tiny: LoadTiny, family: str) -> None:
    model, ids = load_tiny(family), [1, *random_ids(30, seed=7)]
    cache = causal_cache(model, ids[:20])
    assert cache.attention == "causal" and cache.ids.tolist() == ids[:20]
    assert (first_logits(model, cache, ids[20:]) - plain_logits(model, ids)[-1]).abs().max() < TOLERANCE
    answer = stream_ids(model, ids[20:], cache, Sampling(max_new_tokens=12))
    answer.read_all()
    assert answer.token_ids == plain_greedy(model, ids, 12)
    assert (answer.stats.prompt_tokens, answer.stats.cached_tokens) == (31, 20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(2, 40), cut=st.floats(0, 1), seed=st.integers(0, 1000))
def test_any_cut_into_cache_and_tail_gives_the_same_logits(tiny_model: Any, length: int, cut: float, seed: int) -> None:
    ids = random_ids(length, seed)
    cached = int(cut * (length - 1))
    cache = causal_cache(tiny_model, ids[:cached]) if cached else None
    expected = plain_logits(tiny_model, ids)[-1]
    assert (first_logits(tiny_model, cache, ids[cached:]) - expected).abs().max() < TOLERANCE


def test_a_cache_is_untouched_by_questions_and_gives_the_same_again(tiny_model: Any, tmp_path: Any) -> None:
    """A forward changes the cache it is given; ours must not, be it in its own room, elsewhere or in a file."""
    plain = causal_cache(tiny_model, random_ids(25))
    kv_file.save(plain, tmp_path / "one", identity="me")
    stored = kv_file.load(tmp_path / "one", identity="me")
    assert stored is not None
    for cache in (plain, stored, join([stored], tiny_model.rope)):
        keys, values = cache.keys.clone(), cache.values.clone()
        answers = []
        for _ in range(2):
            answer = stream_ids(tiny_model, random_ids(5, seed=1), cache, Sampling(max_new_tokens=8))
            answer.read_all()
            answers.append(answer.token_ids)
            assert torch.equal(cache.keys, keys) and torch.equal(cache.values, values)
        assert answers[0] == answers[1]


def test_two_answers_at_once_over_one_joined_cache(tiny_model: Any) -> None:
    """Only one may write into the room behind it; the other must get its own copy, not the same rows."""
    cache = join([causal_cache(tiny_model, random_ids(25))], tiny_model.rope)
    tails = [random_ids(5, seed=1), random_ids(6, seed=2)]
    expected = []
    for tail in tails:
        alone = stream_ids(tiny_model, tail, cache, Sampling(max_new_tokens=10))
        alone.read_all()
        expected.append(alone.token_ids)
    streams = [stream_ids(tiny_model, tail, cache, Sampling(max_new_tokens=10)) for tail in tails]
    live = list(streams)
    while live:  # token by token in turn
        live = [answer for answer in live if next(answer, None) is not None]
    assert [answer.token_ids for answer in streams] == expected
    assert expected[0] != expected[1]
    assert cache.room is not None and cache.room.claim(), "the room is free again"
    cache.room.release()


def test_long_answers_outgrow_the_first_buffer(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from grit_app.gritlm.write import generation

    monkeypatch.setattr(generation, "ANSWER_ROOM_TOKENS", 4)
    prompt = random_ids(9, seed=3)
    answer = stream_ids(tiny_model, prompt, sampling=Sampling(max_new_tokens=40))
    answer.read_all()
    assert answer.token_ids == plain_greedy(tiny_model, prompt, 40)


def test_seeds_repeat_and_temperature_varies(tiny_model: Any) -> None:
    prompt = random_ids(9, seed=3)

    def answer(seed: int | None) -> list[int]:
        stream = stream_ids(tiny_model, prompt, sampling=Sampling(max_new_tokens=12, temperature=1.0, seed=seed))
        stream.read_all()
        return stream.token_ids

    assert answer(1) == answer(1)
    assert len({tuple(answer(seed)) for seed in range(4)}) > 1


def test_cancel_stops_a_long_prompt_between_layers(tiny_model: Any) -> None:
    cancel = threading.Event()
    cancel.set()
    answer = stream_ids(tiny_model, random_ids(50), cancel=cancel)
    assert answer.read_all() == "" and answer.stats.finish_reason == "cancelled"


def test_an_empty_prompt_is_a_sentence(tiny_model: Any) -> None:
    with pytest.raises(InputError, match="empty"):
        stream_ids(tiny_model, [])
    with pytest.raises(InputError, match="no tokens"):
        causal_cache(tiny_model, [])
    with pytest.raises(InputError, match="empty"):
        score(tiny_model, [], [[5]])


class Chat:
    """A chat over one conversation, whose answers are compared with those of no conversation."""

    def __init__(self, model: Any) -> None:
        self.model, self.conversation = model, Conversation()
        self.messages: list[dict[str, str]] = []

    def ask(self, text: str) -> Any:
        self.messages.append({"role": "user", "content": text})
        sampling = Sampling(max_new_tokens=10)
        answer = stream(self.model, self.messages, sampling, conversation=self.conversation)
        answer.read_all()
        fresh = stream(self.model, self.messages, sampling)
        fresh.read_all()
        assert answer.token_ids == fresh.token_ids
        assert fresh.stats.cached_tokens == 0
        self.messages.append({"role": "assistant", "content": answer.text})
        return answer


@pytest.mark.parametrize("family", ["mistral", "qwen3"])
def test_a_conversation_reuses_earlier_turns_exactly(load_tiny: LoadTiny, family: str) -> None:
    model = load_tiny(family)
    chat = Chat(model)
    first = chat.ask("Hello there")
    assert first.stats.cached_tokens == 0
    second = chat.ask("How many schools took part?")
    assert second.stats.cached_tokens >= first.stats.prompt_tokens, "the whole first prompt was read already"
    third = chat.ask("And bees?")
    assert second.stats.prompt_tokens <= third.stats.cached_tokens < third.stats.prompt_tokens
    assert chat.conversation.ids[: third.stats.prompt_tokens] == model.prompts.chat(chat.messages[:-1]).ids


def test_editing_and_retrying_a_turn_keeps_what_lies_before_it(tiny_model: Any) -> None:
    chat = Chat(tiny_model)
    chat.ask("Hello there")
    chat.ask("How many schools took part?")
    del chat.messages[2:]
    edited = chat.ask("How many bees took part?")
    shared = len(tiny_model.prompts.chat(chat.messages[:2], add_generation_prompt=False).ids)
    assert shared <= edited.stats.cached_tokens < edited.stats.prompt_tokens
    del chat.messages[3:]
    chat.messages.pop()
    retried = chat.ask("How many bees took part?")
    assert retried.stats.cached_tokens == retried.stats.prompt_tokens - 1, "only the last token is read again"


def test_a_conversation_survives_a_stopped_answer(tiny_model: Any) -> None:
    chat = Chat(tiny_model)
    chat.ask("Hello there")
    messages = [*chat.messages, {"role": "user", "content": "Bees?"}]
    stopped = stream(tiny_model, messages, Sampling(max_new_tokens=10), conversation=chat.conversation)
    next(stopped)
    stopped.close()
    assert not chat.conversation.lock.locked()
    assert chat.ask("Combs made of wax?").stats.cached_tokens > 0


def test_two_turns_of_one_conversation_at_once_do_not_mix(tiny_model: Any) -> None:
    conversation = Conversation()
    questions = [[{"role": "user", "content": text}] for text in ("Hello there", "How many schools?")]
    expected = [stream(tiny_model, messages, Sampling(max_new_tokens=8)).read_all() for messages in questions]
    streams = [
        stream(tiny_model, messages, Sampling(max_new_tokens=8), conversation=conversation) for messages in questions
    ]
    live = list(streams)
    while live:
        live = [answer for answer in live if next(answer, None) is not None]
    assert [answer.text for answer in streams] == expected


def test_a_cleared_conversation_starts_from_nothing(tiny_model: Any) -> None:
    chat = Chat(tiny_model)
    chat.ask("Hello there")
    chat.conversation.clear()
    assert chat.conversation.ids == []
    assert chat.ask("Hello there").stats.cached_tokens == 0


def test_a_conversation_that_meets_another_model_starts_again(load_tiny: LoadTiny) -> None:
    """The model may be replaced while a chat is open; its keys mean nothing to the next one."""
    chat = Chat(load_tiny("mistral"))
    chat.ask("Hello there")
    chat.model = load_tiny("llama")
    assert chat.ask("Hello there").stats.cached_tokens == 0


def naive_score(model: Any, prompt: list[int], continuation: list[int]) -> float:
    """One full forward for each continuation."""
    log_probabilities = plain_logits(model, [*prompt, *continuation]).double().log_softmax(-1)
    rows = range(len(prompt) - 1, len(prompt) + len(continuation) - 1)
    return float(sum(log_probabilities[row, token_id] for row, token_id in zip(rows, continuation, strict=True)))


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_one_forward_for_each_continuation(load_tiny: LoadTiny, family: str) -> None:
    """Shared beginnings, one inside another, the same twice, single tokens, and none at all."""
    model, prompt = load_tiny(family), random_ids(11, seed=2)
    continuations = [[5, 6, 7, 8], [5, 6, 9], [5, 6], [5, 6, 7, 8], [40], random_ids(15, seed=4), []]
    expected = [naive_score(model, prompt, continuation) for continuation in continuations]
    cache = causal_cache(model, prompt[:6])
    for found in (score(model, prompt, continuations), score(model, prompt[6:], continuations, cache)):
        assert found == pytest.approx(expected, abs=TOLERANCE)
    assert len({round(value, 2) for value in expected}) == 6


def test_more_continuations_than_one_forward_takes(tiny_model: Any) -> None:
    continuations = [random_ids(30, seed=seed) for seed in range(3 * MAX_TREE_TOKENS // 30)]
    found = score(tiny_model, [1, 5], continuations)
    for index in (0, 13, len(continuations) - 1):
        assert found[index] == pytest.approx(naive_score(tiny_model, [1, 5], continuations[index]), abs=1e-3)
