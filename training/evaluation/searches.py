"""Questions that need two passages, answered with and without the model's own searches.

    python -m training.evaluation.searches --model M --data DIR [--limit 60] [--k 2] [--searches 2] [--output OUT.json]

Two-hop questions are made from pairs of the development questions (`training.mixture.hops`), over the passages of
all of them and others of the file. Greedy, through the app's own path. Ways:

    one search          the question alone finds its k passages
    more passages       the question alone finds k · (searches + 1): as many as the model could find by itself
    own searches        the model may ask for further searches
    right passages      both passages given: the most that searching could bring

Scores are in percent, with 95 % intervals over questions; differences to "more passages" are paired.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jsonargparse import auto_cli

from grit_app.benchmark import environment
from grit_app.benchmark.inputs.passages import PassagePool
from grit_app.benchmark.inputs.questions import Question, read_rows
from grit_app.benchmark.measure.metrics import holds_answer, token_f1
from grit_app.doors import one_sentence
from grit_app.errors import InputError
from grit_app.gritlm import GritLM, Sampling
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Done, Event
from grit_app.rag.searching.loop import answer_searching
from training.mixture.hops import Hop, two_hop_questions
from training.mixture.records import answer_texts
from training.paper.recording import mean_interval

log = logging.getLogger(__name__)

FILE: Final = "dev/squadshifts_dev.jsonl.xz"
STRATEGY: Final = "docs_cache"
OTHERS: Final = 200
"""Passages of the file beside those of the questions."""

NEW_TOKENS: Final = 32
AGAINST: Final = "more passages"


@dataclass(frozen=True)
class Outcome:
    """One question answered in one way."""

    match: float
    f1: float
    found: float
    """Both passages were read."""

    searched: float
    """The model asked for at least one search."""

    prompt_tokens: int
    cached_tokens: int
    ms: float


def questions_of(data: Path, limit: int | None, seed: int = 0) -> tuple[list[Hop], list[str]]:
    """Two-hop questions, and other passages of the file. Raises InputError if there are none."""
    records = [row for row in read_rows(data / FILE) if answer_texts(row)]
    hops = two_hop_questions(records, random.Random(seed))
    if not hops:
        raise InputError(f"No two questions of {FILE} make one of two hops.")
    hops = hops[:limit]
    own = {record["context"] for hop in hops for record in (hop.first, hop.second)}
    others = sorted({record["context"] for record in records} - own)
    return hops, random.Random(seed).sample(others, min(OTHERS, len(others)))


def measure(
    model: GritLM, hops: Sequence[Hop], others: Sequence[str], k: int = 2, searches: int = 2
) -> list[dict[str, Any]]:
    """A row for each way and metric."""
    contexts = [record["context"] for hop in hops for record in (hop.first, hop.second)]
    ways: dict[str, list[Outcome]] = {}
    with PassagePool(model, [*contexts, *others]) as pool:
        for number, hop in enumerate(hops, 1):
            right = pool.hits([hop.first["context"], hop.second["context"]])
            options: dict[str, Any] = {"strategy": STRATEGY, "sampling": Sampling(max_new_tokens=NEW_TOKENS)}
            asked = (hop.question, pool.library, model)
            runs = {
                "one search": answer(*asked, k=k, mode="free", **options),
                AGAINST: answer(*asked, k=k * (searches + 1), mode="free", **options),
                "own searches": answer_searching(*asked, k=k, searches=searches, **options),
                "right passages": answer(*asked, mode="free", hits=right, **options),
            }
            for way, events in runs.items():
                ways.setdefault(way, []).append(_outcome(_answer_of(events), hop, pool))
            log.info("%d of %d questions", number, len(hops))
    return [row for way, outcomes in ways.items() for row in _rows(way, outcomes, ways[AGAINST])]


def _answer_of(events: Iterator[Event]) -> Answer:
    return next(event.answer for event in events if isinstance(event, Done))


def _outcome(found: Answer, hop: Hop, pool: PassagePool) -> Outcome:
    question = Question(hop.question, hop.second["context"], tuple(answer_texts(hop.second)))
    read = {pool.text_of(citation.hit) for citation in found.citations}
    return Outcome(
        match=float(holds_answer(found.text, question.answers)),
        f1=token_f1(found.text, question.answers),
        found=float({hop.first["context"], hop.second["context"]} <= read),
        searched=float(bool(found.searches)),
        prompt_tokens=found.prompt_tokens,
        cached_tokens=found.cached_tokens,
        ms=found.timings_ms["total"],
    )


def _rows(way: str, outcomes: Sequence[Outcome], against: Sequence[Outcome]) -> Iterator[dict[str, Any]]:
    for metric in ("match", "f1", "found", "searched"):
        values = [100 * getattr(one, metric) for one in outcomes]
        row: dict[str, Any] = {"way": way, "metric": metric} | mean_interval(values)
        if outcomes is not against:
            before = [100 * getattr(one, metric) for one in against]
            row["difference"] = mean_interval(np.subtract(values, before).tolist())
        yield row
    for metric in ("prompt_tokens", "cached_tokens", "ms"):
        yield {"way": way, "metric": metric} | mean_interval([float(getattr(one, metric)) for one in outcomes])


def run(
    model: str,
    data: Path,
    limit: int | None = 60,
    k: int = 2,
    searches: int = 2,
    device: str = "cpu",
    seed: int = 0,
    output: Path | None = None,
) -> None:
    """Measures and prints; `output` also gets the rows, with machine and settings."""
    hops, others = questions_of(data, limit, seed)
    loaded = GritLM.from_pretrained(model, device=device)
    rows = measure(loaded, hops, others, k, searches)
    for row in rows:
        difference = row.get("difference")
        told = (
            f"   {difference['value']:+.1f} ({difference['low']:+.1f} … {difference['high']:+.1f})"
            if difference
            else ""
        )
        print(f"{row['way']:16} {row['metric']:14} {row['value']:8.1f} ({row['low']:.1f} … {row['high']:.1f}){told}")
    if output is not None:
        settings = {"model": Path(model).name, "questions": len(hops), "k": k, "searches": searches, "seed": seed}
        body = settings | {"environment": environment.describe(loaded), "rows": rows}
        output.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_sentence():
        auto_cli(run, as_positional=False)


if __name__ == "__main__":
    main()
