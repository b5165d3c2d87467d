"""One process's share of a step, tokenised and chunked: a pure function of (settings, step, rank, processes).

    order (sampling) → rows (data) → the row's own choices → token ids (prompts, layouts) → chunks (collate)

A row that cannot be used (empty text, an instruction that fills the whole length, an answer beyond the limit) is
replaced by the next usable row of its data set, and counted.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grit_app.gritlm.errors import InputError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.layout import Layout
from grit_app.gritlm.prompts import Prompts
from training.collate import Chunk, EmbedItem, Stream, WriteItem, embed_chunks, write_chunks
from training.config import ConfigError, TrainConfig
from training.data import ContrastiveSample, DataError, Dataset, GenerativeSample, RagSample, Text, text_hash
from training.rag_layouts import RagItem, check_layouts, lay_out
from training.sampling import BlockOrder, FixedOrder, MixedOrder, Row, row_random, share_of

CHARACTERS_PER_TOKEN = 12
"""Texts longer than this many characters a token of the limit are cut before they are tokenised, to save time."""

TEXTS_AT_ONCE = 256
"""Texts tokenised together: enough for all cores. What a tokenizer gives for a text is many times its ids."""

TRIES = 200


@dataclass(frozen=True)
class ContrastGroup:
    """Sequences whose vectors meet in one InfoNCE. n queries, m passages, all of this process; numbers are local."""

    chunks: list[Chunk]
    query_vectors: list[int]
    """[n] each query's vector, as a number in the group."""
    passage_vectors: list[int]
    """[m]"""
    targets: Tensor
    """[n] number of the own positive among the passages, −1 for none"""
    hashes: Tensor
    """[m]"""
    owners: Tensor
    """[m] the query that brought the passage"""
    right_answers: Tensor
    """[n, k]"""
    own_only: Tensor
    """[n] bool"""


@dataclass(frozen=True)
class StepBatch:
    """Everything one process computes in one step."""

    step: int
    write: list[Chunk] = field(default_factory=list)
    groups: dict[Stream, ContrastGroup] = field(default_factory=dict)
    label_counts: dict[Stream, Tensor] = field(default_factory=dict)
    """Trained tokens of each local sample of a stream, int64."""
    rows: dict[Stream, list[str]] = field(default_factory=dict)
    """Where the samples come from, for messages."""
    replaced: int = 0

    def chunks(self) -> list[Chunk]:
        return [*self.write, *(chunk for group in self.groups.values() for chunk in group.chunks)]

    @property
    def tokens(self) -> int:
        return sum(chunk.tokens for chunk in self.chunks())

    @property
    def padded_tokens(self) -> int:
        return sum(chunk.input_ids.numel() for chunk in self.chunks())


