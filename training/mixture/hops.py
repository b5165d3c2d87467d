"""Questions that need two passages, made from two that need one.

    Who wrote the treaty?  → "Ann Lee"       Where was Ann Lee born?  → "Bergen"
    In answer to "Who wrote the treaty?": where was that born?

An answer of the first question stands by name in the second; there it is replaced by words that point to the first. The
name is then nowhere in the question, so the second passage can hardly be found before the first one was read.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from training.mixture.records import Record, answer_texts

NAME_CHARACTERS = (4, 40)
NAME_WORDS = 4
MOST_PER_NAME = 6
"""Questions that one name bridges: a few names are asked about everywhere."""

POINTER = 'the answer to "{question}"'


@dataclass(frozen=True)
class Hop:
    """A question over two passages."""

    question: str
    first: Record
    second: Record
    """Its own question names what the first one asks for."""


def two_hop_questions(records: Sequence[Record], rng: random.Random) -> list[Hop]:
    """Every second question at most once, each name at most `MOST_PER_NAME` times.

    Both questions are of one article: elsewhere the same name is often another thing.
    """
    named: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        for name in dict.fromkeys(text.strip() for text in answer_texts(record)):
            if _is_name(name):
                named[name].append(record)
    hops, used = [], defaultdict[str, int](int)
    for second in rng.sample(list(records), len(records)):
        for name in _runs(second["question"]):
            firsts = [
                one for one in named.get(name, []) if _is_same_article(one, second) and _are_apart(one, second, name)
            ]
            if not firsts or used[name] >= MOST_PER_NAME:
                continue
            first = rng.choice(firsts)
            used[name] += 1
            hops.append(Hop(_joined(first["question"], second["question"], name), first, second))
            break
    return hops


def _is_same_article(first: Record, second: Record) -> bool:
    return bool(first.get("title")) and first.get("title") == second.get("title")


def _are_apart(first: Record, second: Record, name: str) -> bool:
    """Two passages, neither answering the other's question, and the name asked for in the first alone."""
    same = first["context"] == second["context"]
    told = any(name.lower() in text.lower() for text in answer_texts(second))
    return not same and not told and name.lower() not in first["question"].lower()


def _joined(first: str, second: str, name: str) -> str:
    pointer = POINTER.format(question=first.strip())
    return re.sub(rf"(?:\b[Tt]he )?(?<!\w){re.escape(name)}(?!\w)", lambda _: pointer, second.strip(), count=1)


def _is_name(text: str) -> bool:
    low, high = NAME_CHARACTERS
    return low <= len(text) <= high and text[0].isupper() and len(text.split()) <= NAME_WORDS


def _runs(question: str) -> list[str]:
    """Runs of words that begin with a capital and have none beside them, longest first."""
    words = re.findall(r"[\w'’.-]*\w", question)
    found = []
    for length in range(NAME_WORDS, 0, -1):
        for start in range(len(words) - length + 1):
            before, after = words[max(1, start - 1) : start], words[start + length : start + length + 1]
            # "New Scotland Yard" does not name Scotland; a question's first word has its capital anyway.
            is_whole = not any(word[0].isupper() for word in (*before, *after))
            if words[start][0].isupper() and is_whole:
                found.append(" ".join(words[start : start + length]))
    return [name for name in found if name in question]
