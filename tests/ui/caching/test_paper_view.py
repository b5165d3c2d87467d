"""The Paper section: every cell of the tables as text, missing ones and commands named."""

from __future__ import annotations

from grit_app.benchmark.show.paper import NOT_MEASURED, Section, Table, published
from grit_app.ui.caching.paper_view import intro, section_html


def test_a_section_shows_every_cell_and_names_what_is_missing() -> None:
    table = Table("Published (table 3)", ["", "before"], [["NQ <b>", "70.3"], ["ours", NOT_MEASURED]], ["a `note`"])
    html = section_html(Section("rerank", "Reranking", [table], "python -m training.paper rerank", False))
    assert '<th scope="row">NQ &lt;b&gt;</th><td class="num">70.3</td>' in html
    assert f"<i>{NOT_MEASURED}</i>" in html.replace(' class="quiet"', "") and "a note" in html
    assert "Not recorded yet" in html and "<code>python -m training.paper rerank</code>" in html
    assert "Not recorded" not in section_html(Section("rerank", "Reranking", [table], "x", True))


def test_the_source_of_the_published_rows_is_told() -> None:
    assert published()["source"] in intro()