class StepLoader:
    """Makes StepBatches; `prefetch` has the next one made while the current one trains."""

    def __init__(
        self,
        config: TrainConfig,
        datasets: Sequence[Dataset],
        prompts: Prompts,
        grit: GritConfig,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._config, self._prompts, self._grit = config, prompts, grit
        self._rank, self._world_size = rank, world_size
        self._replaced = 0
        self._headers: dict[str, int] = {}
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[StepBatch]] | None = None
        wanted: dict[Stream, bool] = {
            "contrastive": config.mode != "generative",
            "generative": config.mode != "embedding",
            "rag": config.mode != "embedding",
        }
        self.datasets: dict[Stream, list[Dataset]] = {
            stream: [d for d in datasets if d.kind == stream] for stream in wanted if wanted[stream]
        }
        self.datasets = {stream: found for stream, found in self.datasets.items() if found}
        self._check(config)
        self.orders: dict[Stream, MixedOrder | BlockOrder | FixedOrder] = {
            stream: self._order(stream, found) for stream, found in self.datasets.items()
        }

    def load(self, step: int) -> StepBatch:
        """This process's part of a step."""
        self._replaced = 0
        batch = StepBatch(step)
        if "contrastive" in self.datasets:
            batch.groups["contrastive"] = self._contrastive(step, batch)
        if "generative" in self.datasets:
            self._generative(step, batch)
        if "rag" in self.datasets:
            self._rag(step, batch)
        return StepBatch(step, batch.write, batch.groups, batch.label_counts, batch.rows, self._replaced)

    def longest(self) -> StepBatch:
        """This process's part of a step that is made of the longest rows of every stream: the most a step can need."""
        orders = self.orders
        self.orders = {stream: FixedOrder(self._longest_rows(stream)) for stream in orders}
        try:
            return self.load(0)
        finally:
            self.orders = orders

    def prefetched(self, step: int) -> StepBatch:
        """`load(step)`, and the next step's begun in the background."""
        is_ready = self._next is not None and self._next[0] == step
        batch = self._next[1].result() if self._next is not None and is_ready else self.load(step)
        self._next = (step + 1, self._pool.submit(self.load, step + 1))
        return batch

    def close(self) -> None:
        """Stops the background thread."""
        self._pool.shutdown(cancel_futures=True)

    def _check(self, config: TrainConfig) -> None:
        if not self.datasets:
            raise ConfigError(f"mode is {config.mode}, but data.train holds no file of a kind that it uses.")
        if config.mode == "embedding" and "contrastive" not in self.datasets:
            raise ConfigError("mode is embedding, but data.train holds no contrastive file.")
        if "rag" in self.datasets:
            check_layouts(config.rag)
        sizes = {stream: getattr(config, stream).batch_size for stream in self.datasets}
        for stream, size in sizes.items():
            if size % self._world_size:
                low = max(1, size // self._world_size) * self._world_size
                raise ConfigError(
                    f"{stream}.batch_size {size} cannot be split over {self._world_size} processes. "
                    f"Use a multiple of {self._world_size}: {low} or {low + self._world_size}."
                )

    def _order(self, stream: Stream, found: list[Dataset]) -> MixedOrder | BlockOrder:
        sizes, weights = [len(d) for d in found], [d.file.weight for d in found]
        size = getattr(self._config, stream).batch_size
        if stream == "contrastive" and self._config.data.same_dataset_batches:
            order = BlockOrder(tuple(sizes), tuple(weights), size, self._config.run.seed)
            if order.epoch_batches == 0:
                raise ConfigError(
                    f"contrastive.batch_size {size} is larger than an epoch of {sum(order.counts)} rows. "
                    "Lower it, or add data."
                )
            return order
        return MixedOrder(sizes, weights, size, self._config.run.seed + len(stream))

    def _longest_rows(self, stream: Stream) -> list[Row]:
        """As many as a step takes, dealt out so that every process gets some of the longest."""
        size = getattr(self._config, stream).batch_size
        found: list[tuple[int, Row]] = []
        for number, dataset in enumerate(self.datasets[stream]):
            sizes = dataset.rows.sizes()
            found += [(int(sizes[index]), (number, index)) for index in dataset.longest(size)]
        rows = [row for _, row in sorted(found, key=lambda pair: -pair[0])[:size]]
        rows = [rows[place % len(rows)] for place in range(size)]
        return [row for rank in range(self._world_size) for row in rows[rank :: self._world_size]]

    def _samples(self, stream: Stream, step: int) -> list[Row]:
        return share_of(self.orders[stream].batch(step), self._rank, self._world_size)

    def _candidates(self, stream: Stream, row: Row) -> list[Row]:
        """The row, and those that take its place if it cannot be used."""
        size = len(self.datasets[stream][row[0]])
        return [(row[0], (row[1] + offset) % size) for offset in range(min(size, TRIES))]

    def _no_usable(self, stream: Stream, row: Row) -> DataError:
        dataset = self.datasets[stream][row[0]]
        return DataError(
            f"{dataset.rows.where(row[1])}: neither this row nor those after it can be used. Run training.validate on "
            f"{dataset.name} to see why."
        )

    def _where(self, stream: Stream, row: Row) -> str:
        return self.datasets[stream][row[0]].rows.where(row[1])

    # contrastive -----------------------------------------------------------------------------------------------------

    def _contrastive(self, step: int, batch: StepBatch) -> ContrastGroup:
        chosen = [self._contrastive_row(step, row) for row in self._samples("contrastive", step)]
        batch.rows["contrastive"] = [self._where("contrastive", row) for row, _, _, _ in chosen]
        data = self._config.data
        queries = [sample.query for _, sample, _, _ in chosen]
        passages = [text for _, _, positive, negatives in chosen for text in (positive, *negatives)]
        starts: list[int] = []
        owners: list[int] = []
        for number, (_, _, _, negatives) in enumerate(chosen):
            starts.append(len(owners))
            owners += [number] * (1 + len(negatives))
        items = self._embed_items(queries, data.query_max_length, 0)
        items += self._embed_items(passages, data.passage_max_length, len(queries))
        return ContrastGroup(
            embed_chunks(
                items,
                budget=self._config.contrastive.chunk_tokens,
                is_causal=self._grit.embedding_is_causal,
                stream="contrastive",
            ),
            list(range(len(queries))),
            list(range(len(queries), len(items))),
            torch.tensor(starts),
            torch.tensor([text_hash(p.text) for p in passages], dtype=torch.long),
            torch.tensor(owners),
            _padded([[text_hash(t.text) for t in (s.query, *s.positives)] for _, s, _, _ in chosen]),
            torch.tensor([self.datasets["contrastive"][row[0]].file.own_negatives_only for row, _, _, _ in chosen]),
        )

    def _contrastive_row(self, step: int, first: Row) -> tuple[Row, ContrastiveSample, Text, list[Text]]:
        """A usable row with its positive and negatives of this step."""
        for row in self._candidates("contrastive", first):
            sample = self.datasets["contrastive"][row[0]][row[1]]
            assert isinstance(sample, ContrastiveSample)
            positives = [t for t in sample.positives if self._fits(t, self._config.data.passage_max_length)]
            if positives and self._fits(sample.query, self._config.data.query_max_length):
                rng = row_random(self._config.run.seed, "contrastive", step, row)
                positive = rng.choice(positives)
                right = {t.text.strip() for t in sample.positives}
                usable = [
                    t
                    for t in sample.negatives
                    if t.text.strip() not in right and self._fits(t, self._config.data.passage_max_length)
                ]
                count = min(self._config.contrastive.negatives, len(usable))
                return row, sample, positive, rng.sample(usable, count)
            self._replaced += 1
        raise self._no_usable("contrastive", first)

    def _fits(self, text: Text, max_length: int) -> bool:
        """Whether something of the text is left to pool."""
        if not text.text.strip():
            return False
        if text.instruction not in self._headers:
            self._headers[text.instruction] = self._prompts.embed("x", text.instruction).header_length
        return self._headers[text.instruction] < max_length

    def _embed_items(self, texts: Sequence[Text], max_length: int, first_number: int) -> list[EmbedItem]:
        by_instruction: dict[str, list[int]] = {}
        for number, text in enumerate(texts):
            by_instruction.setdefault(text.instruction, []).append(number)
        items: list[EmbedItem | None] = [None] * len(texts)
        for instruction, numbers in by_instruction.items():
            for start in range(0, len(numbers), TEXTS_AT_ONCE):
                some = numbers[start : start + TEXTS_AT_ONCE]
                cut = [texts[n].text.lstrip()[: max_length * CHARACTERS_PER_TOKEN] for n in some]
                for number, prompt in zip(some, self._prompts.embed_many(cut, instruction, max_length), strict=True):
                    ids = array("i", prompt.ids)
                    items[number] = EmbedItem(ids, prompt.header_length, first_number + number)
        return [item for item in items if item is not None]

    # generative ------------------------------------------------------------------------------------------------------

    def _generative(self, step: int, batch: StepBatch) -> None:
        config, limit = self._config.generative, self._config.data.generative_max_length
        items: list[WriteItem] = []
        where: list[str] = []
        for first in self._samples("generative", step):
            for row in self._candidates("generative", first):
                sample = self.datasets["generative"][row[0]][row[1]]
                assert isinstance(sample, GenerativeSample)
                item = generative_item(sample, self._prompts, limit, len(items))
                if item is not None:
                    items.append(item)
                    where.append(self._where("generative", row))
                    break
                self._replaced += 1
            else:
                raise self._no_usable("generative", first)
        batch.rows["generative"] = where
        batch.label_counts["generative"] = torch.tensor([len(item.labels) for item in items])
        pack_to = limit if config.packing else None
        batch.write.extend(write_chunks(items, budget=config.chunk_tokens, stream="generative", pack_to=pack_to))

    # cache-aware -----------------------------------------------------------------------------------------------------

    def _rag(self, step: int, batch: StepBatch) -> None:
        config = self._config.rag
        planned: list[tuple[RagItem, RagSample]] = []
        where = []
        for first in self._samples("rag", step):
            for row in self._candidates("rag", first):
                sample = self.datasets["rag"][row[0]][row[1]]
                assert isinstance(sample, RagSample)
                rng = row_random(self._config.run.seed, "rag", step, row)
                limit = self._config.data.generative_max_length
                item = lay_out(sample, rng, self._prompts, self._grit, config, limit)
                if item is not None:
                    planned.append((item, sample))
                    where.append(self._where("rag", row))
                    break
                self._replaced += 1
            else:
                raise self._no_usable("rag", first)
        batch.rows["rag"] = where
        batch.label_counts["rag"] = torch.tensor([len(item.labels) for item, _ in planned])
        pools = config.embedding_weight > 0 and self._config.mode == "unified"
        group = _RagGroup(self, pools)
        items = [group.add(item, sample, number) for number, (item, sample) in enumerate(planned)]
        chunks = write_chunks(
            items,
            budget=config.chunk_tokens,
            stream="rag",
            pack_to=self._config.data.generative_max_length if config.packing else None,
            fake_int8=config.fake_int8,
        )
        batch.write.extend(chunk for chunk in chunks if not chunk.vectors)
        if pools:
            batch.groups["rag"] = group.finish([chunk for chunk in chunks if chunk.vectors])


class _RagGroup:
    """Numbers the vectors of cache-aware samples: pooled blocks, and questions that have no block."""

    def __init__(self, loader: StepLoader, pools: bool) -> None:
        self._loader, self._pools = loader, pools
        self._vectors = 0
        self._questions: list[tuple[str, int]] = []
        self._query_vectors: list[int] = []
        self._passage_vectors: list[int] = []
        self._targets: list[int] = []
        self._hashes: list[int] = []
        self._owners: list[int] = []
        self._right: list[list[int]] = []

    def add(self, item: RagItem, sample: RagSample, number: int) -> WriteItem:
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

    def finish(self, chunks: list[Chunk]) -> ContrastGroup:
        loader = self._loader
        config, grit = loader._config, loader._grit
        items = []
        for question, number in self._questions:
            prompt = loader._prompts.embed(question, grit.retrieval_instruction, config.data.generative_max_length)
            items.append(EmbedItem(prompt.ids, prompt.header_length, number))
        asked = embed_chunks(items, budget=config.rag.chunk_tokens, is_causal=grit.embedding_is_causal, stream="rag")
        return ContrastGroup(
            [*chunks, *asked],
            self._query_vectors,
            self._passage_vectors,
            torch.tensor(self._targets, dtype=torch.long),
            torch.tensor(self._hashes, dtype=torch.long),
            torch.tensor(self._owners, dtype=torch.long),
            _padded(self._right),
            torch.zeros(len(self._targets), dtype=torch.bool),
        )


def generative_item(sample: GenerativeSample, prompts: Prompts, max_length: int, number: int) -> WriteItem | None:
    """The sample as ids with its trained tokens, cut at `max_length`; None if no trained token is left."""
    try:
        if isinstance(sample.turns, str):
            if not sample.turns.strip():
                return None
            text = sample.turns[: max_length * CHARACTERS_PER_TOKEN]
            ids = [*prompts.opening(text), prompts.eos_id][:max_length]
            labels = list(range(1, len(ids)))
        else:
            roles = ("user", "assistant")
            turns = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(sample.turns)]
            chat = prompts.chat(turns, add_generation_prompt=False)
            ids = chat.ids[:max_length]
            labels = [place for span in chat.answer_spans for place in range(*span) if place < max_length]
    except InputError:  # an empty turn, or text that this tokenizer cannot take
        return None
    return WriteItem(Layout((), ids), labels, number) if labels else None


def _padded(rows: list[list[int]]) -> Tensor:
    """[n, longest] filled with −1, which no hash is."""
    width = max(map(len, rows), default=1)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)
