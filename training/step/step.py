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
from training.data.chunk import Chunk, Stream, dummy_chunk
from training.run.heap import give_free_memory_back
from training.step.batch import ContrastGroup, StepBatch
from training.step.contrast import Contrast, Counts
from training.step.distributed import Ranks, average_gradients
from training.step.gradcache import cached_backward, plain_backward
from training.step.losses import token_weights
from training.step.module import GritModule

KINDS: dict[str, tuple[Stream, bool, bool]] = {
    "write": ("generative", True, False),
    "contrastive answers": ("contrastive", True, True),
    "contrastive texts": ("contrastive", False, True),
    "rag answers": ("rag", True, True),
    "rag texts": ("rag", False, True),
}
"""Kind of forward → (stream, whether it predicts tokens, whether it pools vectors)"""


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
        counts, missing = self._exchanged(batch)
        with self._unsynchronised():
            like = batch.chunks()[0]
            dummies = {
                kind: dummy_chunk(like, stream, predicts=predicts, pools=pools)
                for kind, (stream, predicts, pools) in KINDS.items()
            }
            for chunk in [*batch.write, *[dummies["write"]] * missing["write"]]:
                self._write(self._weighted(chunk, weights))
            for stream, group in batch.groups.items():
                chunks = [*group.chunks, *[dummies[f"{stream} answers"]] * missing.get(f"{stream} answers", 0)]
                chunks = [chunk for chunk in chunks if chunk.labels is not None]
                chunks += [chunk for chunk in group.chunks if chunk.labels is None]
                chunks += [dummies[f"{stream} texts"]] * missing.get(f"{stream} texts", 0)
                self._contrast(stream, group, counts[stream], [self._weighted(chunk, weights) for chunk in chunks])
        if not self.is_sharded:
            average_gradients(self.core.parameters(), self.ranks)
        return self._report()

    # writing ---------------------------------------------------------------------------------------------------------

    def _token_weights(self, stream: Stream, counts: Tensor) -> Tensor:
        """[local samples] float32: weight of a trained token of each sample in the stream's loss."""
        sizes = [len(counts)] * self.ranks.size  # batch sizes are multiples of the processes
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

    def _contrast(self, stream: Stream, group: ContrastGroup, counts: Counts, chunks: list[Chunk]) -> None:
        order = torch.tensor([n for chunk in chunks if not chunk.is_dummy for n in chunk.vectors], dtype=torch.long)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        name = "contrastive" if stream == "contrastive" else "rag_contrastive"
        contrast = Contrast(name, group, counts, self.config, self.ranks)

        def encode(chunk: Chunk, learns: bool) -> tuple[Tensor, Tensor | None]:
            vectors, loss, parts = self.module(chunk, with_answers=learns)
            if chunk.is_dummy:
                return vectors[:0], loss * 0.0
            if not learns or chunk.labels is None:
                return vectors, None
            self._add_answers(chunk, parts)
            return vectors, loss * (self._stream_weight(stream) * self.ranks.size)

        def gradient(vectors: Tensor) -> Tensor:
            found = contrast.gradient(vectors, place, self.core.width, self._add)
            give_free_memory_back()  # the scores' memory, before the graphs of the learning pass
            return found

        if not chunks:  # nothing of this process, but others' gathers wait for it
            gradient(torch.zeros(0, self.core.vector_size(stream), device=self.ranks.device))
        elif self.is_sharded or (self.config.contrastive.cache_gradients and len(chunks) > 1):
            cached_backward(chunks, encode, gradient, len(order), self.ranks.device)
        else:
            plain_backward(chunks, encode, gradient)

    # processes -------------------------------------------------------------------------------------------------------

    def _exchanged(self, batch: StepBatch) -> tuple[dict[Stream, Counts], dict[str, int]]:
        """(sizes of the groups over all processes, how many chunks of each kind this process lacks): one message.

        Under FSDP2 every forward is a collective, and so is its backward: all processes run equally many of a kind. Of
        a kind, because the LM head's gradient is reduced together with others': one process with it and one without
        would send messages of different sizes.
        """
        forwards = {"write": len(batch.write)}
        for stream, group in batch.groups.items():
            answers = sum(chunk.labels is not None for chunk in group.chunks)
            forwards |= {f"{stream} answers": answers, f"{stream} texts": len(group.chunks) - answers}
        told = [Counts.of_process(group) for group in batch.groups.values()]
        everybody = self.ranks.exchange([*forwards.values(), *(number for numbers in told for number in numbers)])
        counts: dict[Stream, Counts] = {}
        start = len(forwards)
        for stream, numbers in zip(batch.groups, told, strict=True):
            counts[stream] = Counts.of_all([of_one[start : start + len(numbers)] for of_one in everybody])
            start += len(numbers)
        most = [max(of_one[place] for of_one in everybody) for place in range(len(forwards))]
        missing = {
            kind: (wanted - have if self.is_sharded else 0)
            for (kind, have), wanted in zip(forwards.items(), most, strict=True)
        }
        return counts, missing

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
        names += ["kl_contrastive", "teacher_distance_contrastive"]  # the same names everywhere: it is one message
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
        known = set(self._sums) | {
            f"{part}_{stream}" for stream in ("contrastive", "rag_contrastive") for part in _PARTS
        }
        return StepReport({k: v for k, v in values.items() if k in known})


_PARTS = ("loss", "accuracy_at_1", "cosine_positive", "cosine_hardest", "masked", "queries")
