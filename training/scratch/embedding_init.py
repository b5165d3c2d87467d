"""A token table to start from, made from counts alone: no gradient step.

Two parts, each standing in its own dimensions of the table:
1. *Meaning*: a ridge regression finds the table whose mean over a text's tokens is nearest to the sentence vector that
   an open encoder gives the text (`training.scratch.teacher`): E = argmin Σ ‖mean_t E[t] − y‖² + λ‖E‖².
2. *Company*: positive pointwise mutual information of tokens within a window, factorised by SVD
   (Levy & Goldberg 2014): tokens that occur in the same places lie near each other, which a language model needs.

RMSNorm gives every token state the same length, so the mean over tokens would forget which tokens matter. One slack
dimension keeps it: rows are filled up to a common length in a dimension that the final norm's weight switches off.
With zero-initialised residual outputs the mean-pooled state of the untrained model then *is* the static mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

Array = np.ndarray

# Chosen by STS-B dev of mean static vectors: see LOG.md.
RIDGE_PENALTY = 0.01
COMPANY_SCALE = 0.4


def mean_matrix(token_ids: Sequence[Sequence[int]], vocab_size: int) -> sparse.csr_matrix:
    """[n, vocab] float32; row i holds the share of each token in text i, so that `X @ table` is the mean vector."""
    lengths = np.array([len(ids) for ids in token_ids])
    rows = np.repeat(np.arange(len(token_ids)), lengths)
    columns = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in token_ids])
    values = np.repeat(1.0 / np.maximum(lengths, 1), lengths).astype(np.float32)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(token_ids), vocab_size))


def ridge_table(token_ids: Sequence[Sequence[int]], targets: Array, vocab_size: int, penalty: float) -> Array:
    """[vocab, d] float32: the table whose token means predict `targets` [n, d] best. Unseen tokens get zeros."""
    means = mean_matrix(token_ids, vocab_size)
    gram = (means.T @ means).toarray()
    gram[np.diag_indices_from(gram)] += penalty
    solved = cho_solve(cho_factor(gram, overwrite_a=True), means.T @ targets.astype(np.float32))
    return np.asarray(solved, dtype=np.float32)


def ppmi_table(tokens: Array, vocab_size: int, dimensions: int, window: int = 5, seed: int = 0) -> Array:
    """[vocab, dimensions] float32: SVD of the PPMI matrix of `tokens` [n], counts weighted by 1/distance.

    Contexts are smoothed with exponent 0.75; singular values enter with exponent 0.5.
    """
    counts = sparse.csr_matrix((vocab_size, vocab_size), dtype=np.float32)
    for distance in range(1, window + 1):
        weight = np.full(len(tokens) - distance, 1.0 / distance, dtype=np.float32)
        counts += sparse.csr_matrix(
            (weight, (tokens[:-distance].astype(np.int32), tokens[distance:].astype(np.int32))), shape=counts.shape
        )
    counts = (counts + counts.T).tocoo()
    totals = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1e-6)
    context = totals**0.75
    pmi = np.log(counts.data * context.sum() / (totals[counts.row] * context[counts.col]))
    keep = pmi > 0
    ppmi = sparse.csr_matrix((pmi[keep], (counts.row[keep], counts.col[keep])), shape=counts.shape)
    left, values = _truncated_svd(ppmi, dimensions, seed)
    return np.asarray(left * np.sqrt(values), dtype=np.float32)


def _truncated_svd(matrix: sparse.csr_matrix, rank: int, seed: int, oversampling: int = 32) -> tuple[Array, Array]:
    """Left vectors and values by randomised subspace iteration (Halko et al. 2011)."""
    rng = np.random.default_rng(seed)
    width = min(rank + oversampling, matrix.shape[0])
    basis = rng.standard_normal((matrix.shape[1], width)).astype(np.float32)
    for _ in range(5):
        basis, _ = np.linalg.qr(matrix @ (matrix.T @ basis))
    small = (matrix.T @ basis).T
    left, values, _ = np.linalg.svd(small, full_matrices=False)
    return (basis @ left)[:, :rank], values[:rank]


def _unit_scale(table: Array, counts: Array) -> Array:
    """The table centred and scaled to a mean row length of 1, both weighted by how often a token occurs."""
    weight = (counts / counts.sum())[:, None]
    table = table - (table * weight).sum(0)
    return table / max(float((np.linalg.norm(table, axis=1, keepdims=True) * weight).sum()), 1e-9)


def reduce(table: Array, counts: Array, dimensions: int) -> Array:
    """Principal components of the table's rows weighted by the square root of their counts."""
    weighted = table * np.sqrt(counts / counts.sum())[:, None]
    _, _, right = np.linalg.svd(weighted, full_matrices=False)
    return np.asarray(table @ right[:dimensions].T)


