"""Quote mode: answers that are, word for word, one of some given texts, or the refusal sentence.

Two ways to choose among the texts:

- `QuoteConstraint` limits decoding token by token. It streams, and where only one text is left the rest costs nothing,
  because there is nothing to choose. But the choice is made on first tokens, where texts compete as beginnings.
- `best_span` compares the likelihoods of whole texts, in about one forward for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.prompts import Prompts
from grit_app.gritlm.write.scoring import score
from grit_app.gritlm.write.token_tree import TokenTree

if TYPE_CHECKING:
    from grit_app.gritlm.model import GritLM


def tokenizations(prompts: Prompts, span: str) -> list[list[int]]:
    """The ways to continue a prompt with `span`: directly (after a newline), or with a space before it (after a word).

    None if the tokenizer cannot give the text back word for word.
    """
    text = span.strip()
    variants = [prompts.continuation(text), prompts.continuation(f" {text}")] if text else []
    unique = [variant for index, variant in enumerate(variants) if variant not in variants[:index]]
    return [variant for variant in unique if prompts.decode(variant).strip() == text]


class QuoteConstraint:
    """Limits answers to the given spans and the refusal sentence, each as a whole; answers may end only at their ends.

    The text of an answer, stripped, is one of the spans, stripped. May be used for any number of answers at once.
    Raises InputError if nothing can be quoted.
    """

    def __init__(self, prompts: Prompts, spans: Sequence[str], refusal: str = "") -> None:
        self._tree = TokenTree(ids for span in (*spans, refusal) for ids in tokenizations(prompts, span))
        if not self._tree.ends:
            raise InputError("There is nothing to quote: all texts are empty, and there is no refusal sentence.")
        self._ends = frozenset(self._tree.ends)
        self._eos_id = prompts.eos_id

    def begin(self) -> _QuoteState:
        """The state of one answer, at its beginning."""
        return _QuoteState(self._tree, self._ends, self._eos_id)


class _QuoteState:
    """A place in the tree of texts."""

    def __init__(self, tree: TokenTree, ends: frozenset[int], eos_id: int) -> None:
        self._tree, self._ends, self._eos_id = tree, ends, eos_id
        self._node = 0

    def allowed(self) -> Collection[int]:
        """Ids that continue a text; the end-of-text id where a text ends."""
        continuing = list(self._tree.children[self._node])
        return [*continuing, self._eos_id] if self._node in self._ends else continuing

    def advance(self, token_id: int) -> None:
        self._node = self._tree.children[self._node][token_id]


@dataclass(frozen=True)
class SpanChoice:
    """Which of some texts the model finds likeliest."""

    index: int
    text: str
    scores: list[float]
    """For each text its log-likelihood, its end included; −inf for a text that cannot be given back word for word."""


def best_span(
    model: GritLM,
    tail_ids: Sequence[int],
    cache: KVCache | None,
    spans: Sequence[str],
    length_normalised: bool = True,
    cancel: threading.Event | None = None,
) -> SpanChoice:
    """The span that the model most likely answers with as a whole, after `cache` (may be None) and `tail_ids`.

    length_normalised   scores are means over tokens instead of sums: without it short texts win

    Raises InputError if there is no span to choose, Cancelled once `cancel` is set.
    """
    owners, sequences = [], []
    for index, span in enumerate(spans):
        for ids in tokenizations(model.prompts, span):
            owners.append(index)
            sequences.append([*ids, model.prompts.eos_id])
    if not sequences:
        raise InputError("There is no text to choose from: all spans are empty.")
    scores = [float("-inf")] * len(spans)
    for index, ids, total in zip(owners, sequences, score(model, tail_ids, sequences, cache, cancel), strict=True):
        scores[index] = max(scores[index], total / len(ids) if length_normalised else total)
    best = max(range(len(spans)), key=lambda index: scores[index])
    return SpanChoice(best, spans[best].strip(), scores)
