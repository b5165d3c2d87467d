"""Questions that follow on earlier ones, rewritten so that they stand for themselves.

    "When is the museum open?"   "And on Thursdays?"      → "When is the museum open on Thursdays?"
    "Who designed the tower?"    "When was it finished?"  → "When was the tower finished?"
    "How deep is the harbour?"   "Why?"                   → "How deep is the harbour? Why?"

By rules alone: a question depends on the one before if it opens as a continuation, if it is only a question word, or
if a pronoun in it has nothing in the question itself to stand for. What no rule can put in its place is read behind
the earlier question, which search and model both understand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Turn:
    """An earlier question, as it was read, and its answer."""

    question: str
    answer: str = ""


_OPENING: Final = re.compile(
    r"^(?:and|but|or|so|also|then|what about|how about|and what about|und|aber|oder|et|mais|y|pero)\b[\s,]*",
    re.IGNORECASE,
)
_BARE: Final = re.compile(
    r"^(?:why|how|when|where|who|which(?: ones?)?|how so|how come|why not|since when|until when|by whom|in what way|"
    r"how (?:many|much|long|often|old|far)|for example|such as|what else|who else|where else|tell me more|go on|"
    r"warum|wann|wo|wer|pourquoi|quand|où|qui)\W*$",
    re.IGNORECASE,
)
_PREPOSITION: Final = (
    "on|in|at|for|from|to|with|by|during|after|before|until|since|under|over|between|within|without|of|about|"
    "near|as|am|an|im|für|mit|bei|nach|vor"
)
_WITH_PREPOSITION: Final = re.compile(rf"^(?:{_PREPOSITION})\b", re.IGNORECASE)
_THING: Final = re.compile(
    r"\b(?:it|its|they|them|their|theirs|this|that|these|those|itself|themselves)\b", re.IGNORECASE
)
_PERSON: Final = re.compile(r"\b(?:he|him|his|she|her|hers)\b", re.IGNORECASE)
_POSSESSIVE: Final = {"its", "their", "theirs", "his", "her", "hers"}
_DETERMINES: Final = re.compile(r"\b(?:this|that|these|those)\s+[a-zäöüß]+", re.IGNORECASE)
_IMPERSONAL: Final = re.compile(
    r"\b(?:is|was|does|will|would|can|could|should|may|might|did)\s+it\s+(?:take|cost|mean|matter|rain|possible|true|"
    r"necessary|important|allowed|legal|safe|likely)\b|\bit is\b|\bthat (?:is|are|was|were|has|have)\b",
    re.IGNORECASE,
)
_NAME: Final = re.compile(
    r"(?<![.?!]\s)(?<!^)\b[A-Z][\w'’-]+(?:\s+(?:of|the|de|van|von|[A-Z][\w'’-]+))*\s*[A-Z]?[\w'’-]*"
)
_NOUN: Final = re.compile(
    r"\b(?:the|a|an|this|that|my|our|your)\s+((?:[\w'’-]+\s+){0,2}?[\w'’-]+)"
    r"(?=\s+(?:is|are|was|were|be|been|have|has|had|do|does|did|can|could|will|would|should|may|might|must|open|close|"
    rf"begin|start|end|take|took|cost|work|live|rise|reach|hold|make|made|come|go|{_PREPOSITION})\b|\W*$|,)",
    re.IGNORECASE,
)


_OWN_THING: Final = re.compile(
    r"\b(?:the|a|an|this|that|my|our|your)\s+\w|^(?!(?:who|whom|whose|what|when|where|why|which|how|is|are|was|were|do|"
    r"does|did|can|could|will|would|should|has|have|had|may|must|in|on|at|for|by|to|of|with|from|it|its|they|them|their|tell|show|explain|describe|give|name|list|say)"
    r"\b)[A-Z]",
    re.IGNORECASE,
)
"""A thing that the question itself names before its pronoun: a noun with an article, or its first word."""


def rewrite(question: str, turns: Sequence[Turn]) -> str:
    """The question as it reads by itself; unchanged if it does so already, or if nothing came before."""
    before = turns[-1].question.strip() if turns else ""
    if not before:
        return question
    opening = _OPENING.match(question)
    rest = question[opening.end() :].strip() if opening else question
    if opening and not _is_whole_question(rest):
        return _continued(before, rest or question)
    if _BARE.match(rest):
        return f"{_ended(before)} {_capital(rest)}"
    return _resolved(rest if opening else question, turns[-1])


def _continued(before: str, rest: str) -> str:
    """`And on Thursdays?` behind a question: in the place of its own phrase with that preposition, else at its end."""
    addition = rest.rstrip(" ?.!")
    if not _WITH_PREPOSITION.match(addition):
        return f"{_ended(before)} And {addition}?"
    preposition = addition.split()[0]
    stem = before.rstrip(" ?.!")
    own = re.compile(rf"\s+{preposition}\s+(?:the\s+|a\s+)?[\w'’.,:-]+(?:\s+[\w'’.:-]+)?$", re.IGNORECASE)
    return f"{own.sub('', stem)} {addition}?"


def _resolved(question: str, turn: Turn) -> str:
    """The question with its first pronoun replaced by what the earlier question is about."""
    pronoun = _PERSON.search(question) or _free_thing(question)
    if pronoun is None:
        return question
    is_person = _PERSON.fullmatch(pronoun[0]) is not None
    subject = _person_of(turn) if is_person else _subject_of(turn.question)
    if not subject:
        return f"{_ended(turn.question)} {question}"
    behind = question[pronoun.end() :]
    ending = "'s" if pronoun[0].lower() in _POSSESSIVE and re.match(r"\s+\w", behind) else ""
    return _capital(f"{question[: pronoun.start()]}{subject}{ending}{behind}")


def _free_thing(question: str) -> re.Match[str] | None:
    """The first pronoun for a thing, unless the question itself says what it stands for."""
    if _IMPERSONAL.search(question):
        return None
    for found in _THING.finditer(question):
        if _DETERMINES.match(question, found.start()):  # "this report": a pronoun with its noun
            continue
        if _NAME.search(question[: found.start()]) or _OWN_THING.search(question[: found.start()]):
            return None
        return found
    return None


def _subject_of(question: str) -> str:
    """What a question is about: its last name, or its last noun with an article."""
    names = [match for match in _NAME.finditer(question) if match.start() > 0]
    nouns = list(_NOUN.finditer(question))
    if names:
        start = names[-1].start()
        article = re.search(r"\b(the)\s+$", question[:start], re.IGNORECASE)
        return f"the {names[-1][0].strip()}" if article else names[-1][0].strip()
    return f"the {nouns[0][1]}" if nouns else ""


def _person_of(turn: Turn) -> str:
    """A person: named in the earlier question, else in its answer."""
    in_question = [match for match in _NAME.finditer(turn.question) if match.start() > 0]
    if in_question and not re.match(r"\s*who\b", turn.question, re.IGNORECASE):
        return in_question[-1][0].strip()
    in_answer = re.search(r"\b[A-Z][\w'’-]+(?:\s+(?:de|van|von|[A-Z][\w'’-]+))*\b", _without_article(turn.answer))
    return in_answer[0] if in_answer else ""


def _without_article(text: str) -> str:
    return re.sub(r"^(?:the|a|an|it|he|she|they|in|on|at)\s+", "", text.strip(), flags=re.IGNORECASE)


def _is_whole_question(text: str) -> bool:
    """`And when was it built?`: a question of its own behind the opening word."""
    return re.match(
        r"(?:who|whom|whose|what|when|where|why|which|how|is|are|was|were|do|does|did|can|could|will|would|should|has|"
        r"have|had|may|must|wer|was|wann|wo|warum|wie|welche\w*|qui|quand|où|pourquoi|comment|combien)\b[^?]*\s\S+",
        text,
        re.IGNORECASE,
    ) is not None and not _BARE.match(text)


def _ended(question: str) -> str:
    return question if question.rstrip().endswith(("?", ".", "!")) else f"{question.rstrip()}?"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
