"""Table 5: preference tuning after GRIT, by KTO and by DPO; what becomes of vectors, answers and refusals.

    python -m training.paper kto --model assets/gritlm-135m --data DATA --pairs 2000 --work runs/preferences

Preferences are made by rules from the training files (`training.prefer.pairs`), the questions below are of the
development files, and every model answers the same ones, so that differences are paired. A tuned model that lies in
`work` already is measured again and not trained again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from grit_app.benchmark.inputs.passages import PassagePool
from grit_app.benchmark.inputs.questions import Question, read_questions
from grit_app.benchmark.measure import quality
from grit_app.benchmark.show.paper import FOLDER
from grit_app.gritlm import GritLM
from grit_app.rag.strategies import REFERENCE
from training.mixture import answers
from training.mixture.corpus import Corpus, MixtureConfig
from training.paper import embedder, sets
from training.paper.recording import PaperSettings, Row, correlation_interval, mean_interval
from training.prefer.pairs import preferences
from training.prefer.tune import Method, PreferConfig, tune

METHODS: Final[tuple[Method, ...]] = ("kto", "dpo")
QUESTIONS: Final = 100
"""Where no limit is given."""

NEW_TOKENS: Final = 32


@dataclass(frozen=True)
class Measured:
    """One model: a value for each pair or question, and its rank correlation."""

    similarity: tuple[float, int]
    samples: dict[tuple[str, str], list[float]]
    """(set, metric) → one value a question, the same questions for every model."""


def run(
    model: str,
    data: Path,
    pairs: int = 2000,
    prompt_tokens: int = 512,
    limit: int | None = None,
    output: Path = FOLDER,
    work: Path = Path("runs/preferences"),
    device: str = "cpu",
    learning_rate: float = PreferConfig.learning_rate,
    seed: int = 0,
    again: bool = True,
) -> Path:
    """Tunes by both methods, measures before and after, and records the table."""
    settings = PaperSettings(model, data, limit, output, device)
    own = {"pairs": pairs, "prompt_tokens": prompt_tokens, "learning_rate": learning_rate, "seed": seed}
    notes: list[str] = []

    def measured(settings: PaperSettings) -> list[Row]:
        embedder.parity(settings.data)
        base = PreferConfig(
            model=model,
            output_dir=work,
            pairs=pairs,
            prompt_tokens=prompt_tokens,
            learning_rate=learning_rate,
            seed=seed,
            device="cuda" if device == "cuda" else "cpu",
        )
        systems = {"before": settings.model}
        for method in METHODS:
            folder = _tuned(replace(base, method=method, output_dir=work / settings.weights / method), settings, notes)
            systems[method.upper()] = GritLM.from_pretrained(folder, device=device)
        return rows({name: measure(each, settings) for name, each in systems.items()})

    return settings.record("kto", measured, again, options=own, notes=notes)


def _tuned(config: PreferConfig, settings: PaperSettings, notes: list[str]) -> Path:
    if not config.output_dir.is_dir():
        refusal = settings.model.config.refusal_sentence
        done = tune(config, preferences(training_rows(settings.data, config.seed), refusal, config.seed))
        notes.append(
            f"{config.method.upper()}: {done.steps} steps of {config.batch_size} rows over {done.pairs} pairs, "
            f"learning rate {config.learning_rate:g}, β {config.beta:g}, LoRA of rank {config.adapter.rank}, "
            f"seed {config.seed}."
        )
    return config.output_dir


def training_rows(data: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Questions over one passage, answered or refused, of the training part: the mixture's own rules."""
    mixture = MixtureConfig(data_dir=data / "train", output_dir=Path(), seed=seed, distractors=0)
    corpus = Corpus(mixture, held_out=False)
    return list(chain(answers.one_by_one(corpus), answers.hard_refusals(corpus)))


def measure(model: GritLM, settings: PaperSettings) -> Measured:
    """Vectors by mteb, answers and refusals through the app's own path."""
    encoder = embedder.GritEncoder(model, bool(model.config.retrieval_instruction))
    names = ("STSBenchmark", "SearchQuestions")
    found = embedder.evaluate(encoder, [sets.task(name, settings.data, settings.limit) for name in names])
    similarity = found["STSBenchmark"]
    path = settings.data / "dev" / "squadshifts_dev.jsonl.xz"
    questions = read_questions(path, settings.limit or QUESTIONS)
    samples = {("SearchQuestions", "ndcg_at_10"): found["SearchQuestions"].samples}
    return Measured((similarity.scores["cosine_spearman"], similarity.n), samples | _answers(model, questions))


def _answers(model: GritLM, questions: Sequence[Question]) -> dict[tuple[str, str], list[float]]:
    """F1 with the right passage, and whether the model refuses with it and with another question's."""
    setup = quality.Setup(passages="gold", mode="free", new_tokens=NEW_TOKENS)
    f1, answered, refused = [], [], []
    others = random.Random(0).sample(questions, len(questions))
    with PassagePool(model, [question.context for question in questions]) as pool:
        for question, other in zip(questions, others, strict=True):
            right = quality.ask(model, pool, question.question, REFERENCE, pool.hits([question.context]), setup)
            f1.append(quality.judge(right.text, question).f1)
            answered.append(float(right.answerable))
            if other.context != question.context and not quality.judge(other.context, question).match:
                wrong = quality.ask(model, pool, question.question, REFERENCE, pool.hits([other.context]), setup)
                refused.append(float(not wrong.answerable))
    return {("right passage", "f1"): f1, ("right passage", "answered"): answered, ("other passage", "refused"): refused}


def rows(measured: dict[str, Measured]) -> list[Row]:
    """A row for each set and system; differences against the first system are paired by question."""
    first = next(iter(measured.values()))
    made: list[Row] = []
    for system, own in measured.items():
        similarity: Row = {"table": "preferences", "task": "STSBenchmark", "metric": "spearman", "system": system}
        made.append(similarity | correlation_interval(*own.similarity))
    for key in first.samples:
        for system, own in measured.items():
            row: Row = {"table": "preferences", "task": key[0], "metric": key[1], "system": system}
            row |= mean_interval(own.samples[key])
            if own is not first:
                row["difference"] = mean_interval(np.subtract(own.samples[key], first.samples[key]).tolist())
            made.append(row)
    return made
