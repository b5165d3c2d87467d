"""Answers decoded together: token for token, and logit for logit, those of each answer alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from grit_app.gritlm.cache.kv_cache import KVCache, join
from grit_app.gritlm.errors import Cancelled, InputError
from grit_app.gritlm.write.batched import BatchedAnswer, BatchedDecoder
from grit_app.gritlm.write.decoding import Sampling
from grit_app.gritlm.write.generation import causal_cache, score, stream_ids
from grit_app.gritlm.write.quote import QuoteConstraint
from grit_app.gritlm.write.runtime import Decoder
from tests.conftest import FAMILIES

TEXTS = ["Bees make honey from nectar.", "The river is long, and it is old.", "A total of 370 schools took part in it."]


def random_ids(count: int, seed: int) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def prompts(model: Any) -> list[tuple[list[int], KVCache | None]]:
    """Tails over nothing, over a causal cache, over a passage's, and over two joined ones: all of other lengths."""
    read = [encoding.cache for encoding in model.encode_iter(TEXTS, return_cache=True)]
    return [
        (random_ids(9, 1), None),
        (random_ids(5, 2), causal_cache(model, random_ids(17, 3))),
        (random_ids(80, 4), join(read[:1], model.rope)),
        (random_ids(1, 5), join(read[1:], model.rope)),
    ]


def run(together: BatchedDecoder) -> dict[int, str]:
    """The pieces of each answer, joined."""
    texts: dict[int, str] = {}
    while together.answers:
        for answer, piece in together.step():
            texts[id(answer)] = texts.get(id(answer), "") + piece
    return texts


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_a_ragged_forward_are_those_of_each_part_alone(load_tiny: Callable[..., Any], family: str) -> None:
    model = load_tiny(family)
    decoder = Decoder(model.hf_model)
    cases = prompts(model)

    def states(parts: Any) -> list[torch.Tensor]:
        with model.lock:
            return [decoder.project(state) for state in decoder.hidden_together(parts)]

    spaces = [decoder.workspace(cache, len(tail) + 4) for tail, cache in cases]
    alone = [decoder.workspace(cache, len(tail) + 4) for tail, cache in cases]
    for round_of_ids in ([tail for tail, _ in cases], [[7], [8, 9], [10], [11, 12, 13]]):
        found = states(list(zip(round_of_ids, spaces, strict=True)))
        for ids, space, logits in zip(round_of_ids, alone, found, strict=True):
            (expected,) = states([(ids, space)])
            assert expected.std() > 0.1, "flat logits would hide errors"
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_together_are_the_answers_alone(load_tiny: Callable[..., Any], family: str, temperature: float) -> None:
    """Tokens, texts, ends and likelihoods; each with its own length and seed, one of them among given texts only."""
    model = load_tiny(family)
    together = BatchedDecoder(model)
    answers, expected = [], []
    for number, (tail, cache) in enumerate(prompts(model)):
        guard = 1.3 if number == 2 else None
        sampling = Sampling(
            max_new_tokens=6 + 5 * number, temperature=temperature, seed=number, repetition_penalty=guard
        )
        constraint = QuoteConstraint(model.prompts, TEXTS) if number == 1 else None
        stream = stream_ids(model, tail, cache, sampling, constraint)
        stream.read_all()
        expected.append(stream.answer)
        answers.append(together.add(tail, cache, sampling, constraint))
    texts = run(together)
    for answer, alone in zip(answers, expected, strict=True):
        assert answer.token_ids == alone.token_ids != []
        assert (texts.get(id(answer), ""), answer.finish) == (alone.text, alone.finish)
        assert answer.log_likelihood == pytest.approx(alone.log_likelihood, abs=1e-3)
    assert any(text.startswith(answers[1].text.strip()) for text in TEXTS)


def test_answers_may_come_and_go_between_steps(tiny_model: Any) -> None:
    """One that joins late or leaves early changes nothing for the others: the way of a server."""
    cases = prompts(tiny_model)
    sampling = Sampling(max_new_tokens=20)
    alone = [stream_ids(tiny_model, tail, cache, sampling) for tail, cache in cases[:3]]
    for stream in alone:
        stream.read_all()
    together = BatchedDecoder(tiny_model)
    first = together.add(*cases[0], sampling)
    together.step()
    together.step()
    leaves = together.add(*cases[3], sampling)
    second = together.add(*cases[1], sampling)
    together.step()
    together.remove(leaves)
    third = together.add(*cases[2], sampling)
    run(together)
    assert [answer.token_ids for answer in (first, second, third)] == [stream.token_ids for stream in alone]
    assert leaves.finish == "cancelled" and len(leaves.token_ids) == 1


