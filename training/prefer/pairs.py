"""Preferences made by rules from questions over passages: what is supported stands above what is not.

    supported   an answered question whose answer stands in its passages: its answer
                above  another question's answer that does not stand there   (rule `unsupported`)
                or     the refusal sentence                                  (rule `refused`)
    refused     a question that its passages do not answer: the refusal sentence
                above  another question's answer                             (rule `made_up`)

Rows are those of `training.data.formats` (rag): what `training.mixture` writes. A row with `prompt`, `chosen` and
`rejected` is a preference of somebody else's data and is taken as it is: a prompt is then a user's turn.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from training.config import TrainError
from training.mixture.corpus import holds

FALSE_REFUSALS: Final = 0.3
"""Share of the answered questions whose worse answer is the refusal: without them everything is refused in the end."""

ATTEMPTS: Final = 20


@dataclass(frozen=True)
class Preference:
    """One question with a better and a worse answer. Without passages the question is a user's whole turn."""

    question: str
    passages: tuple[str, ...]
    chosen: str
    rejected: str
    rule: str


def preferences(rows: Iterable[dict[str, Any]], refusal: str, seed: int = 0) -> list[Preference]:
    """One of each row that allows one, in an order drawn by the seed. Raises TrainError if there is none."""
    every = list(rows)
    rng = random.Random(seed)
    rng.shuffle(every)
    answers = [str(row["answer"]) for row in every if row.get("answer")]
    found = [_given(row) if "chosen" in row else _by_rule(row, refusal, answers, rng) for row in every]
    made = _balanced([each for each in found if each is not None])
    if not made:
        raise TrainError(
            "No preference can be made of these rows. They need question, passages and answer, or prompt, chosen and "
            "rejected; an answer must stand in its passages."
        )
    return made


def _balanced(made: Sequence[Preference]) -> list[Preference]:
    """As many questions to be refused as to be answered: more of one kind would teach to do that always."""
    most = min(sum(each.rule == "made_up" for each in made), sum(each.rule != "made_up" for each in made)) or len(made)
    counts = {True: 0, False: 0}
    kept = []
    for each in made:
        is_refused = each.rule == "made_up"
        counts[is_refused] += 1
        if counts[is_refused] <= most:
            kept.append(each)
    return kept


def _given(row: dict[str, Any]) -> Preference:
    return Preference(_text(row["prompt"]), (), _text(row["chosen"]), _text(row["rejected"]), "given")


def _text(value: Any) -> str:
    """A text, or the last message of a conversation in the form of the hub's preference sets."""
    return str(value[-1]["content"] if isinstance(value, list) else value)


def _by_rule(row: dict[str, Any], refusal: str, answers: Sequence[str], rng: random.Random) -> Preference | None:
    passages = tuple(row["passages"])
    is_answered = row.get("answerable", bool(row.get("gold")))
    wrong = _elsewhere(passages, answers, rng)
    if not is_answered:
        return Preference(row["question"], passages, refusal, wrong, "made_up") if wrong else None
    answer = str(row["answer"]).strip()
    if not holds(" ".join(passages), [answer]):
        return None
    if rng.random() < FALSE_REFUSALS:
        return Preference(row["question"], passages, answer, refusal, "refused")
    return Preference(row["question"], passages, answer, wrong, "unsupported") if wrong else None


def _elsewhere(passages: Sequence[str], answers: Sequence[str], rng: random.Random) -> str:
    """An answer that does not stand in the passages; empty if none was found."""
    text = " ".join(passages)
    for _ in range(ATTEMPTS if answers else 0):
        drawn = rng.choice(answers).strip()
        if drawn and not holds(text, [drawn]):
            return drawn
    return ""
