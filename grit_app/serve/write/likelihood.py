"""How likely each token of a given text is."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from grit_app.errors import InputError
from grit_app.gritlm import GritLM
from grit_app.gritlm.write.runtime import Decoder
from grit_app.serve.write.writer import TokenScore, score_of

LOGIT_ROWS = 64
"""Rows of logits at once: 13 MB for a vocabulary of 49,152."""

UNKNOWN = 1.0
"""Log-probability of a first token: no probability has a logarithm above 0."""


def prompt_scores(model: GritLM, ids: Sequence[int], top: int, cancel: threading.Event) -> list[TokenScore]:
    """A score for each of `ids` but BOS, given all before it. A text without BOS has nothing before its first token."""
    if len(ids) > model.context:
        raise InputError(f"The prompt has {len(ids):,} tokens, and this model reads at most {model.context:,}.")
    has_bos = ids[0] == model.prompts.bos_id
    scores = [] if has_bos else [TokenScore(ids[0], UNKNOWN, ())]
    if len(ids) < 2:
        return scores
    decoder = Decoder(model.hf_model)
    space = decoder.workspace(None, new_tokens=len(ids))
    try:
        with model.lock:
            hidden = decoder.hidden(ids[:-1], space, cancel)[0]
        for first in range(0, len(hidden), LOGIT_ROWS):
            with model.lock:
                rows = decoder.project(hidden[first : first + LOGIT_ROWS])
            following = ids[first + 1 : first + 1 + len(rows)]
            scores += [score_of(token, row, top) for token, row in zip(following, rows, strict=True)]
    finally:
        space.close()
    return scores
