"""From a question to the passages that are read for it, and whether they can answer it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grit_app.documents.chunking import Chunk
from grit_app.documents.library import Hit, Library, Mode
from grit_app.gritlm.errors import InputError
from grit_app.gritlm.grit_config import GritConfig

_DOCUMENT = r"(document|text|paper|file|report|article|book|pdf|manual|brochure|guide|study|page)s?"
_GENERAL = re.compile(
    r"\b(summar(y|i[sz]e)|overview|tl;?dr|gist|takeaways?)\b"
    r"|\bwhat('s| is| are| was| were)? ?(this|that|it|they|these|those|the)?( \w+){0,2} about\b"
    r"|\b(main|key|central) (topic|point|idea|message|subject|theme|finding)s?\b"
    rf"|\b(topic|subject|purpose) of (this|the) {_DOCUMENT}\b"
    rf"|\bwhat kind of {_DOCUMENT} is\b"
    rf"|\b(describe|explain) (this|the) {_DOCUMENT}\b"
    rf"|\btell me (more )?about (this|the) {_DOCUMENT}\W*$"
    rf"|\bwhat do(es)? (this|the|it)( {_DOCUMENT})? (say|contain|cover|discuss|describe|tell( me| us)?)\W*$"
    rf"|\bwhat('s| is) in (this|the) {_DOCUMENT}\W*$"
    rf"|^\W*what('s| is) (this|it)( {_DOCUMENT})?\W*$"
    r"|\b(worum (geht|handelt)|wovon handelt|zusammenfassung|überblick|fass\w*\b.*\bzusammen)\b"
    r"|\b(de quoi (parle|traite|s['’]agit|il s['’]agit)|résume[rz]?)\b|\bde qué (trata|habla)|\bresum(e|ir|en)\b"
    r"|总结|概述|概括|主要内容|讲了什么|关于什么|要約|概要|ملخص|لخص|عم يتحدث|περίληψη|о ч[её]м",
    re.IGNORECASE,
)
_OWN_SUBJECT = re.compile(r"\babout\s+\S", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """Passages, best first."""

    hits: tuple[Hit, ...]
    is_general: bool
    """The question is about a document as a whole; its opening comes first."""

    is_given: bool = False
    """The caller chose the passages."""

    is_whole: bool = False
    """They are a document from its beginning to its end."""

    @property
    def score(self) -> float:
        """The best passage's retrieval score; 0 without passages."""
        return max((hit.score for hit in self.hits), default=0.0)


def is_general(question: str) -> bool:
    """Whether a question asks about a document as a whole: what it is about, a summary, its main point."""
    match = _GENERAL.search(question)
    if match is None:
        return False
    # "What does the report say about schools?" has a subject of its own.
    return not (match[0].lower().endswith("about") and _OWN_SUBJECT.search(question[match.end() - len("about") :]))


def may_answer(found: Found, config: GritConfig) -> bool:
    """Whether the passages are worth reading for the question.

    Their retrieval score must reach the checkpoint's threshold. A document as a whole can always be asked about, and
    passages that the caller chose are read whatever their score.
    """
    if found.is_given or (found.is_general and found.hits):
        return True
    return bool(found.hits) and found.score >= config.answerable_threshold


def answerable(found: Found, text: str, config: GritConfig) -> bool:
    """The one definition: the passages may answer, and the answer is not the checkpoint's refusal."""
    return bool(text.strip()) and may_answer(found, config) and not is_refusal(text, config)


def is_refusal(text: str, config: GritConfig) -> bool:
    """Whether an answer is, or opens with, the checkpoint's refusal sentence."""
    refusal = _plain(config.refusal_sentence)
    return bool(refusal) and _plain(text).startswith(refusal)


def retrieve(
    library: Library,
    question: str,
    vector: NDArray[np.float32],
    k: int,
    documents: Sequence[str] | None = None,
    mode: Mode = "hybrid",
) -> Found:
    """The k passages to read. For a question about a document as a whole: openings first, then the nearest."""
    hits = library.search(vector, question, k, documents, mode)
    if not is_general(question):
        return Found(tuple(hits), is_general=False)
    known = [info.id for info in library.documents() if documents is None or info.id in documents]
    # The documents nearest to the question first, so that a small k opens those.
    ranked = list(dict.fromkeys([*(hit.chunk.document_id for hit in hits), *known]))[:k]
    openings = [_opening(library, vector, question, document, mode) for document in ranked]
    chosen = {hit.chunk.id: hit for hit in (*openings, *hits)}
    return Found(tuple(chosen.values())[:k], is_general=True)


def whole_document(
    library: Library, question: str, vector: NDArray[np.float32], documents: Sequence[str] | None
) -> Found:
    """All passages of one document, in its own order, with their retrieval scores. Raises InputError for several."""
    known = [info for info in library.documents() if documents is None or info.id in documents]
    if len(known) != 1:
        raise InputError(
            f"One document can be read as a whole, and {len(known)} are chosen. Choose one, or ask about passages."
        )
    chunks = library.chunks(known[0].id)
    found = {hit.chunk.id: hit for hit in library.search(vector, question, len(chunks), [known[0].id])}
    hits = [found.get(chunk.id) or Hit(chunk, 0.0, 0.0, 0.0, "both") for chunk in chunks]
    return Found(tuple(hits), is_general=is_general(question), is_given=True, is_whole=True)


def _opening(library: Library, vector: NDArray[np.float32], question: str, document_id: str, mode: Mode) -> Hit:
    """The document's first passage with running text, with its retrieval score."""
    chunks = library.chunks(document_id)
    first = next((chunk for chunk in chunks[:3] if _reads_as_text(chunk)), chunks[0])
    found = library.search(vector, question, len(chunks), [document_id], mode)
    return next((hit for hit in found if hit.chunk.id == first.id), Hit(first, 0.0, 0.0, 0.0, "both"))


def _reads_as_text(chunk: Chunk) -> bool:
    """Not a title page or a table of contents: most characters are letters and spaces, in a fair number of words."""
    text = chunk.text
    plain = sum(character.isalpha() or character == " " for character in text)
    return len(text.split()) >= 15 and plain / len(text) > 0.8


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\W+", " ", text.lower()).split())
