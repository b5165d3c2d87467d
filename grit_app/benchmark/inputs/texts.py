"""Texts of an exact number of tokens: lengths in the records are what was really read, nothing cut, nothing padded."""

from __future__ import annotations

import random

from grit_app.gritlm.errors import InputError
from grit_app.gritlm.prompts import Prompts

WORD_MARKS = ("Ġ", "▁")  # how byte-level and sentencepiece vocabularies write the space before a word
ATTEMPTS = 200


class TextMaker:
    """Makes texts of words from the tokenizer's own vocabulary; the same seed gives the same texts.

    maker = TextMaker(model.prompts, seed=0)
    maker.text(4096)          # 4096 tokens as the sample of an embedding input
    """

    def __init__(self, prompts: Prompts, vocabulary: dict[str, int], seed: int = 0) -> None:
        self._prompts = prompts
        self._random = random.Random(seed)
        words = sorted(token[1:] for token in vocabulary if token.startswith(WORD_MARKS))
        self._words = [word for word in words if len(word) > 2 and word.isascii() and word.isalpha()] or list(
            "abcdefgh"
        )

    def text(self, tokens: int) -> str:
        """A text whose sample has exactly `tokens` tokens. Raises InputError where the vocabulary allows none."""
        words = self._draw(tokens)
        for _ in range(ATTEMPTS):
            difference = tokens - self.count(" ".join(words))
            if difference == 0:
                return " ".join(words)
            # A word may take several tokens, so a correction can overshoot; the random draw gets past it.
            words = (
                words + self._draw(max(1, difference // 2)) if difference > 0 else words[:difference] or self._draw(1)
            )
        raise InputError(f"No text of exactly {tokens} tokens could be made with this tokenizer.")

    def words(self, count: int) -> str:
        """A text of `count` words, of any number of tokens."""
        return " ".join(self._draw(count))

    def count(self, text: str) -> int:
        """Tokens of a text as the sample of an embedding input."""
        return len(self._prompts.embed(text).sample)

    def _draw(self, count: int) -> list[str]:
        return self._random.choices(self._words, k=count)
