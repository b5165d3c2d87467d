"""Pretraining: rows, schedule, optimizer, initial tables, and a run that stops and goes on."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from grit_app.gritlm.prompts import Prompts
from tests.training.corpus_files import write_corpus
from training import pretrain, tokenizer
from training.run.optimizer import wsd
from training.scratch.config import Phase, PretrainConfig, ShapeConfig
from training.scratch.corpus import SourceConfig, answer_texts, chat, is_held_out, read_documents, read_records
from training.scratch.distill import TeacherTexts, common_basis, similarity_distillation, vector_distillation
from training.scratch.embedding_init import fit_head, mean_matrix, ppmi_table, ridge_table
from training.scratch.muon import Muon, orthogonalise, parameter_groups
from training.scratch.packing import CYCLE, RowOrder, TokenSource, window_starts

SOURCES = [
    SourceConfig(file="prose.jsonl.xz", template="titled", weight=3),
    SourceConfig(file="questions.jsonl.xz", template="questions", weight=1),
]
SHAPE = ShapeConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=48,
    max_position_embeddings=128,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    settings = tokenizer.TokenizerConfig(
        data_dir=folder, output_dir=folder / "tokenizer", vocab_size=400, sources=SOURCES
    )
    tokenizer.run(settings)
    return folder


def settings(corpus: Path, output_dir: Path, **changes: object) -> PretrainConfig:
    values: dict[str, object] = {
        "data_dir": corpus,
        "tokenizer_dir": corpus / "tokenizer",
        "output_dir": output_dir,
        "sources": SOURCES,
        "shape": SHAPE,
        "phases": [
            Phase(tokens=24 * 64, length=16, batch_rows=4, micro_rows=2),
            Phase(tokens=8 * 64, length=32, batch_rows=2, micro_rows=2),
        ],
        "threads": 1,
        "warmup_steps": 3,
        "log_every": 1,
        "corpus_characters": 40_000,
    }
    return PretrainConfig(**(values | changes))  # type: ignore[arg-type]


# rows ----------------------------------------------------------------------------------------------------------------


def token_sources() -> list[TokenSource]:
    rng = np.random.default_rng(0)
    return [
        TokenSource("a", rng.integers(3, 50, 1000, dtype=np.uint16), 3.0),
        TokenSource("b", rng.integers(50, 99, 400, dtype=np.uint16), 1.0),
    ]


def test_every_window_comes_once_an_epoch_and_shares_are_exact() -> None:
    """Counted over whole cycles: three rows of a to one of b, and no window again before all have come."""
    order = RowOrder(token_sources(), 10, bos_id=1, seed=4)
    rows = [order.row(i) for i in range(CYCLE)]
    from_a = [tuple(r) for r in rows if r[1:].max() < 50]
    assert len(from_a) == CYCLE * 3 // 4
    assert len(set(from_a[:100])) == 100  # 1000 tokens are 100 windows of 10
    assert set(from_a[:100]) == set(from_a[100:200])
    assert from_a[:100] != from_a[100:200]  # another order in the second epoch
    assert all(row[0] == 1 and len(row) == 10 for row in rows)


def test_a_row_depends_on_seed_and_number_alone() -> None:
    """Asked in any order, by a fresh object or a used one: the same row. Otherwise no resume could be exact."""
    used = RowOrder(token_sources(), 10, bos_id=1, seed=4)
    expected = [used.row(i) for i in range(700)]
    fresh = RowOrder(token_sources(), 10, bos_id=1, seed=4)
    for i in (650, 3, 699, 0, 512):
        assert np.array_equal(fresh.row(i), expected[i])
    other = RowOrder(token_sources(), 10, bos_id=1, seed=5)
    assert any(not np.array_equal(other.row(i), expected[i]) for i in range(20))


def test_every_short_document_stands_whole_in_a_window_and_no_token_is_lost() -> None:
    """Documents of 3 to 30 tokens in windows of 12: those that fit are whole somewhere, long ones are cut."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(3, 31, 80)
    tokens = np.concatenate([np.r_[1, np.full(n - 1, 7)] for n in lengths]).astype(np.uint16)
    starts = window_starts(tokens, 12, bos_id=1)
    assert starts[0] == 0 and (np.diff(starts) > 0).all() and (np.diff(starts) <= 12).all()
    assert starts[-1] + 12 <= len(tokens) < starts[-1] + 24
    begins = np.cumsum(lengths) - lengths
    for begin, length in zip(begins, lengths, strict=True):
        if length <= 12 and begin + length <= starts[-1] + 12:
            assert ((starts <= begin) & (begin + length <= starts + 12)).any()


