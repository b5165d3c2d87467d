"""Embedding sets a flag in the configuration that all threads share; nobody may notice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

TEXTS = ["Bees make honey from nectar.", "A KV cache keeps keys and values of tokens.", "three hundred kilometres"]
ROUNDS = 12


def test_encoding_and_generating_at_once_equals_one_after_the_other(tiny_model: Any) -> None:
    chats = [[{"role": "user", "content": text}] for text in TEXTS]
    vectors = tiny_model.encode(TEXTS)
    answers = [tiny_model.generate(chat, max_new_tokens=12) for chat in chats]
    scores = tiny_model.score([1, 5, 6], [[7, 8, 9], [7, 10]])
    assert len(set(answers)) == 3

    def encode(_: int) -> bool:
        return bool(np.allclose(tiny_model.encode(TEXTS), vectors, atol=1e-5))

    def generate(turn: int) -> bool:
        return bool(tiny_model.generate(chats[turn % 3], max_new_tokens=12) == answers[turn % 3])

    def score(_: int) -> bool:
        return bool(np.allclose(tiny_model.score([1, 5, 6], [[7, 8, 9], [7, 10]]), scores, atol=1e-4))

    with ThreadPoolExecutor(6) as pool:
        results = [pool.submit(work, turn) for turn in range(ROUNDS) for work in (encode, generate, score)]
        assert all(result.result() for result in results)


def test_a_text_is_embedded_between_two_tokens_of_an_answer(tiny_model: Any) -> None:
    """An answer must not hold the model while nobody asks it for its next token."""
    chat = [{"role": "user", "content": TEXTS[0]}]
    expected = tiny_model.generate(chat, max_new_tokens=8)
    answer = tiny_model.stream(chat, max_new_tokens=8)
    pieces = [next(answer)]
    with ThreadPoolExecutor(1) as pool:
        vectors = pool.submit(tiny_model.encode, TEXTS).result(timeout=30)
    assert vectors.shape == (3, tiny_model.hidden_size)
    assert "".join([*pieces, *answer]) == expected
