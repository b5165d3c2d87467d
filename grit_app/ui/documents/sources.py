"""Sources as HTML: passage cards in citation order, and the page picture with the passage boxed.

Everything is escaped: passages are other people's text. Pictures travel inside the page as data, so that no image of a
visitor's document lies in a folder that is served.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Final

from grit_app.documents.library import Hit
from grit_app.documents.read.pictures import Picture
from grit_app.ui.base.handlers import escape

SCRIPT: Final = """
const open = (reference) => { trigger('cite', {ref: reference}); };
element.addEventListener('click', (event) => {
  const card = event.target.closest('[data-cite]');
  if (card) { open(card.dataset.cite); }
  const save = event.target.closest('[data-save]');
  if (save) { trigger('save', {id: save.dataset.save}); }
});
if (!window.gritCites) {
  window.gritCites = true;
  document.addEventListener('click', (event) => {
    const link = event.target.closest('a[href^="#cite-"]');
    if (link) { event.preventDefault(); window.gritOpenCite(link.getAttribute('href').slice(6)); }
    const race = event.target.closest('a[href^="#race-"]');
    if (race) { event.preventDefault(); window.gritRace(race.getAttribute('href').slice(6)); }
    const next = event.target.closest('a[href="#ask-next"]');
    if (next) { event.preventDefault(); window.gritAskNext(next.textContent); }
  });
}
window.gritOpenCite = open;
window.gritRace = (number) => { trigger('race', {number}); };
window.gritAskNext = (question) => { trigger('next', {question}); };
"""
"""A click on a card, or on a [n] in the conversation, asks for that passage. References are checked on the server."""

FOUND_BY: Final = {
    "vectors": "found by meaning",
    "keywords": "found by words",
    "both": "found by meaning and words",
    "opening": "the document's opening",
}
PICTURE_WIDTH: Final = 1000
AROUND: Final = 4000
"""Characters of a text that are shown before and behind the passage."""


def cards(
    turn: int, hits: Sequence[Hit], marks: Sequence[Sequence[tuple[int, int]]], cited: int, chosen: int | None
) -> str:
    """The passages of one answer.

    hits     in citation order: the first `cited` ones carry the numbers that occur in the answer
    marks    for each hit the character spans of its text that the answer rests on
    chosen   position of the passage whose page is shown, if any
    """
    if not hits:
        return '<p class="quiet">No passages.</p>'
    items = "".join(
        _card(turn, i, hit, marks[i] if i < len(marks) else (), i < cited, i == chosen) for i, hit in enumerate(hits)
    )
    return f'<ol class="cards">{items}</ol>'


def listing(document_id: str, facts: str, hits: Sequence[Hit], chosen: int | None) -> str:
    """The passages of one document, in its order. `facts`: a line about it."""
    head = (
        f'<div class="part-row"><span class="quiet">{escape(facts)}</span><button type="button" class="plain-button" '
        f'data-save="{escape(document_id)}">Save as JSON</button></div>'
    )
    items = "".join(_card(0, i, hit, (), True, i == chosen, _by_ocr(hit)) for i, hit in enumerate(hits))
    return f'{head}<ol class="cards">{items}</ol>'


def _card(
    turn: int,
    position: int,
    hit: Hit,
    marks: Sequence[tuple[int, int]],
    is_cited: bool,
    is_chosen: bool,
    facts: str | None = None,
) -> str:
    """`facts`: what is told under its head; None: score and how it was found."""
    chunk, number = hit.chunk, position + 1
    classes = "card" + (" cited" if is_cited else "") + (" chosen" if is_chosen else "")
    heading = f'<span class="card-heading">{escape(chunk.heading)}</span>' if chunk.heading else ""
    return (
        f'<li class="{classes}" id="source-{turn}-{number}">'
        f'<button type="button" class="card-head" data-cite="{turn}-{number}" aria-pressed="{str(is_chosen).lower()}">'
        f'<span class="number">[{number}]</span>'
        f'<span class="file" title="{escape(chunk.document_name)}">{escape(chunk.document_name)}</span>'
        f'<span class="page">{escape(page_words(chunk.page_label, chunk.pages))}</span></button>'
        f'<div class="card-facts">{_found(hit) if facts is None else facts}</div>'
        f"{heading}<p>{marked(chunk.text, marks)}</p></li>"
    )


def _found(hit: Hit) -> str:
    score = min(1.0, max(0.0, float(hit.score)))
    return (
        '<span class="score" title="Retrieval score, 0 to 1"><span class="bar" aria-hidden="true">'
        f'<span style="width:{100 * score:.0f}%"></span></span>{score:.2f}</span>'
        f"<span>{escape(FOUND_BY.get(hit.found_by, hit.found_by))}</span>{_by_ocr(hit)}"
    )


def _by_ocr(hit: Hit) -> str:
    return "<span>read by OCR</span>" if hit.chunk.by_ocr else ""


def page_words(label: str, pages: Sequence[int]) -> str:
    """ "p. 4", and where the label is not the position in the file, "p. iv (4th in the file)" in words."""
    first = pages[0] + 1 if pages else 1
    if label == str(first) or not label:
        return f"p. {first}"
    return f"p. {label} (page {first} of the file)"


def marked(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text as HTML with the spans highlighted; overlapping spans are joined."""
    parts, end = [], 0
    for start, stop in sorted((max(0, a), min(len(text), b)) for a, b in spans):
        start = max(start, end)
        if start >= stop:
            continue
        parts += [escape(text[end:start]), "<mark>", escape(text[start:stop]), "</mark>"]
        end = stop
    return "".join([*parts, escape(text[end:])])


