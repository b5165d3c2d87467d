"""The words in which a model asks for another search while it answers, and is told what was searched for.

    passages …          from their KV caches, as in any answer
    question
    OFFER               the model may answer, or write search(what to look for) alone
    Searched for: a | b what it has asked for so far; the passages found stand above

What it writes is one of two things: an answer, or `search(…)` on its first line. The offer is part of the question's
text, so a prompt in this protocol is an ordinary one over cached passages, and is trained as such rows
(`training.mixture.searches`). Without the offer the model is never taken at its word.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

OFFER: Final = "If the context lacks something that is needed, answer only with search(what to look for)."
SEARCHED: Final = "Searched for: "
OPENING: Final = "search("
MOST_CHARACTERS: Final = 300
"""Of a query; what is longer is a model that does not stop."""

_CALL: Final = re.compile(r"\s*search\(\s*[\"'“]?(.+?)[\"'”]?\s*\)?\s*$")


def offered(question: str, searches: Sequence[str] = ()) -> str:
    """The question with the offer to search, and what was searched for so far."""
    lines = [question.strip(), OFFER]
    if searches:
        lines.append(SEARCHED + " | ".join(searches))
    return "\n".join(lines)


def call(query: str) -> str:
    """How the model asks for a search."""
    return f"{OPENING}{' '.join(query.split())})"


def query_in(text: str) -> str | None:
    """What an answer asks to be searched for; None if it is an answer."""
    found = _CALL.match(text.lstrip().split("\n", 1)[0])
    query = found[1].strip() if found else ""
    return query[:MOST_CHARACTERS] if any(character.isalnum() for character in query) else None


def may_become_call(beginning: str) -> bool:
    """Whether an answer that begins so can still turn out to ask for a search."""
    start = beginning.lstrip()[: len(OPENING)]
    return OPENING.startswith(start)
