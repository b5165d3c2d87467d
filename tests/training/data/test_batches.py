"""What reaches the model: trained tokens, chunks without waste, and the right passages for every query."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from grit_app.gritlm.prompts import Prompts
from tests.training.helpers import Workbench, contrastive_rows, make_config, write_rows
from training.config import ContrastiveConfig, DataFile
from training.data import batches
from training.data.batches import StepLoader, generative_item
from training.data.collate import plan_chunks, plan_packed
from training.data.formats import ContrastiveSample, DataError, GenerativeSample, open_datasets, text_hash
from training.data.workers import batches as prepared

PIECES = [
    "Hello",
    " there",
    "\n",
    "<|user|>\n",
    "</s>",
    "ü",
    "漢字",
    "  two  ",
    "🐝",
    "a",
    ".",
    "\n\n",
    "<|assistant|>",
    "7",
]


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 8))) + rng.choice(["x", "y.", "z\n", " w"])


def expected_answer_characters(turns: list[str]) -> list[str]:
    """What the assistant says, as the format strips it."""
    return [turn.strip() for turn in turns[1::2]]


def test_labels_of_multi_turn_chats_are_exact(tiny_model: Any) -> None:
    """On 2,000 chats the trained tokens are the answers' characters and one EOS each: no drift after the first turn.

    Decoding tells which characters a token holds; the expectation comes from the texts alone.
    """
    prompts: Prompts = tiny_model.prompts
    rng = random.Random(0)
    checked = 0
    for _ in range(2000):
        turns = [random_text(rng) for _ in range(2 * rng.randint(1, 4))]
        item = generative_item(GenerativeSample(turns), prompts, 10_000, 0)
        assert item is not None
        ids = item.layout.input_ids().tolist()
        runs: list[list[int]] = []
        for place in item.labels:
            if not runs or place != runs[-1][-1] + 1 or ids[runs[-1][-1]] == prompts.eos_id:
                runs.append([])
            runs[-1].append(place)
        assert [prompts.decode([ids[i] for i in run]) for run in runs] == expected_answer_characters(turns)
        assert all(ids[run[-1]] == prompts.eos_id and ids[run[-1] + 1 :].count(prompts.eos_id) == len(runs) - n - 1
                   for n, run in enumerate(runs))  # fmt: skip
        for run, turn in zip(runs, turns[0::2], strict=True):
            assert prompts.decode(ids[: run[0]]).endswith(f"<|user|>\n{turn}\n<|assistant|>\n")
        checked += len(runs)
    assert checked > 4000


def test_truncated_chats_learn_what_is_left_or_are_dropped(tiny_model: Any) -> None:
    sample = GenerativeSample(["Hello", "bees make honey", "and then", "they store it"])
    whole = generative_item(sample, tiny_model.prompts, 1000, 0)
    assert whole is not None
    second = next(p for p, q in zip(whole.labels[1:], whole.labels, strict=False) if p != q + 1)
    cut = generative_item(sample, tiny_model.prompts, second, 0)
    assert cut is not None and list(cut.labels) == [p for p in whole.labels if p < second]
    assert generative_item(sample, tiny_model.prompts, whole.labels[0], 0) is None
    assert generative_item(GenerativeSample("  "), tiny_model.prompts, 100, 0) is None


def test_plain_text_is_learnt_whole(tiny_model: Any) -> None:
    item = generative_item(GenerativeSample("The river"), tiny_model.prompts, 100, 0)
    assert item is not None
    ids = item.layout.input_ids().tolist()
    assert ids[0] == tiny_model.prompts.bos_id and ids[-1] == tiny_model.prompts.eos_id
    assert list(item.labels) == list(range(1, len(ids)))


@pytest.mark.parametrize("seed", range(4))
def test_chunks_hold_everything_once_within_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [min(400, int(rng.lognormvariate(3.5, 0.9)) + 1) for _ in range(300)]
    chunks = plan_chunks(lengths, 2048)
    assert sorted(i for chunk in chunks for i in chunk) == list(range(300))
    areas = [len(chunk) * max(lengths[i] for i in chunk) for chunk in chunks]
    assert max(areas) <= 2048 and sum(lengths) / sum(areas) > 0.8
    assert plan_chunks([5000, 3], 2048) == [[0], [1]]  # one long sequence may exceed the budget, alone
    packed = plan_packed(lengths, 2048)
    assert sorted(i for group in packed for i in group) == list(range(300))
    held = [sum(lengths[i] for i in group) for group in packed]
    assert max(held) <= 2048 and min(held) > 0.8 * max(held) and len(packed) <= 1 + -(-sum(lengths) // 2048)
    assert plan_packed([5000, 3], 2048) == [[0], [1]] and plan_packed([], 2048) == []


def test_queries_meet_their_own_passages(
    tmp_path: Path, tiny_model_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets, owners, hashes and ids of a batch against the rows it was made of; negatives vary in number."""
    monkeypatch.setattr(batches, "TEXTS_AT_ONCE", 5)
    config = make_config(tmp_path, tiny_model_folder("mistral"), streams="c")
    write_rows(tmp_path / "c.jsonl", contrastive_rows(40, negatives=(0, 4)))
    config = replace(config, contrastive=ContrastiveConfig(batch_size=16, negatives=3))
    bench = Workbench(config)
    batch = bench.loader.load(1)
    group = batch.groups["contrastive"]
    dataset = bench.loader.datasets["contrastive"][0]
    rows = [dataset[index] for _, index in bench.loader.orders["contrastive"].batch(1)]
    counts = set()
    for number, sample in enumerate(rows):
        assert isinstance(sample, ContrastiveSample)
        own = [i for i, owner in enumerate(group.owners.tolist()) if owner == number]
        counts.add(len(own))
        assert len(own) == 1 + min(3, len(sample.negatives))
        assert int(group.targets[number]) == own[0]
        assert int(group.hashes[own[0]]) in [text_hash(t.text) for t in sample.positives]
        assert {int(group.hashes[i]) for i in own[1:]} <= {text_hash(t.text) for t in sample.negatives}
        assert text_hash(sample.query.text) in group.right_answers[number].tolist()
    assert len(counts) > 2
    ids = {n: c.input_ids[row] for c in group.chunks for row, n in enumerate(c.vectors)}
    for number, sample in enumerate(rows):
        expected = bench.prompts.embed(sample.query.text, sample.query.instruction).ids
        assert ids[group.query_vectors[number]][: len(expected)].tolist() == expected
    passages = {text_hash(t.text): t for sample in rows for t in (*sample.positives, *sample.negatives)}
    for vector, found in zip(group.passage_vectors, group.hashes.tolist(), strict=True):
        expected = bench.prompts.embed(passages[found].text, passages[found].instruction).ids
        assert ids[vector][: len(expected)].tolist() == expected


