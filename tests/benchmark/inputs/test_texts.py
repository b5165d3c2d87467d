"""Texts of exact length."""

from __future__ import annotations

from typing import Any

import pytest

from grit_app.benchmark.inputs.texts import TextMaker


@pytest.mark.parametrize("tokens", [1, 2, 3, 16, 97, 256, 700])
def test_a_text_has_exactly_the_tokens_asked_for(tiny_model: Any, tokens: int) -> None:
    """Counted by the model's own tokenizer, apart from the prompts' code."""
    text = TextMaker(tiny_model.prompts, tiny_model.tokenizer.get_vocab(), seed=3).text(tokens)
    prompt = tiny_model.prompts.embed(text)
    assert len(prompt.ids) - prompt.header_length == tokens
    whole = tiny_model.tokenizer("<|embed|>\n" + text, add_special_tokens=False)["input_ids"]
    header = tiny_model.tokenizer("<|embed|>\n", add_special_tokens=False)["input_ids"]
    assert len(whole) - len(header) == tokens


def test_the_seed_decides_and_calls_differ(tiny_model: Any) -> None:
    vocabulary = tiny_model.tokenizer.get_vocab()
    first, again, other = (TextMaker(tiny_model.prompts, vocabulary, seed) for seed in (0, 0, 1))
    text = first.text(40)
    assert text == again.text(40)
    assert text != other.text(40)
    assert text != first.text(40)


def test_a_vocabulary_without_words_still_gives_exact_lengths(tiny_model: Any) -> None:
    """No entry begins with a space mark: single letters then."""
    assert TextMaker(tiny_model.prompts, {"a": 5}, seed=0).count(TextMaker(tiny_model.prompts, {}, 0).text(33)) == 33