def test_a_rival_is_scored_as_by_itself_and_changes_nothing(tiny_model: Any) -> None:
    """The refusal's likelihood beside each answer, read behind the prompt and forgotten."""
    rival = [*tiny_model.prompts.continuation("The text does not give the answer."), tiny_model.prompts.eos_id]
    for judged in (rival, rival[:1]):
        together, plain = BatchedDecoder(tiny_model), BatchedDecoder(tiny_model)
        answers = [together.add(tail, cache, rival=judged) for tail, cache in prompts(tiny_model)]
        without = [plain.add(tail, cache) for tail, cache in prompts(tiny_model)]
        together.step(), together.step()
        plain.step(), plain.step()
        for answer, other, (tail, cache) in zip(answers, without, prompts(tiny_model), strict=True):
            assert answer.rival_log_likelihood == pytest.approx(score(tiny_model, tail, [judged], cache)[0], abs=1e-3)
            assert answer.token_ids == other.token_ids
        together.close()
        plain.close()


def test_cancel_leaves_the_answers_as_before_the_step(tiny_model: Any) -> None:
    together = BatchedDecoder(tiny_model)
    answer = together.add(*prompts(tiny_model)[2], Sampling(max_new_tokens=8))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        together.step(stop)
    assert answer.text == "" and together.answers == [answer]
    run(together)
    alone = stream_ids(tiny_model, *prompts(tiny_model)[2], Sampling(max_new_tokens=8))
    assert answer.text == alone.read_all()


def test_a_removed_answer_gives_its_room_back(tiny_model: Any) -> None:
    """The next answer over the same joined cache must be able to write behind it without a copy."""
    tail, cache = prompts(tiny_model)[2]
    assert cache is not None and cache.room is not None
    together = BatchedDecoder(tiny_model)
    answer: BatchedAnswer = together.add(tail, cache)
    assert not cache.room.claim()
    together.remove(answer)
    assert cache.room.claim()


def test_what_cannot_be_answered_is_a_sentence(tiny_model: Any) -> None:
    together = BatchedDecoder(tiny_model)
    with pytest.raises(InputError, match="prompt is empty"):
        together.add([])
    with pytest.raises(InputError, match="reads at most 1,024"):
        together.add(random_ids(1024, 0))


def test_a_long_prompt_is_read_beside_the_others_tokens(tiny_model: Any) -> None:
    """With a limit of time a step, whoever writes gets a token every step, and no prompt is passed over for good."""
    lengths = (700, 3, 120, 300)
    cases = [(random_ids(length, length), None) for length in lengths]
    alone = [stream_ids(tiny_model, *case, Sampling(max_new_tokens=40)) for case in cases]
    for stream in alone:
        stream.read_all()
    together = BatchedDecoder(tiny_model, prompt_s=1e-9)
    assert tiny_model.scheduler.speed("own") is not None, "the least a step must be what limits it"
    answers = [together.add(*case, Sampling(max_new_tokens=40)) for case in cases]
    begun: dict[int, int] = {}
    steps = 0
    while together.answers:
        running = [answer for answer in together.answers if answer.token_ids]
        before = [len(answer.token_ids) for answer in running]
        together.step()
        steps += 1
        ended = [answer.finish == "stop" for answer in running]
        assert [len(a.token_ids) + e for a, e in zip(running, ended, strict=True)] == [count + 1 for count in before]
        for answer in answers:
            if answer.token_ids:
                begun.setdefault(answers.index(answer), steps)
    assert [answer.token_ids for answer in answers] == [stream.token_ids for stream in alone]
    assert begun[1] == 1, "a short prompt need not wait for a long one"
    assert begun[0] <= 1 + sum(lengths) // 64 and len(begun) == 4


def test_a_cancelled_step_forgets_a_part_of_a_prompt(tiny_model: Any) -> None:
    prompt = random_ids(300, 8)
    together = BatchedDecoder(tiny_model, prompt_s=1e-9)
    answer = together.add(prompt, None, Sampling(max_new_tokens=5))
    together.step()
    assert answer.space.length == 64 and answer.token_ids == []
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        together.step(stop)
    assert answer.space.length == 64
    run(together)
    alone = stream_ids(tiny_model, prompt, None, Sampling(max_new_tokens=5))
    alone.read_all()
    assert answer.token_ids == alone.token_ids
