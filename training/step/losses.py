"""The losses, as functions of tensors. They know nothing of files, processes or models.

    L_rep = mean over queries of  −log softmax(cos(q, P) / T) at the own positive, P = every passage of the global batch
    L_gen = Σ_t w_t · −log p(token t)      with weights w that sum to 1 over the global batch (`token_weights`)

Weights are known before the first forward, so a step may be split into micro-batches, rows and processes in any way.
Source: GRIT (arXiv 2402.09906), section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

LOGITS_AT_ONCE = 2**27
"""Bytes of one block of float32 logits: more are computed block by block, and again in backward."""


@dataclass(frozen=True)
class PassagePool:
    """Every passage of the global batch, in rank order."""

    vectors: Tensor
    """[m, d] float32, L2-normalised."""

    hashes: Tensor
    """[m] int64, equal for equal texts."""

    owners: Tensor
    """[m] int64, global number of the query that brought the passage."""


@dataclass(frozen=True)
class QueryBlock:
    """Queries of one process."""

    vectors: Tensor
    """[n, d] float32, L2-normalised."""

    targets: Tensor
    """[n] column of the own positive in the pool; −1: the query has none and is left out of the loss."""

    right_answers: Tensor
    """[n, k] hashes of texts that are no negatives for the query (its own text, all its positives), padded with −1."""

    numbers: Tensor
    """[n] global number of each query."""

    own_only: Tensor
    """[n] bool: score against the query's own passages alone."""


@dataclass(frozen=True)
class TeacherBlock:
    """What teachers say about a block of queries and about every passage of the pool, in the same orders."""

    query_vectors: Tensor
    """[n, width] float32, L2-normalised"""

    query_teachers: Tensor
    """[n] −1: none"""

    passage_vectors: Tensor
    """[m, width]"""

    passage_teachers: Tensor
    """[m]"""


@dataclass(frozen=True)
class InfoNCE:
    """Sums over queries, so that blocks and processes add up."""

    loss_sum: Tensor
    correct: Tensor
    """Queries whose positive scores higher than every negative."""

    positive_sum: Tensor
    """Σ cos(query, own positive)"""

    hardest_sum: Tensor
    """Σ cos(query, hardest negative); queries without any negative count 0."""

    masked: Tensor
    """Candidates left out because their text is a right answer."""


def info_nce(queries: QueryBlock, pool: PassagePool, *, temperature: float) -> InfoNCE:
    """Summed InfoNCE loss of each query against all passages, in float32. A block of rows; see `distributed.gather`
    for whose gradient the passages carry.

    Raises ValueError if a target lies outside the pool. Source: GRIT, section 2; van den Oord et al. 2018.
    """
    columns = len(pool.vectors)
    # On a GPU the question would stop the CPU until everything before it is done.
    if queries.targets.device.type == "cpu" and len(queries.targets) and int(queries.targets.max()) >= columns:
        raise ValueError(f"a target lies outside the {columns} passages")
    has_target = queries.targets >= 0
    target = queries.targets.clamp_min(0)
    cosines = _cosines(queries, pool)
    is_target, masked, hidden = _candidates(queries, pool)
    scores = (cosines / temperature).masked_fill(hidden, -torch.inf)
    positive = cosines.gather(1, target[:, None])[:, 0]
    # Rows without a target would be −inf or NaN if nothing is left of them; they are set to a constant instead.
    scores = torch.where(has_target[:, None], scores, torch.zeros_like(scores))
    losses = F.cross_entropy(scores, target, reduction="none") * has_target
    with torch.no_grad():
        hardest = cosines.masked_fill(hidden | is_target, -torch.inf).amax(1) if columns else positive
        correct = (positive > hardest) & has_target  # a tie is no success: a collapsed model ties everywhere
        hardest = torch.where(hardest.isfinite() & has_target, hardest, torch.zeros_like(hardest))
    return InfoNCE(
        losses.sum(),
        correct.sum(),
        (positive.detach() * has_target).sum(),
        hardest.sum(),
        (masked & has_target[:, None]).sum(),
    )


def similarity_kl(queries: QueryBlock, pool: PassagePool, teacher: TeacherBlock, *, temperature: float) -> Tensor:
    """Σ over queries of KL(teacher ‖ student) between the softmaxes of their similarities, in float32.

    Both run over the passages that InfoNCE scores for the query and that the query's own teacher has read. A query
    without a teacher adds nothing.
    """
    _, _, hidden = _candidates(queries, pool)
    read = (teacher.query_teachers[:, None] == teacher.passage_teachers) & (teacher.query_teachers >= 0)[:, None]
    shown = read & ~hidden
    counts = shown.any(1, keepdim=True)
    with torch.autocast(queries.vectors.device.type, enabled=False):
        taught = teacher.query_vectors.float() @ teacher.passage_vectors.float().T / temperature
    student = _cosines(queries, pool) / temperature

    def log_shares(scores: Tensor) -> Tensor:
        # A row without any passage is set to a constant: its softmax would be NaN, and so would its gradient.
        return F.log_softmax(torch.where(counts, scores.masked_fill(~shown, -torch.inf), 0.0), dim=1)

    expected, found = log_shares(taught), log_shares(student)
    terms = torch.where(shown, expected.exp() * (expected - found), 0.0)
    return terms.sum()


def _cosines(queries: QueryBlock, pool: PassagePool) -> Tensor:
    # float32: at temperature 0.02 a bfloat16 score is off by up to 0.1 logit.
    with torch.autocast(queries.vectors.device.type, enabled=False):
        return queries.vectors.float() @ pool.vectors.float().T


