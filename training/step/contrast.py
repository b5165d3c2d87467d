"""The contrastive loss of one group of vectors, over all processes: InfoNCE, and what teachers say.

    L = mean over queries of InfoNCE
      + distill.weight · mean over taught queries of KL(teacher ‖ student)
      + distill.cosine_weight · mean over taught texts of 1 − cos(head(vector), teacher's vector)

Each process scores its own queries against everybody's passages, in blocks of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import TrainConfig
from training.step.batch import ContrastGroup, Taught
from training.step.distributed import Ranks
from training.step.losses import PassagePool, QueryBlock, TeacherBlock, info_nce, similarity_kl

Add = Callable[[str, Tensor], None]
"""(name, value of this process): sums what is logged."""


@dataclass(frozen=True)
class Counts:
    """Sizes of a group, of every process; known before the first forward."""

    queries: list[int]
    passages: list[int]
    asked: int
    """Queries with a positive, over all processes."""
    taught_queries: int
    taught_texts: int

    @staticmethod
    def of_process(group: ContrastGroup) -> list[int]:
        """What this process has to tell the others."""
        taught = group.taught
        asked = int((group.targets >= 0).sum())
        queries = 0 if taught is None else int((taught.query_teachers >= 0).sum())
        passages = 0 if taught is None else int((taught.passage_teachers >= 0).sum())
        return [len(group.query_vectors), len(group.passage_vectors), asked, queries, queries + passages]

    @classmethod
    def of_all(cls, told: list[list[int]]) -> Counts:
        """From what all processes told."""
        queries, passages, asked, taught_queries, taught_texts = zip(*told, strict=True)
        return cls(list(queries), list(passages), sum(asked), sum(taught_queries), sum(taught_texts))


class Contrast:
    """The loss of one group.

    name      contrastive or rag_contrastive: the losses' names in the log
    width     of the vectors that are compared; what follows is the head's guess of the teacher's vector
    """

    def __init__(self, name: str, group: ContrastGroup, counts: Counts, config: TrainConfig, ranks: Ranks) -> None:
        self.name, self.group, self.counts, self.config, self.ranks = name, group, counts, config, ranks
        self.weight = config.contrastive.weight * ranks.size
        if name == "rag_contrastive":
            self.weight *= config.rag.embedding_weight

    def gradient(self, vectors: Tensor, place: Tensor, width: int, add: Add) -> Tensor:
        """Gradient of the weighted loss with respect to this process's vectors.

        vectors   [v, width or more] in the order in which they were computed
        place     [v] where the vector of each number stands, on the CPU
        """
        device, group = self.ranks.device, self.group
        leaf = vectors.detach().float().requires_grad_()
        of_queries, of_passages = (
            place[numbers].to(device) for numbers in (group.query_vectors, group.passage_vectors)
        )
        queries, local_passages = leaf[of_queries, :width], leaf[of_passages, :width]
        gathered = self.ranks.gather_with_grad(local_passages, self.counts.passages)
        passages = gathered.detach().requires_grad_()
        detached = queries.detach().requires_grad_()
        self._score(detached, passages, add)
        if leaf.shape[1] > width and group.taught is not None:
            self._match(leaf[of_queries, width:], leaf[of_passages, width:], group.taught, add)
        # Every process joins the gather's backward, also one that has no query of its own.
        given = [passages.grad if passages.grad is not None else torch.zeros_like(passages)]
        outputs: list[Tensor] = [gathered]
        if detached.grad is not None:
            outputs.append(queries)
            given.append(detached.grad)
        torch.autograd.backward(outputs, given)
        return leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)

    def _score(self, queries: Tensor, passages: Tensor, add: Add) -> None:
        """InfoNCE and KL of this process's queries, and their backward."""
        name, group, ranks, device = self.name, self.group, self.ranks, self.ranks.device
        first_query = sum(self.counts.queries[: ranks.rank])
        first_passage = sum(self.counts.passages[: ranks.rank])
        pool = PassagePool(
            passages,
            ranks.gather(group.hashes.to(device), self.counts.passages),
            ranks.gather(group.owners.to(device) + first_query, self.counts.passages),
        )
        taught = self._gathered(group.taught)
        targets = torch.where(group.targets >= 0, group.targets + first_passage, -1).to(device)
        right, own_only = group.right_answers.to(device), group.own_only.to(device)
        numbers = first_query + torch.arange(len(queries), device=device)
        rows = self.config.contrastive.score_rows
        for start in range(0, len(queries) if len(passages) else 0, rows):
            part = slice(start, start + rows)
            block = QueryBlock(queries[part], targets[part], right[part], numbers[part], own_only[part])
            result = info_nce(block, pool, temperature=self.config.contrastive.temperature)
            loss = result.loss_sum * (self.weight / max(1, self.counts.asked))
            if taught is not None and self.config.distill.weight > 0:
                teacher = TeacherBlock(
                    taught.query_vectors[part],
                    taught.query_teachers[part],
                    taught.passage_vectors,
                    taught.passage_teachers,
                )
                kl = similarity_kl(block, pool, teacher, temperature=self.config.distill.temperature)
                loss = loss + kl * (self.config.distill.weight * self.weight / max(1, self.counts.taught_queries))
                add(f"kl_{name}", kl.detach() / max(1, self.counts.taught_queries))
            loss.backward()
            add(f"loss_{name}", result.loss_sum.detach())
            add(f"accuracy_at_1_{name}", result.correct)
            add(f"cosine_positive_{name}", result.positive_sum)
            add(f"cosine_hardest_{name}", result.hardest_sum)
            add(f"masked_{name}", result.masked)
        add(f"queries_{name}", (group.targets >= 0).sum())

    def _gathered(self, taught: Taught | None) -> Taught | None:
        """This process's queries, everybody's passages."""
        if taught is None:
            return None
        device, sizes = self.ranks.device, self.counts.passages
        return Taught(
            taught.query_vectors.to(device),
            taught.query_teachers.to(device),
            self.ranks.gather(taught.passage_vectors.to(device), sizes),
            self.ranks.gather(taught.passage_teachers.to(device), sizes),
        )

    def _match(self, queries: Tensor, passages: Tensor, taught: Taught, add: Add) -> None:
        """The head's guesses against the teachers' vectors, and their backward. A teacher has columns of its own."""
        device = self.ranks.device
        guesses = torch.cat([queries, passages])
        wanted = torch.cat([taught.query_vectors, taught.passage_vectors]).to(device)
        has_teacher = torch.cat([taught.query_teachers, taught.passage_teachers]).to(device) >= 0
        distance = 1 - F.cosine_similarity(guesses * (wanted != 0), wanted, dim=1)
        mean = torch.where(has_teacher, distance, 0.0).sum() / max(1, self.counts.taught_texts)
        add(f"teacher_distance_{self.name}", mean.detach())
        # Not into the graph's leaf only: the views of it are asked again for the scores' gradient.
        (mean * (self.config.distill.cosine_weight * self.weight)).backward()
