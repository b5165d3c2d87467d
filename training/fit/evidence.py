"""Fits the weights of `grit_app.rag.quotes.evidence` on questions whose answers stand in their passages.

    python -m training.fit.evidence --files data/train/qa_squadshifts.jsonl.xz,data/train/qa_fairytale.jsonl.xz
                                    --held_out data/dev/squadshifts_dev.jsonl.xz

Loss: −log of the probability, under a softmax of the scores over a passage's sentences, that falls on sentences which
hold the answer. Prints the weights as they stand in the module, and how often the best sentence holds the answer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jsonargparse import ArgumentParser
from numpy.typing import NDArray

from grit_app.benchmark.inputs.questions import Question, read_questions
from grit_app.benchmark.measure.metrics import holds_answer
from grit_app.rag.quotes.evidence import FEATURES, WEIGHTS, features
from grit_app.rag.quotes.sentences import sentences_of

Array = NDArray[np.float64]


def prepare(questions: Sequence[Question]) -> list[tuple[Array, NDArray[np.bool_]]]:
    """(features [n, f], holds the answer [n]) for each question that one of several sentences answers."""
    rows = []
    for question in questions:
        sentences = sentences_of([question.context])
        holds = np.array([holds_answer(sentence.text, question.answers) for sentence in sentences])
        if len(sentences) > 1 and holds.any():
            rows.append((features(question.question, sentences), holds))
    return rows


def fit(rows: Sequence[tuple[Array, NDArray[np.bool_]]], epochs: int = 12, seed: int = 0) -> Array:
    """Weights [f] for the features as they are, by Adam over standardised features."""
    scale = np.concatenate([x for x, _ in rows]).std(axis=0) + 1e-6
    weights, first, second, step = np.zeros(len(FEATURES)), 0.0, 0.0, 0
    order, generator = list(rows), random.Random(seed)
    for _ in range(epochs):
        generator.shuffle(order)
        for at in range(0, len(order), 64):
            batch = order[at : at + 64]
            gradient = np.mean([_gradient(x / scale, holds, weights) for x, holds in batch], axis=0)
            step += 1
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            weights = weights + 0.03 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return np.asarray(weights / scale)


def accuracy(rows: Sequence[tuple[Array, NDArray[np.bool_]]], weights: Array) -> float:
    """Share of questions whose best sentence holds the answer."""
    return float(np.mean([holds[int((x @ weights).argmax())] for x, holds in rows]))


def _gradient(x: Array, holds: NDArray[np.bool_], weights: Array) -> Array:
    scores = x @ weights
    p = np.exp(scores - scores.max())
    p /= p.sum()
    target = p * holds
    return np.asarray(x.T @ (target / max(target.sum(), 1e-12) - p))


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--files", required=True, help="question files to fit on, separated by commas")
    parser.add_argument("--held_out", default="", help="question files to report on, separated by commas")
    parser.add_argument("--limit", type=int, default=6000, help="questions of each file")
    arguments = parser.parse_args()
    rows = [
        row
        for name in arguments.files.split(",")
        for row in prepare(read_questions(Path(name), arguments.limit, seed=0))
    ]
    weights = fit(rows)
    print(f"{len(rows)} questions; best sentence holds the answer: {accuracy(rows, weights):.1%}")
    for name in filter(None, arguments.held_out.split(",")):
        held_out = prepare(read_questions(Path(name), arguments.limit, seed=0))
        words = accuracy(held_out, np.eye(len(FEATURES))[0])
        print(
            f"{Path(name).name}: {len(held_out)} questions; words alone {words:.1%}, "
            f"weights of the module {accuracy(held_out, WEIGHTS):.1%}, these weights {accuracy(held_out, weights):.1%}"
        )
    print("WEIGHTS = np.array([" + ", ".join(f"{weight:.2f}" for weight in weights) + "])")


if __name__ == "__main__":
    main()
