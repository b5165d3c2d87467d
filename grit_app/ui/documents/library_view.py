"""A visitor's documents as HTML: the table with a state for each file, and the meter of the caches' disk space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from grit_app.ui.base.handlers import escape
from grit_app.ui.base.status import size

SCRIPT: Final = """
element.addEventListener('change', (event) => {
  const box = event.target.closest('input[data-use]');
  if (box) { trigger('choose', {id: box.dataset.use, on: box.checked}); }
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-remove]');
  if (button) { trigger('remove', {id: button.dataset.remove}); }
});
"""
"""The table's own events: a box was ticked, a document is to go. Ids are checked on the server."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `document_id` empty: not in the library (still working, or refused)."""

    name: str
    state: str
    detail: str = ""
    document_id: str = ""
    pages: int = 0
    chunks: int = 0
    cache_bytes: int = 0
    fraction: float | None = None
    is_used: bool = True


def table(rows: Sequence[Row]) -> str:
    """All rows; an empty library says so."""
    if not rows:
        return '<p class="quiet files-empty">No documents yet.</p>'
    return f'<ul class="files" aria-label="Documents">{"".join(map(_row, rows))}</ul>'


def _row(row: Row) -> str:
    name = escape(row.name)
    if row.document_id:
        ticked = " checked" if row.is_used else ""
        use = f'<input type="checkbox" data-use="{escape(row.document_id)}"{ticked} aria-label="Search in {name}">'
        remove = (
            f'<button type="button" data-remove="{escape(row.document_id)}" aria-label="Remove '
            f'{name}" title="Remove">✕</button>'
        )
        facts = [plural(row.pages, "page"), plural(row.chunks, "passage")]
        if row.cache_bytes:
            facts.append(f"{size(row.cache_bytes)} cached")
        detail = " · ".join(facts)
    else:
        use = remove = ""
        detail = escape(row.detail)
    bar = ""
    if row.fraction is not None:
        percent = round(100 * min(1.0, max(0.0, row.fraction)))
        bar = (
            f'<span class="bar" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100">'
            f'<span style="width:{percent}%"></span></span>'
        )
    state = escape(row.state)
    return (
        f'<li class="file {state}"><span class="use">{use}</span><span class="name" title="{name}">{name}</span>'
        f'<span class="chip {state}">{state}</span><span class="act">{remove}</span><span class="detail">'
        f"{detail}{bar}</span></li>"
    )


def meter(used_bytes: int, budget_bytes: int, making: tuple[int, int] | None = None) -> str:
    """How much of the budget for KV caches is used; `making` (done, total) while more of them are made."""
    share = min(1.0, used_bytes / budget_bytes) if budget_bytes else 0.0
    text = (
        f"KV caches: {size(used_bytes)} of {size(budget_bytes)}"
        if budget_bytes
        else "KV caches are not kept (budget 0)."
    )
    if making is not None:
        text += f" · making {making[0]:,} of {making[1]:,}; you can ask already"
    return (
        f'<div class="meter"><span>{text}</span><span class="bar" role="meter" aria-label="KV caches" '
        'aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{100 * share:.0f}"><span style="width:{100 * share:.1f}%">'
        "</span></span></div>"
    )


def plural(number: int, noun: str) -> str:
    """1 page, 2 pages."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def limits_sentence(kinds: Iterable[str], max_mb: int, max_pages: int, max_files: int) -> str:
    """What may be uploaded, told before it is."""
    return f"{', '.join(kinds)} · up to {max_mb:,} MB and {max_pages:,} pages each · {max_files:,} documents"
