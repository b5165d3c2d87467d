"""Files that readers get wrong, added as the page adds them: each ends in one row, and its passages hold its text."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

from grit_app.documents.library import Library
from grit_app.documents.score import REFUSED
from grit_app.ui.documents.library_actions import Adding
from grit_app.ui.documents.listing import listing
from tests.documents.corpus.make import FILES

OF_A_KIND = 2
_PASSAGE = re.compile(r"<p>(.*?)</p></li>", re.DOTALL)


def some() -> dict[str, tuple[bytes, str]]:
    """A few files of each kind, those that are refused among them."""
    refused = [name for name, (_, text) in FILES.items() if text.startswith(REFUSED)]
    by_kind: dict[str, list[str]] = {}
    for name in FILES:
        by_kind.setdefault(Path(name).suffix, []).append(name)
    chosen = dict.fromkeys([*refused, *(name for names in by_kind.values() for name in names[:OF_A_KIND])])
    return {name: FILES[name] for name in chosen}


def test_one_upload_of_every_kind_gives_a_row_a_file(load_tiny: Callable[..., Any], tmp_path: Path) -> None:
    files = some()
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    library = Library(load_tiny(), None)
    for rows in (adding := Adding(library, [tmp_path / name for name in files], threading.Event())):
        assert len(rows) == len(files)
    assert {row.name: row.state == "failed" for row in rows} == {
        name: text.startswith(REFUSED) for name, (_, text) in files.items()
    }
    for row in rows:
        wanted = files[row.name][1]
        if row.state == "failed":
            assert wanted.removeprefix(REFUSED) in row.detail and row.detail.endswith(".")
            continue
        assert row.document_id is not None
        shown = " ".join(_PASSAGE.findall(listing(library, row.document_id).cards(None)))
        assert unescape(shown).split() == wanted.split(), row.name
    assert len(adding.reports) == len(files)
    library.close()
