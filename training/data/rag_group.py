"""The contrastive half of cache-aware samples: which vectors of their forwards meet in InfoNCE."""

from __future__ import annotations

import torch

from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.prompts import Prompts
from training.config import TrainConfig
from training.data.chunk import EmbedItem, Forwards, WriteItem
from training.data.collate import layout_chunks
from training.data.formats import RagSample, text_hash
from training.data.rag_layouts import RagItem
from training.step.batch import ContrastGroup, padded


class RagGroup:
    """Numbers the vectors of cache-aware samples: pooled blocks, and questions that have no block."""

    def __init__(self, config: TrainConfig, prompts: Prompts, grit: GritConfig, pools: bool) -> None:
        self._config, self._prompts, self._grit, self._pools = config, prompts, grit, pools
        self._vectors = 0
        self._questions: list[tuple[str, int]] = []
        self._query_vectors: list[int] = []
        self._passage_vectors: list[int] = []
        self._targets: list[int] = []
        self._hashes: list[int] = []
        self._owners: list[int] = []
        self._right: list[list[int]] = []

    def add(self, item: RagItem, sample: RagSample, number: int) -> WriteItem:
        """The sample as a sequence to train on; its vectors, if any, get the next numbers."""
        teacher = None
        if item.teacher is not None:
            teacher = WriteItem(item.teacher[0], item.teacher[1], number)
        vectors: list[int] = []
        if self._pools and item.document_blocks:
            blocks = len(item.document_blocks) + (item.query_block is not None)
            vectors = list(range(self._vectors, self._vectors + blocks))
            self._vectors += blocks
            self._add_pairs(item, sample, vectors)
        return WriteItem(item.layout, item.labels, number, vectors, teacher)

    def _add_pairs(self, item: RagItem, sample: RagSample, vectors: list[int]) -> None:
        query = len(self._query_vectors)
        first = len(self._passage_vectors)
        if item.query_block is not None:
            self._query_vectors.append(vectors[item.query_block])
        else:
            self._query_vectors.append(self._vectors)
            self._questions.append((sample.question, self._vectors))
            self._vectors += 1
        self._passage_vectors += [vectors[block] for block in item.document_blocks]
        self._hashes += [text_hash(text) for text in item.passages]
        self._owners += [query] * len(item.passages)
        self._targets.append(first + item.gold[0] if item.gold else -1)
        self._right.append([text_hash(sample.question), *(text_hash(sample.passages[g]) for g in sample.gold)])
        self._right[-1] += [text_hash(item.passages[g]) for g in item.gold]  # they may have been cut

    def finish(self, samples: list[WriteItem], forwards: Forwards) -> ContrastGroup:
        """All that was added, whose blocks the `samples` hold, as one contrast."""
        config, grit = self._config, self._grit
        items = []
        for question, number in self._questions:
            prompt = self._prompts.embed(question, grit.retrieval_instruction, config.data.generative_max_length)
            items.append(EmbedItem(prompt.ids, prompt.header_length, number))
        chunks = layout_chunks(
            samples,
            items,
            budget=config.rag.chunk_tokens,
            is_causal=grit.embedding_is_causal,
            stream="rag",
            forwards=forwards,
        )
        return ContrastGroup(
            chunks,
            self._query_vectors,
            self._passage_vectors,
            torch.tensor(self._targets, dtype=torch.long),
            torch.tensor(self._hashes, dtype=torch.long),
            torch.tensor(self._owners, dtype=torch.long),
            padded(self._right),
            torch.zeros(len(self._targets), dtype=torch.bool),
        )