def assemble(meaning: Array, company: Array, hidden: int, *, company_scale: float, cap: float = 2.0) -> Tensor:
    """[vocab, hidden] rows of equal length 1: meaning, company, and one slack dimension that fills up the rest.

    Both inputs have a mean row length of about 1; `cap` is the content length (in those units) that counts as full.
    """
    content = np.concatenate([meaning, company_scale * company], axis=1)
    if content.shape[1] != hidden - 1:
        raise ValueError(f"{content.shape[1]} dimensions do not leave exactly one of {hidden} for the slack.")
    lengths = np.linalg.norm(content, axis=1, keepdims=True)
    content = content / np.maximum(lengths, 1e-9) * np.minimum(lengths / cap, 0.999)
    slack = np.sqrt(1 - (content**2).sum(1, keepdims=True))
    return torch.from_numpy(np.concatenate([content, slack], axis=1).astype(np.float32))


def initial_table(
    tokens: Array, text_ids: Sequence[Sequence[int]], teacher: Array, vocab_size: int, hidden: int
) -> Tensor:
    """The assembled table [vocab, hidden]: two thirds meaning, one third company, one slack dimension.

    tokens    [n]     running text, for co-occurrence
    text_ids  n lists of ids (no BOS); teacher [n, k] their sentence vectors
    """
    counts = np.bincount(tokens, minlength=vocab_size) + 1.0
    meaning_size = min(hidden * 2 // 3, teacher.shape[1])
    meaning = _unit_scale(ridge_table(text_ids, teacher, vocab_size, RIDGE_PENALTY), counts)
    company = ppmi_table(tokens, vocab_size, hidden - 1 - meaning_size)
    # SIF weights (Arora et al. 2017): frequent tokens say little about a text.
    rarity = 1e-3 / (1e-3 + counts / counts.sum())
    company *= rarity[:, None] / np.maximum(np.linalg.norm(company, axis=1, keepdims=True), 1e-9)
    return assemble(
        _unit_scale(reduce(meaning, counts, meaning_size), counts),
        _unit_scale(company, counts),
        hidden,
        company_scale=COMPANY_SCALE,
    )


def fit_head(states: Tensor, tokens: Array, *, steps: int, batch: int = 768, seed: int = 0) -> tuple[Tensor, float]:
    """The head [vocab, hidden] with which `states` predict the next token best, and its loss in nats per token.

    states  [vocab, hidden]  what the untrained model's trunk gives for each token, whatever stands before it
    tokens  [n]              running text

    Minimises the cross-entropy between softmax(head · states[t]) and the counted next tokens of t. One step sees all
    occurrences of `batch` different tokens in the text at once, so a few hundred steps do the work of millions of
    tokens of training; what the trunk learns afterwards is what lies beyond the pair.
    """
    vocab = len(states)
    pairs = (np.ones(len(tokens) - 1, dtype=np.float32), (tokens[:-1].astype(np.int32), tokens[1:].astype(np.int32)))
    counts = sparse.csr_matrix(pairs, shape=(vocab, vocab))
    occurrences = np.asarray(counts.sum(axis=1)).ravel()
    frequency = torch.from_numpy(np.log(np.asarray(counts.sum(axis=0)).ravel() + 0.5).astype(np.float32))
    head = torch.zeros_like(states)
    # The slack dimension starts as the bias that holds the tokens' frequencies. Its mean is that of running text: over
    # the vocabulary it is far smaller (rare tokens have none to spare), and frequent ones got logits of a hundred.
    usual_slack = float(states[:, -1] @ torch.from_numpy((occurrences / occurrences.sum()).astype(np.float32)))
    head[:, -1] = (frequency - frequency.mean()) / usual_slack
    first, second = torch.zeros_like(head), torch.zeros_like(head)
    rng = np.random.default_rng(seed)
    losses = []
    for step in range(1, steps + 1):
        rows = np.unique(rng.choice(vocab, size=batch, p=occurrences / occurrences.sum()))
        # Each distinct token enters with the weight of its occurrences, as far as drawing did not give it already.
        weight = occurrences[rows] / (1 - (1 - occurrences[rows] / occurrences.sum()) ** batch)
        weight = torch.from_numpy((weight / weight.sum()).astype(np.float32))
        target = torch.from_numpy(counts[rows].toarray() / occurrences[rows, None].astype(np.float32))
        known = states[torch.from_numpy(rows)]
        log_p = (known @ head.T).log_softmax(-1)
        losses.append(float(-((target * log_p).sum(-1) * weight).sum()))
        gradient = ((log_p.exp() - target) * weight[:, None]).T @ known
        first.lerp_(gradient, 0.1)
        second.mul_(0.98).addcmul_(gradient, gradient, value=0.02)
        rate = 0.01 * min(1.0, 2 * (1 - (step - 1) / steps))
        head -= rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.98**step)).sqrt() + 1e-10)
    return head, float(np.mean(losses[-20:]))
