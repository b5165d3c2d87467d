"""The served model's pipeline in small: texts → tokenizer → teacher → mixture → pretraining → a folder that serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from grit_app.gritlm import GritLM
from tests.training.corpus_files import WORDS, write_corpus
from training import pretrain, tokenizer
from training.scratch import teacher
from training.scratch.config import Phase, PretrainConfig, ShapeConfig
from training.scratch.corpus import CorpusError, SourceConfig
from training.scratch.release import ReleaseConfig, release
from training.scratch.static_table import Pairs, StaticConfig, info_nce_step, means_of, rows_of, train_static

SOURCES = [
    SourceConfig(file="prose.jsonl.xz", template="titled"),
    SourceConfig(file="questions.jsonl.xz", template="questions"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT that knows the corpus' words: stands for the open sentence encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", *sorted({word.lower() for word in WORDS}), ".", ":", "article"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def vectors(corpus: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    samples = [
        teacher.TextSample(file="prose.jsonl.xz", fields=["text"], count=50, unit="sentence"),
        teacher.TextSample(file="questions.jsonl.xz", fields=["title", "question"], count=30, joiner=": "),
    ]
    teacher.run(
        teacher.TeacherConfig(data_dir=corpus, output_dir=folder, samples=samples, model=str(encoder), threads=1)
    )
    return folder


def test_teacher_gives_the_mean_of_its_states_for_each_text_alone(vectors: Path, encoder: Path) -> None:
    """Sorted by length, batched and padded, against one text at a time and a plain mean."""
    texts, found = teacher.load_teacher_vectors([vectors])
    assert len(texts) == len(set(texts)) == len(found) > 40 and found.dtype == np.float16
    assert len({len(text.split()) for text in texts}) > 1  # there was padding
    plain = teacher.Teacher(str(encoder))
    for index in (0, 7, len(texts) - 1):
        ids = torch.tensor([plain.tokenizer(texts[index])["input_ids"]])
        with torch.no_grad():
            state = plain.model(input_ids=ids).last_hidden_state[0].double().mean(0)
        np.testing.assert_allclose(found[index], (state / state.norm()).numpy(), atol=2e-3)


def test_missing_vectors_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds no vectors\.npy\. Make it with"):
        teacher.load_teacher_vectors([tmp_path])


def write_pairs(folder: Path, rule: str = "questions") -> Path:
    """Queries and positives share a rare token pair, so that matching can be learned."""
    path = folder / "train" / f"{rule}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "query": f"{WORDS[i % 30]} {WORDS[(7 * i) % 30]}",
            "pos": [f"{WORDS[(i + 3) % 30]} {WORDS[(7 * i + 3) % 30]}"],
            "neg": [f"{WORDS[(i + 5) % 30]} {WORDS[(7 * i + 4) % 30]}"],
        }
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def own_tokenizer(corpus: Path) -> PreTrainedTokenizerFast:
    settings = tokenizer.TokenizerConfig(
        data_dir=corpus, output_dir=corpus / "tokenizer", vocab_size=400, sources=SOURCES
    )
    return tokenizer.run(settings)


def test_static_loss_equals_a_loop_over_texts(own_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """Sparse products, masking of equal positives and the hard negative, against float64 written out."""
    path = write_pairs(tmp_path)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"pos": json.loads(lines[0])["pos"]})  # the same positive twice
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = Pairs(path, own_tokenizer, np.random.default_rng(0), most_rows=100)
    torch.manual_seed(0)
    table = torch.randn(len(own_tokenizer), 8, requires_grad=True)
    loss = info_nce_step(table, pairs, np.arange(6), temperature=0.3)
    loss.backward()
    assert table.grad is not None
    exact = table.detach().double().requires_grad_()

    def vector(text: str) -> torch.Tensor:
        mean = exact[own_tokenizer(text, add_special_tokens=False)["input_ids"]].mean(0)
        return mean / mean.norm()

    rows = [json.loads(line) for line in lines[:6]]
    total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(rows):
        query = vector(row["query"])
        scores = [query @ vector(other["pos"][0]) / 0.3 for j, other in enumerate(rows)
                  if i == j or other["pos"] != row["pos"]]  # fmt: skip
        scores.append(query @ vector(row["neg"][0]) / 0.3)
        total = total - query @ vector(row["pos"][0]) / 0.3 + torch.stack(scores).logsumexp(0)
    (total / 6).backward()
    assert float(loss.detach()) == pytest.approx(float((total / 6).detach()), rel=1e-5)
    assert exact.grad is not None and float(exact.grad.norm()) > 0
    torch.testing.assert_close(table.grad.double(), exact.grad, atol=1e-6, rtol=1e-4)


def test_static_training_learns_the_pairs_and_keeps_rows_of_length_one(
    own_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, vectors: Path
) -> None:
    write_pairs(tmp_path)
    torch.manual_seed(0)
    table = rows_of(0.2 * torch.randn(len(own_tokenizer), 15), 1.0)
    texts, targets = teacher.load_teacher_vectors([vectors])
    config = StaticConfig(
        steps=60, batch_size=40, mixture_dir=tmp_path, files={"questions": 1.0}, learning_rate=0.02, distill_texts=16,
        distill_weight=0.01,
    )  # fmt: skip
    trained = train_static(table, config, own_tokenizer, texts, targets, 0.1)
    assert torch.equal(trained, train_static(table, config, own_tokenizer, texts, targets, 0.1))
    torch.testing.assert_close(trained.norm(dim=1), torch.ones(len(trained)), atol=1e-3, rtol=0)
    assert float(trained[:, :-1].norm(dim=1).mean()) == pytest.approx(float(table[:, :-1].norm(dim=1).mean()), rel=0.1)
    pairs = Pairs(tmp_path / "train" / "questions.jsonl", own_tokenizer, np.random.default_rng(0), most_rows=100)
    weight = torch.cat([torch.ones(15), torch.tensor([0.1])])

    def right(rows: torch.Tensor) -> float:
        scores = torch.nn.functional.normalize(means_of(pairs.queries, rows * weight), dim=-1) @ (
            torch.nn.functional.normalize(means_of(pairs.positives, rows * weight), dim=-1).T
        )
        return float((scores.argmax(1) == torch.arange(60)).float().mean())

    assert right(table) < 0.3 and right(trained) > right(table) + 0.3


def test_the_whole_pipeline_in_small_gives_a_model_that_serves(
    corpus: Path, own_tokenizer: PreTrainedTokenizerFast, vectors: Path, tmp_path: Path
) -> None:
    """Each stage reads what the one before wrote. The untrained layers add nothing: vectors are the table's means."""
    write_pairs(tmp_path / "mixture")
    config = PretrainConfig(
        data_dir=corpus,
        tokenizer_dir=corpus / "tokenizer",
        output_dir=tmp_path / "pretrain",
        sources=SOURCES,
        teacher_dirs=[vectors],
        static=StaticConfig(
            steps=3, batch_size=16, mixture_dir=tmp_path / "mixture", files={"questions": 1.0}, distill_texts=8
        ),
        phases=[Phase(tokens=1_000_000, length=32, batch_rows=2, micro_rows=2)],
        fraction=0.0001,
        shape=ShapeConfig(
            hidden_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            intermediate_size=32,
            max_position_embeddings=256,
        ),
        distill_texts=8,
        head_steps=5,
        threads=1,
        corpus_characters=50_000,
    )
    untrained = pretrain.Trainer(config)
    untrained.save()
    release(ReleaseConfig(checkpoint=tmp_path / "pretrain" / "latest", export_dir=tmp_path / "start"))
    served = GritLM.from_pretrained(tmp_path / "start", dtype="float32")
    text = "The river opens."
    ids = own_tokenizer(text, add_special_tokens=False)["input_ids"]
    kept = torch.load(config.output_dir / "initial_table.pt", weights_only=True)
    weight = torch.cat([torch.ones(23), torch.tensor([pretrain.SLACK_WEIGHT])])
    mean = (kept[ids] * weight).mean(0)
    assert float(served.encode([text])[0] @ (mean / mean.norm()).numpy()) > 0.999

    pretrain.run(config)
    grit = {"answer_mode": "quote", "answer_prefix": "", "trained_context": 32}
    folder = release(
        ReleaseConfig(checkpoint=tmp_path / "pretrain" / "latest", export_dir=tmp_path / "final", grit=grit)
    )
    model = GritLM.from_pretrained(folder)
    assert model.config.answer_mode == "quote" and model.config.trained_context == 32
    assert model.encode([text]).shape == (1, 24)
    assert isinstance(model.generate([{"role": "user", "content": text}], max_new_tokens=4), str)


def test_an_export_keeps_calibrated_settings_and_the_card(
    corpus: Path, own_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A second round of weights must not undo what was measured and written for the first."""
    config = PretrainConfig(
        data_dir=corpus, tokenizer_dir=corpus / "tokenizer", output_dir=tmp_path / "run", sources=SOURCES, threads=1,
        phases=[Phase(tokens=64, length=32, batch_rows=2, micro_rows=2)], corpus_characters=20_000,
        shape=ShapeConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1,
                          head_dim=16, intermediate_size=16),
    )  # fmt: skip
    pretrain.run(config)
    first = {"answerable_threshold": 0.4, "default_k": 3}
    settings = {"checkpoint": tmp_path / "run" / "latest", "export_dir": tmp_path / "out"}
    release(ReleaseConfig(**settings, grit=first))  # type: ignore[arg-type]
    (tmp_path / "out" / "README.md").write_text("card", encoding="utf-8")
    release(ReleaseConfig(**settings, grit={"default_k": 5}))  # type: ignore[arg-type]
    kept = json.loads((tmp_path / "out" / "grit_config.json").read_text(encoding="utf-8"))
    assert kept["answerable_threshold"] == 0.4 and kept["default_k"] == 5
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "card"
