"""One optimizer step's gradient: generative micro-batches, then each group of contrastive chunks through GradCache.

    weights of trained tokens  ←  their counts over all processes
    for each generative chunk: forward, backward
    for each group:            GradCache over its chunks; InfoNCE against everybody's passages
    gradients averaged over processes once

Streams go backward one after the other, so that the peak memory is the larger one's and not the sum. The result is the
gradient of contrastive.weight · L_rep + generative.weight · L_gen + rag.weight · L_rag over the global batch, whatever
the number of processes, micro-batches and chunks.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from training.config import TrainConfig
from training.data.collate import Chunk, Stream, dummy_chunk
from training.run.heap import give_free_memory_back
from training.step.batch import ContrastGroup, StepBatch
from training.step.distributed import Ranks, average_gradients
from training.step.gradcache import cached_backward, plain_backward
from training.step.losses import PassagePool, QueryBlock, info_nce, token_weights
from training.step.module import GritModule


@dataclass
class StepReport:
    """Losses of the global batch, unweighted; the same on every process."""

    values: dict[str, float]

    def total(self, config: TrainConfig) -> float:
        """The weighted sum that was minimised (without KL and router terms)."""
        v = self.values
        rep = v.get("loss_contrastive", 0.0) + config.rag.embedding_weight * v.get("loss_rag_contrastive", 0.0)
        return (
            config.contrastive.weight * rep
            + config.generative.weight * v.get("loss_generative", 0.0)
            + config.rag.weight * v.get("loss_rag", 0.0)
        )


class Stepper:
    """Computes gradients for one model.

    module       what is called: a GritModule, or DDP or FSDP2 around it
    core         the GritModule itself
    ranks        the processes
    is_sharded   FSDP2: forwards are collectives and gradients reduce themselves; otherwise they are averaged here
    """

    def __init__(
        self, module: nn.Module, core: GritModule, config: TrainConfig, ranks: Ranks, *, is_sharded: bool = False
    ) -> None:
        self.module, self.core, self.config, self.ranks, self.is_sharded = module, core, config, ranks, is_sharded

    def gradients(self, batch: StepBatch) -> StepReport:
        """Adds the step's gradient to `.grad` of every trained parameter."""
        self._sums: dict[str, Tensor] = {}
        weights = {stream: self._token_weights(stream, counts) for stream, counts in batch.label_counts.items()}
        with self._unsynchronised():
            like = batch.chunks()[0]
            for chunk in self._equalised(batch.write, like, predicts=True, pools=False):
                self._write(self._weighted(chunk, weights))
            for stream, group in batch.groups.items():
                answers = [chunk for chunk in group.chunks if chunk.labels is not None]
                others = [chunk for chunk in group.chunks if chunk.labels is None]
                chunks = self._equalised(answers, like, predicts=True, pools=True)
                chunks += self._equalised(others, like, predicts=False, pools=True)
                self._contrast(stream, group, [self._weighted(chunk, weights) for chunk in chunks])
        if not self.is_sharded:
            average_gradients(self.core.parameters(), self.ranks)
        return self._report()

    # writing ---------------------------------------------------------------------------------------------------------

    def _token_weights(self, stream: Stream, counts: Tensor) -> Tensor:
        """[local samples] float32: weight of a trained token of each sample in the stream's loss."""
        sizes = self.ranks.sizes(len(counts))
        everybody = self.ranks.gather(counts.to(self.ranks.device), sizes)
        if stream == "rag":
            weights = token_weights(everybody, kind=self.config.rag.loss)
        else:
            generative = self.config.generative
            weights = token_weights(everybody, kind=generative.loss, group_size=generative.group_size)
        start = sum(sizes[: self.ranks.rank])
        return weights[start : start + len(counts)].float()

    def _weighted(self, chunk: Chunk, weights: dict[Stream, Tensor]) -> Chunk:
        """The chunk on the device, with the weight of each label, and of each sample for the router's loss."""
        chunk = chunk.to(self.ranks.device)
        if chunk.label_samples is None or chunk.is_dummy:
            return chunk
        per_sample = weights[chunk.stream]
        samples = len(per_sample) * self.ranks.size  # equal shares: batch sizes are multiples of the processes
        even = torch.full((len(per_sample),), 1.0 / samples, device=self.ranks.device)
        return replace(chunk, weights=per_sample[chunk.label_samples], sample_weights=even)

    def _stream_weight(self, stream: Stream) -> float:
        return self.config.rag.weight if stream == "rag" else self.config.generative.weight

    def _write(self, chunk: Chunk) -> None:
        _, loss, parts = self.module(chunk)
        self._add_answers(chunk, parts)
        (loss * (self._stream_weight(chunk.stream) * self.ranks.size)).backward()

    def _add_answers(self, chunk: Chunk, parts: Tensor) -> None:
        self._add(f"loss_{chunk.stream}", parts[0])
        if self.core.router_weight:
            self._add(f"router_{chunk.stream}", parts[1])

    # embedding -------------------------------------------------------------------------------------------------------

    def _contrast(self, stream: Stream, group: ContrastGroup, chunks: list[Chunk]) -> None:
        order = torch.tensor([n for chunk in chunks if not chunk.is_dummy for n in chunk.vectors], dtype=torch.long)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        place = place.to(self.ranks.device)
        name = "contrastive" if stream == "contrastive" else "rag_contrastive"

        def encode(chunk: Chunk, learns: bool) -> tuple[Tensor, Tensor | None]:
            vectors, loss, parts = self.module(chunk, with_answers=learns)
            if chunk.is_dummy:
                return vectors[:0], loss * 0.0
            if not learns or chunk.labels is None:
                return vectors, None
            self._add_answers(chunk, parts)
            return vectors, loss * (self._stream_weight(stream) * self.ranks.size)

        def gradient(vectors: Tensor) -> Tensor:
            found = self._info_nce_gradient(name, vectors, place, group)
            give_free_memory_back()  # the scores' memory, before the graphs of the learning pass
            return found

        if not chunks:  # nothing of this process, but others' gathers wait for it
            gradient(torch.zeros(0, self.core.vector_size, device=self.ranks.device))
        elif self.is_sharded or (self.config.contrastive.cache_gradients and len(chunks) > 1):
            cached_backward(chunks, encode, gradient, len(order), self.ranks.device)
        else:
            plain_backward(chunks, encode, gradient)

    def _info_nce_gradient(self, name: str, vectors: Tensor, place: Tensor, group: ContrastGroup) -> Tensor:
        """Gradient of the weighted loss with respect to this process's vectors, scores computed in blocks of rows."""
        ranks, device = self.ranks, self.ranks.device
        leaf = vectors.detach().float().requires_grad_()
        queries = leaf[place[group.query_vectors]]
        local_passages = leaf[place[group.passage_vectors]]
        query_sizes, passage_sizes = ranks.sizes(len(queries)), ranks.sizes(len(local_passages))
        first_query = sum(query_sizes[: ranks.rank])
        first_passage = sum(passage_sizes[: ranks.rank])
        gathered = ranks.gather_with_grad(local_passages)
        passages = gathered.detach().requires_grad_()
        pool = PassagePool(
            passages,
            ranks.gather(group.hashes.to(device), passage_sizes),
            ranks.gather(group.owners.to(device) + first_query, passage_sizes),
        )
        targets = torch.where(group.targets >= 0, group.targets + first_passage, -1).to(device)
        asked = ranks.sum((targets >= 0).sum())
        weight = self.config.contrastive.weight
        if name == "rag_contrastive":
            weight *= self.config.rag.embedding_weight
        scale = weight * ranks.size / max(1, int(asked))
        detached = queries.detach().requires_grad_()
        right, own_only = group.right_answers.to(device), group.own_only.to(device)
        numbers = first_query + torch.arange(len(queries), device=device)
        rows = self.config.contrastive.score_rows
        for start in range(0, len(queries) if len(passages) else 0, rows):
            part = slice(start, start + rows)
            block = QueryBlock(detached[part], targets[part], right[part], numbers[part], own_only[part])
            result = info_nce(block, pool, temperature=self.config.contrastive.temperature)
            (result.loss_sum * scale).backward()
            self._add(f"loss_{name}", result.loss_sum.detach())
            self._add(f"accuracy_at_1_{name}", result.correct)
            self._add(f"cosine_positive_{name}", result.positive_sum)
            self._add(f"cosine_hardest_{name}", result.hardest_sum)
            self._add(f"masked_{name}", result.masked)
        self._add(f"queries_{name}", (group.targets >= 0).sum())
        # Every process joins the gather's backward, also one that has no query of its own.
        given = [passages.grad if passages.grad is not None else torch.zeros_like(passages)]
        outputs: list[Tensor] = [gathered]
        if detached.grad is not None:
            outputs.append(queries)
            given.append(detached.grad)
        torch.autograd.backward(outputs, given)
        return leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)

    # processes -------------------------------------------------------------------------------------------------------

    def _equalised(self, chunks: list[Chunk], like: Chunk, *, predicts: bool, pools: bool) -> list[Chunk]:
        """Under FSDP2 every forward is a collective, and so is its backward: all processes run equally many of a kind.

        Of a kind, because the LM head's gradient is reduced together with others': one process with it and one
        without would send messages of different sizes.
        """
        if not self.is_sharded:
            return chunks
        missing = self.ranks.max(len(chunks)) - len(chunks)
        return chunks + [dummy_chunk(like, like.stream, predicts=predicts, pools=pools)] * missing

    def _unsynchronised(self) -> AbstractContextManager[Any]:
        no_sync = getattr(self.module, "no_sync", None)
        return no_sync() if no_sync is not None and not self.is_sharded else nullcontext()

    # numbers ---------------------------------------------------------------------------------------------------------

    def _add(self, name: str, value: Tensor) -> None:
        value = value.detach().to(device=self.ranks.device, dtype=torch.float64)
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _report(self) -> StepReport:
        """Sums over processes; a process may lack a name that another has."""
        names = sorted(f"{part}_{stream}" for stream in ("contrastive", "rag_contrastive") for part in _PARTS)
        names += ["loss_generative", "loss_rag", "router_generative", "router_rag"]
        zero = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        sums = self.ranks.sum(torch.stack([self._sums.get(name, zero) for name in names])).tolist()
        values = dict(zip(names, sums, strict=True))
        for stream in ("contrastive", "rag_contrastive"):
            queries = values.pop(f"queries_{stream}")
            for part in _PARTS:
                if part != "queries":
                    total = values.pop(f"{part}_{stream}")
                    if queries:
                        values[f"{part}_{stream}"] = total / queries
        known = set(self._sums)
        return StepReport({k: v for k, v in values.items() if k in known or k.endswith("contrastive")})


_PARTS = ("loss", "accuracy_at_1", "cosine_positive", "cosine_hardest", "masked", "queries")