def test_answers_weigh_more_from_their_marker_to_their_end() -> None:
    rows = np.array([[1, 5, 8, 9, 4, 4, 2, 6], [1, 8, 9, 4, 5, 5, 5, 5], [1, 5, 5, 8, 5, 9, 5, 8]])
    weights = pretrain.target_weights(rows, marker=[8, 9], eos_id=2, answer_weight=3.0)
    expected = np.array([[1, 1, 1, 3, 3, 3, 1], [1, 1, 3, 3, 3, 3, 3], [1] * 7], dtype=np.float32)
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-6)


def test_plan_walks_through_the_phases_in_order() -> None:
    short, long = (
        Phase(tokens=640, length=16, batch_rows=4, micro_rows=2),
        Phase(tokens=256, length=64, batch_rows=2, micro_rows=2),
    )
    plan = pretrain.Plan.of([short, long], 1.0)
    assert plan.total_steps == 12
    assert [plan.at(s) for s in (0, 9, 10, 11)] == [(short, 0), (short, 9), (long, 0), (long, 1)]
    assert pretrain.Plan.of([short, long], 0.001).total_steps == 2  # a rehearsal still meets every phase


# pure functions ------------------------------------------------------------------------------------------------------


def test_wsd_warms_up_stays_and_decays() -> None:
    factors = [wsd(s, total_steps=100, warmup_steps=10, decay_steps=20, floor=0.1) for s in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9:81] == [1.0] * 72
    assert factors[90] == pytest.approx(0.1 + 0.9 * 0.5)
    assert all(a >= b for a, b in itertools.pairwise(factors[80:])) and factors[-1] > 0.1


def test_a_longer_run_repeats_nothing_but_the_decay() -> None:
    for step in range(60):
        short = wsd(step, total_steps=80, warmup_steps=10, decay_steps=20)
        assert short == wsd(step, total_steps=500, warmup_steps=10, decay_steps=20)


def test_orthogonalise_keeps_directions_and_evens_sizes() -> None:
    """Against the SVD: the same singular vectors, all singular values near 1."""
    torch.manual_seed(0)
    for shape in ((6, 10), (10, 6), (8, 8)):
        matrix = torch.randn(shape)
        result = orthogonalise(matrix, 5)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        core = u.T @ result @ v.T
        assert (core - torch.diag(core.diag())).abs().max() < 0.05
        assert core.diag().min() > 0.5 and core.diag().max() < 1.4


def test_muon_takes_steps_of_the_stated_size_down_a_bowl() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 16))
    optimizer = Muon([weight], lr=0.02, momentum=0.9)
    before = weight.detach().clone()
    losses = []
    for _ in range(60):
        loss = weight.square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if len(losses) == 1:
            rms = (weight.detach() - before).square().mean().sqrt()
            # an orthogonal 8x16 matrix has elements of RMS 1/sqrt(16), times sqrt(16) of scaling
            assert 0.6 * 0.02 < float(rms) < 1.4 * 0.02
    assert losses[-1] < 0.2 * losses[0]


def test_every_parameter_is_in_exactly_one_group(corpus: Path, tmp_path: Path) -> None:
    model = pretrain.Trainer(settings(corpus, tmp_path)).model
    groups = parameter_groups(model)
    members = [id(p) for group in groups for p in group]
    assert sorted(members) == sorted(id(p) for p in model.parameters())
    assert len(groups.tables) == len(groups.heads) == 1 and len(groups.vectors) == 2 * 2 + 1


