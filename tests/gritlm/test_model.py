"""GritLM's thin methods for writing, and the limits of its context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.errors import InputError

MESSAGES = [{"role": "user", "content": "How many schools took part?"}]


def test_generate_stream_and_stream_ids_write_the_same(tiny_model: GritLM) -> None:
    text = tiny_model.generate(MESSAGES, max_new_tokens=12)
    assert text
    assert "".join(tiny_model.stream(MESSAGES, max_new_tokens=12)) == text
    ids = tiny_model.prompts.chat(MESSAGES).ids
    assert tiny_model.stream_ids(ids, sampling=Sampling(max_new_tokens=12)).read_all() == text
    cache = tiny_model.causal_cache(ids[:-4])
    assert tiny_model.stream_ids(ids[-4:], cache, Sampling(max_new_tokens=12)).read_all() == text


def test_seed_temperature_and_top_p_reach_the_sampler(tiny_model: GritLM) -> None:
    def write(seed: int, temperature: float, top_p: float = 1.0) -> str:
        return tiny_model.generate(MESSAGES, max_new_tokens=12, temperature=temperature, top_p=top_p, seed=seed)

    assert write(1, 1.0) == write(1, 1.0)
    assert len({write(seed, 1.0) for seed in range(4)}) > 1
    assert write(1, 1.0, top_p=1e-6) == write(2, 0.0)


def test_the_checkpoints_guard_against_loops_is_the_default(tiny_model_folder: Callable[..., Path]) -> None:
    """In chats and over caches alike; what the caller says wins."""

    def repeats(ids: Sequence[int]) -> int:
        return len(ids) - len(set(ids))

    def written(model: GritLM, **guard: int) -> list[int]:
        stream = model.stream(MESSAGES, max_new_tokens=120, **guard)
        stream.read_all()
        return stream.token_ids

    plain = GritLM.from_pretrained(tiny_model_folder("mistral"), dtype="float32")
    assert repeats(written(plain)) > 0, "a random model repeats itself"
    guarded = GritLM(plain.hf_model, plain.tokenizer, plain.config.overridden(no_repeat_ngram_size=1))
    assert repeats(written(guarded)) == 0 and written(guarded) == written(plain, no_repeat_ngram_size=1)
    over_cache = guarded.stream_ids(guarded.prompts.chat(MESSAGES).ids, sampling=Sampling(max_new_tokens=120))
    over_cache.read_all()
    assert list(over_cache.token_ids) == written(guarded)
    assert written(guarded, no_repeat_ngram_size=0) == written(plain)
    penalised = GritLM(plain.hf_model, plain.tokenizer, plain.config.overridden(repetition_penalty=100.0))
    assert repeats(written(penalised)) < repeats(written(plain))


def test_the_likeliest_token_scores_best(tiny_model: GritLM) -> None:
    ids = tiny_model.prompts.chat(MESSAGES).ids
    stream = tiny_model.stream_ids(ids, sampling=Sampling(max_new_tokens=1))
    stream.read_all()
    (best,) = stream.token_ids
    scores = tiny_model.score(ids, [[token] for token in range(3, 500)])
    assert 3 + max(range(len(scores)), key=scores.__getitem__) == best


def test_a_prompt_beyond_the_context_is_a_sentence(tiny_model: GritLM) -> None:
    """Positions that the model does not know give nonsense, which nobody could tell from a bad answer."""
    long = [5] * tiny_model.context
    with pytest.raises(InputError, match=r"1,024 tokens, and this model reads at most 1,024"):
        tiny_model.stream_ids(long)
    with pytest.raises(InputError, match="reads at most"):
        tiny_model.stream_ids([5], tiny_model.causal_cache(long))
    with pytest.raises(InputError, match="start a new conversation"):
        tiny_model.generate([{"role": "user", "content": "river " * 2000}])


def test_an_answer_ends_with_the_context(tiny_model: GritLM) -> None:
    stream = tiny_model.stream_ids([5] * (tiny_model.context - 3), sampling=Sampling(max_new_tokens=50))
    stream.read_all()
    assert stream.stats.new_tokens <= 3
    assert stream.stats.finish_reason in ("length", "stop")
