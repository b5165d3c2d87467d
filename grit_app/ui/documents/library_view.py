"""A visitor's documents as HTML: the table with a state for each file, and the meter of the caches' disk space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from grit_app.documents.read.text.languages import ENCODINGS, encoding_name
from grit_app.ui.base.handlers import escape
from grit_app.ui.base.status import size

OCR_S: Final = 8
"""Seconds for a full page by OCR and its embedding: a dense report on two cores, at 150 dpi; typescript takes two."""

SCRIPT: Final = """
const unlock = (number) => {
  const field = element.querySelector(`input[data-password="${number}"]`);
  trigger('unlock', {id: number, password: field.value});
};
element.addEventListener('change', (event) => {
  const box = event.target.closest('input[data-use]');
  if (box) { trigger('choose', {id: box.dataset.use, on: box.checked}); }
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) { return; }
  const {remove, undo, dismiss, open, scan, decode, look, every} = button.dataset;
  if (remove) { trigger('remove', {id: remove}); }
  if (undo) { trigger('undo', {id: undo}); }
  if (dismiss) { trigger('dismiss', {id: dismiss}); }
  if (open) { unlock(open); }
  if (scan) { trigger('scan', {id: scan}); }
  if (decode) {
    const chosen = button.parentElement.querySelector('select').value;
    picked.delete(decode);
    if (chosen) { trigger('decode', {id: decode, encoding: chosen}); }
  }
  if (look) {
    trigger('look', {id: look});
    if (matchMedia('(max-width: 900px)').matches) {
      document.getElementById('sources-column').scrollIntoView({behavior: 'smooth'});
    }
  }
  if (every) {
    const boxes = [...element.querySelectorAll('input[data-use]')];
    for (const box of boxes) { box.checked = every === 'all'; }
    trigger('every', {unused: every === 'all' ? [] : boxes.map((box) => box.dataset.use)});
  }
});
element.addEventListener('keydown', (event) => {
  const field = event.target.closest('input[data-password]');
  if (field && event.key === 'Enter') { unlock(field.dataset.password); }
});
element.addEventListener('animationend', (event) => {
  if (event.target.matches('.leaving-time')) { trigger('settle', {}); }
});
const typed = new Map();
const picked = new Map();
element.addEventListener('change', (event) => {
  const select = event.target.closest('select[data-encoding]');
  if (select) { picked.set(select.dataset.encoding, select.value); }
});
let focused = '';
element.addEventListener('input', (event) => {
  const field = event.target.closest('input[data-password]');
  if (field) { typed.set(field.dataset.password, field.value); focused = field.dataset.password; }
});
new MutationObserver(() => {
  for (const field of element.querySelectorAll('input[data-password]')) {
    const before = typed.get(field.dataset.password);
    if (before && !field.value) { field.value = before; }
    if (field.dataset.password === focused && document.activeElement === document.body) { field.focus(); }
  }
  for (const select of element.querySelectorAll('select[data-encoding]')) {
    const before = picked.get(select.dataset.encoding);
    if (before && select.value !== before) { select.value = before; }
  }
}).observe(element, {childList: true, subtree: true});
window.gritGroups(element, (unused) => trigger('every', {unused}));
"""
"""The table's own events. Ids are checked on the server. A half typed password and an encoding that is
chosen, but not yet read, outlive the table's next picture."""


ALL_OR_NONE: Final = (
    '<p class="quiet every">Search in <button type="button" class="plain-button" data-every="all">all</button> '
    '<button type="button" class="plain-button" data-every="none">none</button> <span class="groups"></span></p>'
)


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
    held: int = 0
    """The number of a file that was refused and waits to be dismissed; 0: none."""
    scanned: int = 0
    """Pages that are pictures, which OCR may read."""
    encoding: str | None = None
    """Of a text file, where it may be chosen: the one it was read in, empty if none. None: nothing to choose."""
    leaves_in_s: float | None = None
    """Removed, and gone after so many seconds."""


def table(rows: Sequence[Row]) -> str:
    """All rows; an empty library says so."""
    if not rows:
        return '<p class="quiet files-empty">No documents yet.</p>'
    listed = f'<ul class="files" aria-label="Documents">{"".join(map(_row, rows))}</ul>'
    return (ALL_OR_NONE if sum(row.state == "ready" for row in rows) > 1 else "") + listed


