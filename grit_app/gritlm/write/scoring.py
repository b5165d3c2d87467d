"""How likely the model finds given continuations of one prompt.

The prompt is read once (or comes from a cache), and beginnings that continuations share are read once too: all of
them go through the model together as a tree, each token attending to the prompt and to its own ancestors only. The
numbers are those of scoring every continuation alone.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from grit_app.gritlm.cache.kv_cache import KVCache
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.loaded import Loaded
from grit_app.gritlm.write.runtime import Decoder, Workspace
from grit_app.gritlm.write.token_tree import TokenTree

MAX_TREE_TOKENS = 768
"""Tokens of continuations in one forward: more share more, but the mask grows with the square."""

LOGIT_ROWS = 128
"""Rows of logits at once: 16 MB for a vocabulary of 32,000."""


def score(
    model: Loaded,
    prompt_ids: Sequence[int],
    continuations: Sequence[Sequence[int]],
    cache: KVCache | None = None,
    cancel: threading.Event | None = None,
) -> list[float]:
    """Log-likelihood of each continuation after `cache` (may be None) and `prompt_ids`, summed in float32 over its ids.

    Add the end-of-text id to a continuation to score that it ends there. An empty continuation scores 0.
    Raises InputError if `prompt_ids` is empty: the last token of the prompt has to be read for its logits. Raises
    Cancelled between two layers once `cancel` is set.
    """
    if not prompt_ids:
        raise InputError("The prompt is empty: at least one token must come before what is scored.")
    decoder = Decoder(model.hf_model, model.scheduler.breathe)
    groups = _groups(continuations)
    largest = max((sum(len(continuations[index]) for index in group) for group in groups), default=0)
    space = decoder.workspace(cache, new_tokens=len(prompt_ids) + largest)  # no more: it may fit into the cache's room
    try:
        with model.scheduler.turn(cancel, tokens=len(prompt_ids)):
            opening = decoder.hidden(prompt_ids, space, cancel)[:, -1]
        scores = [0.0] * len(continuations)
        for indices in groups:
            tree = TokenTree(continuations[index] for index in indices)
            with model.scheduler.turn(cancel, tokens=len(tree)):
                node_scores = _node_scores(decoder, space, opening, tree, cancel)
            for index, end in zip(indices, tree.ends, strict=True):
                scores[index] = float(node_scores[end])
        return scores
    finally:
        space.close()


def _groups(continuations: Sequence[Sequence[int]]) -> list[list[int]]:
    """Indices of continuations that go through the model together, those with the same beginning side by side."""
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(continuations)), key=lambda i: tuple(continuations[i])):
        tokens += len(continuations[index])
        if not groups or tokens > MAX_TREE_TOKENS:
            groups.append([])
            tokens = len(continuations[index])
        groups[-1].append(index)
    return groups


def _node_scores(
    decoder: Decoder, space: Workspace, opening: Tensor, tree: TokenTree, cancel: threading.Event | None
) -> Tensor:
    """Log-likelihood [nodes] of the ids that lead to each node. `opening` [1, hidden] is the prompt's last state."""
    inner = [node for node in range(1, len(tree)) if tree.children[node]]  # leaves have nothing to predict
    hidden = torch.cat([opening, _read_tree(decoder, space, tree, inner, cancel)]) if inner else opening
    scores = torch.zeros(len(tree))
    # Parents before children: a row's own score is complete before it is handed on.
    for first in range(0, len(hidden), LOGIT_ROWS):
        log_probabilities = decoder.project(hidden[first : first + LOGIT_ROWS]).log_softmax(dim=-1)
        for node, row in zip([0, *inner][first : first + LOGIT_ROWS], log_probabilities, strict=True):
            token_ids, children = list(tree.children[node]), list(tree.children[node].values())
            scores[children] = scores[node] + row[token_ids]
    return scores


def _read_tree(
    decoder: Decoder, space: Workspace, tree: TokenTree, nodes: Sequence[int], cancel: threading.Event | None
) -> Tensor:
    """Final hidden states [nodes, hidden] of `nodes`, whose ancestors are among them, on top of the workspace."""
    token_of = {child: token_id for children in tree.children for token_id, child in children.items()}
    row_of = {node: row for row, node in enumerate(nodes)}
    may_attend = torch.eye(len(nodes), dtype=torch.bool)
    for row, node in enumerate(nodes):
        if tree.parents[node]:
            may_attend[row] |= may_attend[row_of[tree.parents[node]]]
    depths = torch.tensor([tree.depths[node] - 1 for node in nodes])
    return decoder.hidden([token_of[node] for node in nodes], space, cancel, tree=(depths, may_attend))[0]