def picture_html(picture: Picture, caption: str) -> str:
    """A page with its boxes drawn as an overlay, so that they keep their contrast in both modes."""
    image = picture.image.convert("RGB")
    width, height = image.size
    if width > PICTURE_WIDTH:
        image = image.resize((PICTURE_WIDTH, round(height * PICTURE_WIDTH / width)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    boxes = "".join(
        f'<span class="{kind}" style="left:{100 * a / width:.2f}%;top:{100 * b / height:.2f}%;'
        f'width:{100 * (c - a) / width:.2f}%;height:{100 * (d - b) / height:.2f}%"></span>'
        for kind, found in (("box", picture.boxes), ("box said", picture.marks))
        for a, b, c, d in found
    )
    note = "" if picture.boxes else '<span class="quiet"> The passage could not be located on the page.</span>'
    # Of the sheet only a part may be seen: boxes are shares of the page, and the first of them is brought into view.
    first = min((100 * b / height for _, b, _, _ in picture.marks or picture.boxes), default=0.0)
    page = f'<img alt="{escape(caption)}" src="data:image/jpeg;base64,{data}">{boxes}'
    sheet = f'<div class="page" data-first="{first:.2f}">{page}</div>'
    return _figure("page-picture", sheet, caption, note)


def _figure(classes: str, sheet: str, caption: str, note: str = "") -> str:
    """A page that opens full size (`assets/page.js`)."""
    return (
        f'<figure class="{classes}"><div class="sheet" data-view>{sheet}</div><figcaption>'
        f"<span>{escape(caption)}{note}</span>"
        '<button type="button" class="plain-button" data-view>Full size</button></figcaption></figure>'
    )


def text_html(text: str, passage: tuple[int, int], marks: Sequence[tuple[int, int]], caption: str) -> str:
    """A document without pages: its text around the passage, which is framed; the sentences that answer are marked."""
    start, stop = passage
    first, last = max(0, start - AROUND), min(len(text), stop + AROUND)
    before = ("… " if first else "") + text[first:start]
    after = text[stop:last] + (" …" if last < len(text) else "")
    inside = marked(text[start:stop], [(a - start, b - start) for a, b in marks])
    sheet = f'<div class="text-sheet">{escape(before)}<span class="framed">{inside}</span>{escape(after)}</div>'
    return _figure("page-picture text-page", sheet, caption)
