"""A document as the search sees it: its passages in their order, without a question."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

from grit_app.documents.library import Hit, Library
from grit_app.ui.documents import sources
from grit_app.ui.documents.answers import Turn
from grit_app.ui.documents.library_view import plural

NUMBER = 0
"""Of the turn that it takes the place of: answers are counted from 1."""

MOST_SHOWN = 200
MOST_COUNTED = 2_000_000
"""Characters of a text whose tokens are counted: more take seconds."""


@dataclass(frozen=True)
class Listing(Turn):
    """What stands in the place of an answer's sources."""

    facts: str = ""
    document_id: str = ""

    def cards(self, chosen: int | None) -> str:
        return sources.listing(self.document_id, self.facts, self.hits, chosen)


def listing(library: Library, document_id: str) -> Listing:
    """The first passages of a document. Raises DocumentError if it is not in the library any more."""
    document, chunks = library.document(document_id), library.chunks(document_id)
    info = next(one for one in library.documents() if one.id == document_id)
    facts = [document.name, plural(len(document.pages), "page"), plural(len(chunks), "passage")]
    if len(document.text) <= MOST_COUNTED:
        ids = library.model.tokenizer.encode(document.text, add_special_tokens=False)
        facts.append(plural(len(ids), "token"))
    facts.append(time.strftime("added on %Y-%m-%d at %H:%M", time.localtime(info.added)))
    if len(chunks) > MOST_SHOWN:
        facts.append(f"the first {MOST_SHOWN} are shown")
    hits = [Hit(chunk, 0.0, 0.0, 0.0, "both") for chunk in chunks[:MOST_SHOWN]]
    return Listing(NUMBER, hits, [], 0, facts=" · ".join(facts), document_id=document_id)


def as_json(library: Library, document_id: str) -> str:
    """All passages of a document with their pages and headings, for other programs."""
    document = library.document(document_id)
    passages = [
        {"page": chunk.page_label, "heading": chunk.heading, "text": chunk.text}
        for chunk in library.chunks(document_id)
    ]
    return json.dumps({"name": document.name, "passages": passages}, ensure_ascii=False, indent=1)