def test_instructions_are_never_pooled(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    """Spans begin behind the header: no BOS, no marker, no instruction."""
    bench = Workbench(make_config(tmp_path, tiny_model_folder("mistral"), streams="c"))
    seen = 0
    for chunk in bench.loader.load(0).groups["contrastive"].chunks:
        for row, _, sample, stop in chunk.spans:
            text = bench.prompts.decode(chunk.input_ids[row, sample:stop].tolist())
            assert "<|embed|>" not in text and "Find the passage" not in text and text
            seen += "Find the passage" in bench.prompts.decode(chunk.input_ids[row, :sample].tolist())
    assert seen > 2


def test_batches_do_not_depend_on_when_they_are_made(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    """A step's batch is a function of the step; shares of two processes together are the batch of one."""
    config = make_config(tmp_path, tiny_model_folder("mistral"))
    bench = Workbench(config)
    later = bench.loader.load(3)
    bench.loader.load(0)
    again = Workbench(config).loader.prefetched(3)
    for one, two in zip(later.chunks(), again.chunks(), strict=True):
        assert torch.equal(one.input_ids, two.input_ids)
    halves = [
        StepLoader(config, open_datasets(config.data.train), bench.prompts, bench.grit, rank, 2).load(3)
        for rank in range(2)
    ]
    for stream in later.rows:
        assert halves[0].rows[stream] + halves[1].rows[stream] == later.rows[stream]
    assert sum(half.tokens for half in halves) == later.tokens


def test_processes_prepare_the_same_steps(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    """`run.loader_processes` changes who makes a batch, and nothing of it."""
    bench = Workbench(make_config(tmp_path, tiny_model_folder("mistral")))
    folder = Path(bench.config.model.path)
    found = prepared(bench.loader, 3, processes=1, tokenizer_folder=folder, grit=bench.grit)
    for step, batch in zip((3, 4), found, strict=False):
        expected = bench.loader.load(step)
        assert batch.step == step and batch.rows == expected.rows
        for chunk, other in zip(batch.chunks(), expected.chunks(), strict=True):
            assert torch.equal(chunk.input_ids, other.input_ids) and chunk.spans == other.spans
    found.close()


def test_unusable_rows_are_replaced_and_counted(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    config = make_config(tmp_path, tiny_model_folder("mistral"), streams="g")
    rows = [{"text": ["hello", "there"]} if n % 4 == 0 else {"text": ["x " * 600, "too late"]} for n in range(40)]
    write_rows(tmp_path / "g.jsonl", rows)
    batch = Workbench(config).loader.load(0)
    assert batch.replaced > 0 and all((int(w.split("line ")[1]) - 1) % 4 == 0 for w in batch.rows["generative"])
    write_rows(tmp_path / "g.jsonl", rows[1:4] * 5)
    with pytest.raises(DataError, match="neither this row nor those after it"):
        Workbench(config).loader.load(0)


def test_sizes_of_the_streams_are_independent(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    """A stream with few rows starts its next epoch by itself while another is still in its first."""
    config = make_config(tmp_path, tiny_model_folder("mistral"))
    write_rows(tmp_path / "g.jsonl", [{"text": ["hello", "there"]}] * 3)
    config = replace(
        config, data=replace(config.data, train=[*config.data.train[:1], DataFile(path=str(tmp_path / "g.jsonl"))])
    )
    loader = Workbench(config).loader
    assert all(len(loader.load(step).rows["generative"]) == 8 for step in range(12))