def _row(row: Row) -> str:
    if row.leaves_in_s is not None:
        return _leaving_row(row)
    name, state = escape(row.name), escape(row.state)
    use = act = ""
    shown = f'<span class="name" title="{name}">{name}</span>'
    detail = escape(row.detail)
    if row.state == "damaged":
        act = _button("remove", row.document_id, f"Remove {row.name}")
    elif row.document_id:
        ticked = " checked" if row.is_used else ""
        use = f'<input type="checkbox" data-use="{escape(row.document_id)}"{ticked} aria-label="Search in {name}">'
        act = _button("remove", row.document_id, f"Remove {row.name}")
        detail = _facts(row)
        shown = (
            f'<button type="button" class="name" data-look="{escape(row.document_id)}" '
            f'title="{name}: show its passages">{name}</button>'
        )
    elif row.held:
        act = _button("dismiss", str(row.held), f"Dismiss {row.name}")
    return (
        f'<li class="file {state}"><span class="use">{use}</span>{shown}'
        f'<span class="chip {state}">{state}</span><span class="act">{act}</span><span class="detail">'
        f"{detail}{_bar(row)}</span>{_password(row) if row.state == 'locked' else ''}{_scans(row)}{_encodings(row)}"
        "</li>"
    )


def _button(action: str, value: str, label: str) -> str:
    shown = escape(label)
    return f'<button type="button" data-{action}="{escape(value)}" aria-label="{shown}" title="{shown}">✕</button>'


def _facts(row: Row) -> str:
    facts = [plural(row.pages, "page"), plural(row.chunks, "passage")]
    if row.cache_bytes:
        facts.append(f"{size(row.cache_bytes)} cached")
    if row.encoding:
        facts.append(f"read as {escape(encoding_name(row.encoding))}")
    notes = f'<span class="lost">{escape(row.detail)}</span>' if row.detail else ""
    return " · ".join(f'<span class="fact">{fact}</span>' for fact in facts) + notes


def _bar(row: Row) -> str:
    if row.fraction is None:
        return ""
    percent = round(100 * min(1.0, max(0.0, row.fraction)))
    return (
        f'<span class="bar" role="progressbar" aria-label="{escape(row.state)} {escape(row.name)}" '
        f'aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100"><span style="width:{percent}%"></span></span>'
    )


def _password(row: Row) -> str:
    return (
        f'<span class="unlock"><input type="password" data-password="{row.held}" autocomplete="off" '
        f'placeholder="Password" aria-label="Password of {escape(row.name)}">'
        f'<button type="button" class="plain-button" data-open="{row.held}">Open it</button></span>'
    )


def _scans(row: Row) -> str:
    if not row.scanned:
        return ""
    chosen = escape(row.document_id or str(row.held))
    pages = "the scanned page" if row.scanned == 1 else f"the {row.scanned:,} scanned pages"
    return (
        f'<span class="unlock"><button type="button" class="plain-button" data-scan="{chosen}">'
        f"Read {pages}, about {OCR_S * row.scanned:,} s</button></span>"
    )


def _encodings(row: Row) -> str:
    """The encodings to choose from; what proves its encoding, as UTF-8 does, asks nobody."""
    if row.encoding is None:
        return ""
    groups = dict(ENCODINGS)
    if not any(row.encoding in names for names in groups.values()):
        groups = {"As it is read now" if row.encoding else "Not known": (row.encoding,)} | groups
    options = "".join(
        f'<optgroup label="{escape(group)}">{"".join(_option(name, name == row.encoding) for name in names)}</optgroup>'
        for group, names in groups.items()
    )
    chosen = escape(row.document_id or str(row.held))
    return (
        f'<span class="unlock"><select data-encoding="{chosen}" aria-label="Encoding of {escape(row.name)}">'
        f"{options}</select>"
        f'<button type="button" class="plain-button" data-decode="{chosen}">Read again</button></span>'
    )


def _option(encoding: str, is_chosen: bool) -> str:
    words = encoding_name(encoding) if encoding else "Choose its encoding"
    return f'<option value="{escape(encoding)}"{" selected" if is_chosen else ""}>{escape(words)}</option>'


def _leaving_row(row: Row) -> str:
    name = escape(row.name)
    return (
        f'<li class="file leaving"><span class="use"></span><span class="name" title="{name}">Removed: {name}</span>'
        f'<button type="button" class="plain-button" data-undo="{escape(row.document_id)}">Undo</button>'
        f'<span class="leaving-time" aria-hidden="true" style="animation-duration:{row.leaves_in_s or 0.0:.1f}s">'
        "</span></li>"
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