def _candidates(queries: QueryBlock, pool: PassagePool) -> tuple[Tensor, Tensor, Tensor]:
    """[n, m] bool each: the own positive; right answers that are not it; all that the query is not scored against."""
    rows, columns = len(queries.vectors), len(pool.vectors)
    places = torch.arange(columns, device=pool.vectors.device)
    is_target = places == queries.targets[:, None]
    is_right = torch.zeros(rows, columns, dtype=torch.bool, device=places.device)
    for hashes in queries.right_answers.T:
        is_right |= hashes[:, None] == pool.hashes
    masked = is_right & ~is_target
    foreign = queries.own_only[:, None] & (pool.owners != queries.numbers[:, None])
    return is_target, masked, masked | (foreign & ~is_target)


def token_weights(counts: Tensor, *, kind: Literal["token", "sample", "mixed"], group_size: int = 1) -> Tensor:
    """For each sample of the *global* batch, the weight of one of its trained tokens; float64 [n].

    counts      [n] trained tokens of each sample, in global order; samples without any get weight 0
    token       1 / all tokens
    sample      1 / (samples · own tokens)
    mixed       1 / (groups · tokens of the group), groups of `group_size` consecutive samples
    """
    counts = counts.double()
    if kind == "token":
        totals = counts.sum().expand(len(counts))
        groups = 1.0
    else:
        size = 1 if kind == "sample" else group_size
        group = torch.arange(len(counts), device=counts.device) // size
        sums = torch.zeros(-(-len(counts) // size), dtype=torch.float64, device=counts.device)
        sums.index_add_(0, group, counts)
        groups = float((sums > 0).sum())
        totals = sums[group]
    return torch.where(counts > 0, 1.0 / (totals * groups).clamp_min(1e-300), torch.zeros_like(counts))


def weighted_cross_entropy(hidden: Tensor, labels: Tensor, weights: Tensor, head: nn.Module) -> Tensor:
    """Σ weight · −log softmax(head(hidden))[label], in float32.

    hidden   [n, hidden]   states of the positions that predict a trained token, and of no others
    labels   [n]           those tokens
    weights  [n]           float32

    The logits of `n` positions are never held at once when they exceed LOGITS_AT_ONCE bytes.
    """
    rows = max(1, LOGITS_AT_ONCE // (4 * vocabulary_size(head)))
    if len(labels) <= rows:
        return _cross_entropy(hidden, labels, weights, head)
    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(labels), rows):
        part = slice(start, start + rows)
        total = total + checkpoint(
            _cross_entropy,
            hidden[part],
            labels[part],
            weights[part],
            head,
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return total


def vocabulary_size(head: nn.Module) -> int:
    """Width of the logits. Not from the weight's shape, which is packed or sharded under 4-bit and FSDP."""
    return int(head.out_features)  # type: ignore[arg-type]


def _cross_entropy(hidden: Tensor, labels: Tensor, weights: Tensor, head: nn.Module) -> Tensor:
    losses = F.cross_entropy(head(hidden).float(), labels, reduction="none")
    return (losses * weights).sum()


def weighted_kl(hidden: Tensor, teacher: Tensor, weights: Tensor, head: nn.Module, teacher_head: nn.Module) -> Tensor:
    """Σ weight · KL(teacher ‖ student) over the vocabulary, in float32; the teacher carries no gradient.

    hidden   [n, hidden]    states of the positions that predict
    teacher  [n, hidden']   the teacher's states of the same positions, for its own head
    weights  [n]            float32
    """
    rows = max(1, LOGITS_AT_ONCE // (4 * vocabulary_size(head)))
    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(weights), rows):
        part = slice(start, start + rows)
        arguments = (hidden[part], teacher[part], weights[part], head, teacher_head)
        if len(weights) <= rows:
            return _kl(*arguments)
        total = total + checkpoint(_kl, *arguments, use_reentrant=False, preserve_rng_state=False)
    return total


def _kl(hidden: Tensor, teacher: Tensor, weights: Tensor, head: nn.Module, teacher_head: nn.Module) -> Tensor:
    with torch.no_grad():
        expected = F.log_softmax(teacher_head(teacher).float(), dim=-1)
    student = F.log_softmax(head(hidden).float(), dim=-1)
    return (F.kl_div(student, expected, log_target=True, reduction="none").sum(-1) * weights).sum()


def router_balance(
    router_logits: tuple[Tensor, ...], samples: Tensor, sample_weights: Tensor, *, experts_per_token: int
) -> Tensor:
    """Weighted sum over samples of Mixtral's load-balancing loss of each sample's own tokens.

    router_logits   one [tokens, experts] a layer
    samples         [tokens] number of the sample that a token belongs to; −1: padding
    sample_weights  [samples] float32

    loss of a sample = E · Σ_e share of its tokens routed to e · its mean router probability of e, over all layers and
    choices together. One sample at a time makes it independent of how a step is split into micro-batches; for one
    sequence per process, as GritLM-8x7B was trained, it is the published loss. Source: Mixtral; Fedus et al. 2021, (4).
    """
    real = samples >= 0
    where = samples[real]
    count, layers, experts = len(sample_weights), len(router_logits), router_logits[0].shape[-1]
    tokens = torch.zeros(count, device=where.device).index_add_(0, where, torch.ones_like(where, dtype=torch.float32))
    routed = torch.zeros(count, experts, device=where.device)
    probability = torch.zeros(count, experts, device=where.device)
    for logits in router_logits:
        chances = F.softmax(logits[real].float(), dim=-1)
        chosen = F.one_hot(chances.topk(experts_per_token, dim=-1).indices, experts).sum(1).float()
        routed = routed.index_add(0, where, chosen)
        probability = probability.index_add(0, where, chances)
    scale = (tokens * layers).clamp_min(1)[:, None]
    return (experts * (routed / scale * (probability / scale)).sum(1) * sample_weights).sum()