def test_ridge_table_equals_least_squares_in_float64() -> None:
    rng = np.random.default_rng(0)
    ids = [list(rng.integers(0, 7, rng.integers(1, 6))) for _ in range(40)]
    targets = rng.standard_normal((40, 3))
    table = ridge_table(ids, targets, 8, penalty=0.3)
    means = np.zeros((40, 8))
    for row, tokens in enumerate(ids):
        for token in tokens:
            means[row, token] += 1 / len(tokens)
    stacked = np.vstack([means, math.sqrt(0.3) * np.eye(8)])
    expected = np.linalg.lstsq(stacked, np.vstack([targets, np.zeros((8, 3))]), rcond=None)[0]
    np.testing.assert_allclose(table, expected, atol=1e-5)
    assert np.abs(mean_matrix(ids, 8).toarray() - means).max() < 1e-6
    assert (table[7] == 0).all()  # never seen


def test_company_table_puts_interchangeable_tokens_together() -> None:
    """Tokens 1 and 2 stand in the same contexts, 3 in others."""
    rng = np.random.default_rng(0)
    pieces = [[10, rng.choice([1, 2]), 11, 12] if rng.random() < 0.5 else [20, 3, 21, 22] for _ in range(800)]
    table = ppmi_table(np.concatenate(pieces), 30, 6, window=2)

    def cosine(a: int, b: int) -> float:
        return float(table[a] @ table[b] / np.linalg.norm(table[a]) / np.linalg.norm(table[b]))

    assert cosine(1, 2) > 0.9 > 0.5 > cosine(1, 3)


def test_fitted_head_comes_near_the_entropy_of_pairs() -> None:
    """With states that tell all tokens apart, nothing but the conditional entropy of the pairs is left."""
    rng = np.random.default_rng(0)
    transition = rng.dirichlet(np.full(12, 0.3), size=12)
    tokens = [0]
    for _ in range(6000):
        tokens.append(int(rng.choice(12, p=transition[tokens[-1]])))
    text = np.array(tokens)
    counts = np.zeros((12, 12))
    np.add.at(counts, (text[:-1], text[1:]), 1)
    joint, conditional = counts / counts.sum(), counts / counts.sum(1, keepdims=True)
    entropy = -(joint[counts > 0] * np.log(conditional[counts > 0])).sum()
    states = torch.cat([3 * torch.eye(12), torch.ones(12, 1)], dim=1)
    head, loss = fit_head(states, text, steps=300, batch=12)
    log_p = (states @ head.T).log_softmax(-1).numpy()
    reached = -(joint * log_p).sum()
    assert entropy <= reached < entropy + 0.05
    assert abs(loss - reached) < 0.15  # the reported number is the mean over the last steps' draws
    assert -(joint * np.log(joint.sum(0))).sum() > entropy + 0.3  # frequencies alone would not do


def test_distillation_is_zero_at_the_teacher_and_ignores_rotation() -> None:
    torch.manual_seed(0)
    teacher = torch.nn.functional.normalize(torch.randn(9, 5), dim=-1)
    rotation, _ = torch.linalg.qr(torch.randn(5, 5))
    assert float(similarity_distillation(3.0 * teacher @ rotation, teacher, 0.1)) < 1e-5
    assert float(similarity_distillation(torch.randn(9, 5), teacher, 0.1)) > 0.1


