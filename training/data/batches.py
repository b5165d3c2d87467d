"""One process's share of a step, tokenised and chunked: a pure function of (settings, step, rank, processes).

    order (sampling) → rows (data) → the row's own choices → token ids (prompts, layouts) → chunks (collate)

A row that cannot be used (empty text, an instruction that fills the whole length, an answer beyond the limit) is
replaced by the next usable row of its data set, and counted.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from grit_app.gritlm.errors import InputError
from grit_app.gritlm.grit_config import GritConfig
from grit_app.gritlm.layout import Layout
from grit_app.gritlm.prompts import Prompts
from training.config import ConfigError, TrainConfig
from training.data.chunk import EmbedItem, Forwards, Stream, WriteItem
from training.data.collate import embed_chunks, write_chunks
from training.data.formats import ContrastiveSample, DataError, Dataset, GenerativeSample, RagSample, Text, text_hash
from training.data.order import BlockOrder, FixedOrder, MixedOrder, Row, row_random, share_of
from training.data.rag_group import RagGroup
from training.data.rag_layouts import RagItem, check_layouts, lay_out
from training.data.teachers import Teachers
from training.step.batch import ContrastGroup, StepBatch, Taught, padded

CHARACTERS_PER_TOKEN = 12
"""Texts longer than this many characters a token of the limit are cut before they are tokenised, to save time."""

TEXTS_AT_ONCE = 256
"""Texts tokenised together: enough for all cores. What a tokenizer gives for a text is many times its ids."""

TRIES = 200


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
        *,
        forwards: Forwards | None = None,
        teachers: Teachers | None = None,
    ) -> None:
        """forwards   how sequences are put into forwards; None: padded rows for a CPU"""
        self.config, self._prompts, self._grit = config, prompts, grit
        self.ranks = self._rank, self._world_size = rank, world_size
        self.forwards = forwards or Forwards(is_packed=config.run.rows == "packed", pooling=config.model.pooling)
        self.teachers = teachers
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
        self._next = (step + 1, self._pool.submit(self._load_pinned, step + 1))
        return batch

    def _load_pinned(self, step: int) -> StepBatch:
        batch = self.load(step)
        return batch.pin_memory() if torch.cuda.is_available() else batch

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
        size = getattr(self.config, stream).batch_size
        if stream == "contrastive" and self.config.data.same_dataset_batches:
            order = BlockOrder(tuple(sizes), tuple(weights), size, self.config.run.seed)
            if order.epoch_batches == 0:
                raise ConfigError(
                    f"contrastive.batch_size {size} is larger than an epoch of {sum(order.counts)} rows. "
                    "Lower it, or add data."
                )
            return order
        return MixedOrder(sizes, weights, size, self.config.run.seed + len(stream))

    def _longest_rows(self, stream: Stream) -> list[Row]:
        """As many as a step takes, dealt out so that every process gets some of the longest."""
        size = getattr(self.config, stream).batch_size
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
        data = self.config.data
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
                budget=self.config.contrastive.chunk_tokens,
                is_causal=self._grit.embedding_is_causal,
                stream="contrastive",
                forwards=self.forwards,
            ),
            list(range(len(queries))),
            list(range(len(queries), len(items))),
            torch.tensor(starts),
            torch.tensor([text_hash(p.text) for p in passages], dtype=torch.long),
            torch.tensor(owners),
            padded([[text_hash(t.text) for t in (s.query, *s.positives)] for _, s, _, _ in chosen]),
            torch.tensor([self.datasets["contrastive"][row[0]].file.own_negatives_only for row, _, _, _ in chosen]),
            self._taught([row for row, _, _, _ in chosen], queries, passages, owners),
        )

    def _taught(
        self, rows: Sequence[Row], queries: Sequence[Text], passages: Sequence[Text], owners: Sequence[int]
    ) -> Taught | None:
        """What the teachers of the rows' files say about their texts; None if no file has one."""
        if self.teachers is None:
            return None
        files = [self.datasets["contrastive"][row[0]] for row in rows]
        asked = self.teachers.vectors(files, queries)
        return Taught(*asked, *self.teachers.vectors([files[owner] for owner in owners], passages))

    def _contrastive_row(self, step: int, first: Row) -> tuple[Row, ContrastiveSample, Text, list[Text]]:
        """A usable row with its positive and negatives of this step."""
        for row in self._candidates("contrastive", first):
            sample = self.datasets["contrastive"][row[0]][row[1]]
            assert isinstance(sample, ContrastiveSample)
            positives = [t for t in sample.positives if self._fits(t, self.config.data.passage_max_length)]
            if positives and self._fits(sample.query, self.config.data.query_max_length):
                rng = row_random(self.config.run.seed, "contrastive", step, row)
                positive = rng.choice(positives)
                right = {t.text.strip() for t in sample.positives}
                usable = [
                    t
                    for t in sample.negatives
                    if t.text.strip() not in right and self._fits(t, self.config.data.passage_max_length)
                ]
                count = min(self.config.contrastive.negatives, len(usable))
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
        config, limit = self.config.generative, self.config.data.generative_max_length
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
        batch.write.extend(write_chunks(items, budget=config.chunk_tokens, stream="generative", forwards=self.forwards))

    # cache-aware -----------------------------------------------------------------------------------------------------

    def _rag(self, step: int, batch: StepBatch) -> None:
        config = self.config.rag
        planned: list[tuple[RagItem, RagSample]] = []
        where = []
        for first in self._samples("rag", step):
            for row in self._candidates("rag", first):
                sample = self.datasets["rag"][row[0]][row[1]]
                assert isinstance(sample, RagSample)
                rng = row_random(self.config.run.seed, "rag", step, row)
                limit = self.config.data.generative_max_length
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
        pools = config.embedding_weight > 0 and self.config.mode == "unified"
        group = RagGroup(self.config, self._prompts, self._grit, pools)
        items = [group.add(item, sample, number) for number, (item, sample) in enumerate(planned)]
        batch.write.extend(
            write_chunks(
                [item for item in items if not item.vectors],
                budget=config.chunk_tokens,
                stream="rag",
                forwards=self.forwards,
            )
        )
        if pools:
            batch.groups["rag"] = group.finish([item for item in items if item.vectors], self.forwards)


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
