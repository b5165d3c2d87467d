"""Fits the weights of `grit_app.rag.quotes.spans` on questions whose answers stand in their passages.

    python -m training.fit.spans --files data/train/qa_squadshifts.jsonl.xz,data/train/qa_qamr.jsonl.xz
                                 --without squadshifts_amazon_reviews,squadshifts_reddit
                                 --held_out data/dev/squadshifts_dev.jsonl.xz

Loss: −log of the expected F1 of a span drawn from the softmax of the scores over the spans of the sentence that holds
the answer. Prints the F1 of the best span, and writes the weights' file with the checksum that the module must name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jsonargparse import ArgumentParser
from torch import Tensor

from grit_app.benchmark.inputs.questions import Question, read_questions
from grit_app.benchmark.measure.metrics import holds_answer, token_f1
from grit_app.rag.quotes.sentences import sentences_of
from grit_app.rag.quotes.spans import FEATURES, FILE, features
from grit_app.rag.quotes.spans import weights as served_weights

Row = tuple[Tensor, Tensor]


def prepare(questions: Sequence[Question]) -> list[Row]:
    """(features [n, f] float16, F1 [n]) of the spans of each question's sentence; none where no span is right."""
    rows = []
    for question in questions:
        sentence = next((s for s in sentences_of([question.context]) if holds_answer(s.text, question.answers)), None)
        if sentence is None:
            continue
        places, values = features(question.question, sentence.text)
        f1 = torch.tensor([token_f1(sentence.text[a:b], question.answers) for a, b in places])
        if len(places) and f1.max() > 0.5:
            rows.append((torch.from_numpy(values).half(), f1))
    return rows


def fit(rows: Sequence[Row], epochs: int = 30, batch: int = 64, decay: float = 1e-4, seed: int = 0) -> Tensor:
    """Weights [f], by Adam."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(len(FEATURES), requires_grad=True)
    steps = epochs * (len(rows) // batch + 1)
    optimizer = torch.optim.Adam([weights], lr=0.03)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    for _ in range(epochs):
        for picks in torch.randperm(len(rows), generator=generator).split(batch):
            loss = decay * weights.square().sum() * 10
            for pick in picks.tolist():
                x, f1 = rows[pick]
                loss = loss - ((x.float() @ weights).softmax(0) @ f1).clamp_min(1e-4).log() / len(picks)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return weights.detach()


def mean_f1(rows: Sequence[Row], weights: Tensor) -> float:
    """F1 of the best span, in percent."""
    return 100 * float(np.mean([float(f1[int((x.float() @ weights).argmax())]) for x, f1 in rows]))


def file_of(weights: Sequence[float]) -> str:
    """The weights' file: a feature a line."""
    lines = (f"  {json.dumps(name)}: {weight:.2f}" for name, weight in zip(FEATURES, weights, strict=True))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--files", required=True, help="question files to fit on, separated by commas")
    parser.add_argument("--held_out", default="", help="question files to report on, separated by commas")
    parser.add_argument("--without", default="", help="sources that are left out, separated by commas")
    parser.add_argument("--limit", type=int, default=6000, help="about how many questions are used")
    arguments = parser.parse_args()
    without = arguments.without.split(",")
    questions = [q for name in arguments.files.split(",") for q in read_questions(Path(name), None)]
    rows = prepare([q for q in questions if q.source not in without][:: max(1, len(questions) // arguments.limit)])
    weights = fit(rows)
    print(f"{len(rows)} questions, right sentence given: F1 of the best span {mean_f1(rows, weights):.1f}")
    for name in filter(None, arguments.held_out.split(",")):
        held_out = prepare(read_questions(Path(name), arguments.limit, seed=0))
        module = mean_f1(held_out, torch.from_numpy(served_weights()))
        print(
            f"{Path(name).name}: {len(held_out)} questions; module {module:.1f}, these {mean_f1(held_out, weights):.1f}"
        )
    text = file_of(weights.tolist())
    FILE.write_text(text, encoding="utf-8")
    print(f"{FILE.name} is written; in spans.py: SHA256 = {hashlib.sha256(text.encode()).hexdigest()!r}")


if __name__ == "__main__":
    main()