def test_a_turned_teacher_is_found_in_a_wider_space_and_keeps_its_cosines() -> None:
    torch.manual_seed(0)
    teacher = torch.nn.functional.normalize(torch.randn(200, 5), dim=-1)
    rotation = torch.linalg.qr(torch.randn(8, 8))[0][:5]
    noise = 0.05 * torch.randn(200, 8)
    basis = common_basis(7.0 * (teacher @ rotation + noise), teacher)
    torch.testing.assert_close(basis @ basis.T, torch.eye(5), atol=1e-5, rtol=0)
    assert float(vector_distillation(3.0 * teacher @ rotation, teacher @ basis)) < 0.01
    assert float(vector_distillation(torch.randn(200, 8), teacher @ basis)) > 0.8
    # No rotation near it does better on the very texts that it was found on.
    turn = torch.linalg.matrix_exp(0.05 * (a := torch.randn(8, 8)) - 0.05 * a.T)
    student = teacher @ rotation + noise
    product = (student * (teacher @ basis)).sum() - (student * (teacher @ basis @ turn)).sum()
    assert float(product) > 0
    with pytest.raises(ValueError, match="without a loss"):
        common_basis(torch.randn(9, 4), torch.randn(9, 5))


def test_held_out_articles_are_in_no_source(corpus: Path) -> None:
    """The same title decides in every file, so questions on a held-out article are not trained on either."""
    for source in SOURCES:
        records = list(read_records(corpus / source.file))
        kept = [r for r in records if not is_held_out(r, 3)]
        titles = {r["title"] for r in records} - {r["title"] for r in kept}
        assert titles and not titles & {r["title"] for r in kept}
    training, held = (read_documents(corpus, SOURCES[0], held_out=h) for h in (False, True))
    assert not set(training) & set(held)


def test_questions_of_a_passage_share_it(corpus: Path) -> None:
    records = [r for r in read_records(corpus / "questions.jsonl.xz") if not is_held_out(r)]
    documents = read_documents(corpus, SOURCES[1])
    assert len(documents) == len(records) // 3  # three questions a passage fit into one chat
    assert documents[0].count(records[0]["context"]) == 1
    for record in records[:3]:
        assert f"<|assistant|>\n{answer_texts(record)[0]}" in documents[0]
    assert chat("q", " a ", "r", "b") == "<|user|>\nq\n<|assistant|>\na</s>\n<|user|>\nr\n<|assistant|>\nb"


# runs ----------------------------------------------------------------------------------------------------------------


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForCausalLM.from_pretrained(str(folder)).state_dict())


def test_the_loss_falls(corpus: Path, tmp_path: Path) -> None:
    phases = [Phase(tokens=50 * 256, length=32, batch_rows=8, micro_rows=4)]
    trainer = pretrain.Trainer(settings(corpus, tmp_path, phases=phases, head_learning_rate=0.01))
    losses = [trainer.step()["loss_generative"] for _ in range(50)]
    assert losses[0] == pytest.approx(math.log(400), abs=0.05)  # zero head: nothing is preferred
    assert np.mean(losses[-5:]) < losses[0] - 1.5


def test_stop_and_resume_is_the_same_run_bit_for_bit(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped at step 11 of 32, in the first phase: weights, moments, data and learning rate all go on."""
    whole = pretrain.run(settings(corpus, tmp_path / "whole"))
    trainer = pretrain.Trainer(settings(corpus, tmp_path / "parts"))
    for _ in range(11):
        trainer.step()
    trainer.save()
    del trainer
    resumed = pretrain.run(settings(corpus, tmp_path / "parts", resume="auto"))
    assert "resumed from step 11" in capsys.readouterr().out
    assert whole.name == resumed.name == "step-000032"
    first, second = weights(whole), weights(resumed)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_weights_alone_start_a_new_run(corpus: Path, tmp_path: Path) -> None:
    first = pretrain.run(settings(corpus, tmp_path / "first"))
    trainer = pretrain.Trainer(settings(corpus, tmp_path / "second", init_from=first))
    assert trainer.state.step == 0
    start = weights(first)
    assert all(torch.equal(value, start[name]) for name, value in trainer.model.state_dict().items())


def test_sigterm_saves_and_the_command_line_goes_on(corpus: Path, tmp_path: Path) -> None:
    """The real command in a real process: killed softly in the middle, it leaves a whole checkpoint and resumes."""
    config = tmp_path / "run.yaml"
    config.write_text(
        f"""
data_dir: {corpus}
tokenizer_dir: {corpus}/tokenizer
output_dir: {tmp_path}/run
threads: 1
log_every: 1
corpus_characters: 40000
sources: [{{file: prose.jsonl.xz, template: titled}}]
phases: [{{tokens: 40000000, length: 16, batch_rows: 4, micro_rows: 4}}]
shape: {{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 16,
        intermediate_size: 32}}
""",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "training.pretrain", "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.is_file() and log.stat().st_size):
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    saved = pretrain.checkpoints(tmp_path / "run")
    step = pretrain.load_state(saved[-1]).step
    assert step > 0
    short = [*command, "--resume", "auto", "--fraction", "1e-9"]  # a plan of one step: nothing is left to do
    done = subprocess.run(short, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == f"resumed from step {step}"


def teacher_folder(corpus: Path, tmp_path: Path) -> Path:
    """Forty texts of the corpus with random unit vectors."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    texts = [d.split("\n")[1][:60] for d in read_documents(corpus, SOURCES[0])][:40]
    vectors = np.random.default_rng(0).standard_normal((len(texts), 6)).astype(np.float16)
    vectors /= np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    np.save(folder / "vectors.npy", vectors)
    (folder / "texts.jsonl").write_text("".join(f'"{t}"\n' for t in texts), encoding="utf-8")
    return folder


def test_distillation_pulls_pooled_states_to_the_teacher(corpus: Path, tmp_path: Path) -> None:
    """The second stream alone, over a random model: similarities come nearer to the teacher's."""
    folder = teacher_folder(corpus, tmp_path)
    config = settings(
        corpus, tmp_path / "run", teacher_dirs=[folder], distill_texts=16, distill_weight=1.0, head_steps=5,
        phases=[Phase(tokens=40 * 32, length=16, batch_rows=2, micro_rows=2)], table_learning_rate=0.02,
    )  # fmt: skip
    trainer = pretrain.Trainer(config)
    assert float(trainer.model.model.norm.weight[-1].detach()) == pytest.approx(0.1)
    losses = [trainer.step()["loss_distill"] for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_vector_distillation_pulls_each_vector_and_keeps_its_basis(corpus: Path, tmp_path: Path) -> None:
    folder = teacher_folder(corpus, tmp_path)
    config = settings(
        corpus, tmp_path / "run", teacher_dirs=[folder], distill_texts=16, distill_weight=0.01, distill_vectors=5.0,
        head_steps=5, phases=[Phase(tokens=40 * 32, length=16, batch_rows=2, micro_rows=2)], table_learning_rate=0.02,
    )  # fmt: skip
    trainer = pretrain.Trainer(config)
    losses = [trainer.step()["loss_vectors"] for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    trainer.save()
    again = pretrain.Trainer(replace(config, resume="auto"))
    assert trainer.basis is not None and again.basis is not None
    torch.testing.assert_close(again.basis, trainer.basis, atol=0, rtol=0)


def test_batches_of_teacher_texts_are_of_like_length_and_leave_none_out(corpus: Path, tmp_path: Path) -> None:
    texts = ["a " * n for n in range(1, 65)]
    np.save(tmp_path / "vectors.npy", np.eye(64, dtype=np.float16))
    (tmp_path / "texts.jsonl").write_text("".join(f'"{t}"\n' for t in texts), encoding="utf-8")
    prompts = Prompts(AutoTokenizer.from_pretrained(str(settings(corpus, tmp_path).tokenizer_dir)))
    source = TeacherTexts([tmp_path], prompts, 1000, seed=3)
    seen: dict[int, int] = {}
    for step in range(400):
        batch = source.batch(step, 8)
        lengths = batch.attention_mask.sum(1)
        assert int(lengths.max() - lengths.min()) <= 16  # eight neighbours by length out of 64
        for row in batch.teacher.argmax(1).tolist():
            seen[row] = seen.get(row, 0) + 1
    assert len(seen) == 64 and min(seen.values()) > 20  # 50 expected
