"""What is put into gr.HTML: right, and safe with anybody's text in it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from grit_app.benchmark.measure.race import Lane, Race
from grit_app.documents.chunking import Chunk
from grit_app.documents.document import Document, Page
from grit_app.documents.library import Hit, Library, Progress
from grit_app.documents.read.pictures import Picture
from grit_app.gritlm import GritLM
from grit_app.gritlm.scheduler import Job
from grit_app.ui.base.status import count, seconds, size
from grit_app.ui.caching import race_view
from grit_app.ui.documents import library_view, sources
from grit_app.ui.documents.library_actions import Adding
from grit_app.ui.documents.library_view import Row, table

EVIL = "<img src=x onerror=alert(1)>\"'&"


class Tags(HTMLParser):
    """Which tags and attributes a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.words += data


def hit(text: str = "First sentence. Second one.", name: str = "a.pdf", label: str = "iv", page: int = 5) -> Hit:
    document = Document(name, "0" * 64, "pdf", (Page(page, label, 0, len(text)),), text)
    chunk = Chunk.of(document, 0, 0, len(text), heading=EVIL)
    return Hit(chunk, 0.73, 0.7, 0.8, "both")


def lane(strategy: str = "rag_doc_query", text: str = "An answer", ttft_ms: float = 800.0) -> Lane:
    pieces = ((ttft_ms, 2), (ttft_ms + 100, len(text)))
    return Lane(strategy, pieces, text, ttft_ms, ttft_ms + 100, 1.0, 0, 900, 0, 0.0, "stop")


@pytest.mark.parametrize(
    "html",
    [
        library_view.table([Row(EVIL, "failed", detail=EVIL), Row(EVIL, "ready", document_id=EVIL, pages=1)]),
        sources.cards(1, [hit(EVIL + " text", EVIL, EVIL)], [[(0, 6)]], 1, 0),
        sources.listing(EVIL, EVIL, [hit(EVIL + " text", EVIL, EVIL)], 0),
        sources.picture_html(Picture(Image.new("RGB", (60, 80)), ((6, 8, 30, 40),)), EVIL),
        race_view.picture(Race(EVIL, 900, (lane(text=EVIL), lane("docs_cache", EVIL, 80.0))), None),
        race_view.answers_table(Race(EVIL, 900, (lane(text=EVIL), lane("docs_cache", "other", 80.0)))),
    ],
    ids=["files", "cards", "listing", "page", "race", "answers"],
)
def test_foreign_text_is_never_markup(html: str) -> None:
    """gr.HTML does not sanitise: one forgotten escape lets a document run code in a visitor's page."""
    tags = Tags(html)
    assert "onerror" not in tags.attributes
    assert tags.names.count("img") == ("page-picture" in html)


def test_the_table_tells_state_progress_and_reason_of_each_file() -> None:
    rows = [
        Row("a.pdf", "ready", document_id="id1", pages=1, chunks=12, cache_bytes=3_000_000),
        Row("b.pdf", "embedding", detail="passage 40 of 120", fraction=1 / 3),
        Row("c.pdf", "failed", detail="c.pdf is encrypted. Give its password."),
    ]
    html = library_view.table(rows)
    words = Tags(html).words
    assert "1 page · 12 passages · 3 MB cached" in words
    assert "passage 40 of 120" in words and 'aria-valuenow="33"' in html
    assert "c.pdf is encrypted. Give its password." in words
    assert html.count("data-remove") == 1 and html.count(" checked") == 1
    assert "No documents yet" in library_view.table([])


def test_all_or_none_can_be_ticked_where_there_is_more_than_one_document() -> None:
    rows = [Row(name, "ready", document_id=name, pages=1) for name in ("a", "b")]
    assert 'data-every="all"' in table(rows) and 'data-every="none"' in table(rows)
    assert "data-every" not in table([rows[0], Row("c", "failed")])


def test_scanned_pages_have_a_button_that_tells_how_long_it_takes() -> None:
    html = table([Row("a.pdf", "ready", document_id=EVIL, scanned=12), Row("b.pdf", "failed", held=3, scanned=1)])
    words = Tags(html).words
    assert "Read the 12 scanned pages, about 96 s" in words and "Read the scanned page, about 8 s" in words
    assert "onerror" not in Tags(html).attributes and 'data-scan="3"' in html


def test_the_encoding_of_a_text_file_can_be_chosen_in_its_row() -> None:
    rows = [
        Row("a.txt", "ready", document_id="id1", encoding="cp1251", detail="a.txt was read as Windows-1251, a guess."),
        Row("b.txt", "failed", held=3, encoding=""),
        Row("c.txt", "ready", document_id="id3"),
        Row("d.txt", "ready", document_id="id4", encoding=EVIL),
    ]
    html = table(rows)
    assert html.count("<select") == html.count("data-decode") == 3 and "onerror" not in Tags(html).attributes
    assert '<option value="cp1251" selected>Windows-1251</option>' in html and "a guess" in Tags(html).words
    assert "read as Windows-1251" in Tags(html).words
    assert 'data-decode="id1"' in html and 'data-decode="3"' in html
    assert html.count('<option value="" selected>') == 1


def test_the_meter_shows_share_and_budget() -> None:
    assert 'aria-valuenow="25"' in library_view.meter(250_000_000, 1_000_000_000)
    assert "250 MB of 1 GB" in library_view.meter(250_000_000, 1_000_000_000)
    assert "not kept" in library_view.meter(0, 0)
    assert "making 3 of 1,200" in library_view.meter(250_000_000, 1_000_000_000, (3, 1200))
    assert "making" not in library_view.meter(250_000_000, 1_000_000_000)


def test_cards_show_label_and_place_score_origin_and_the_marked_sentence() -> None:
    html = sources.cards(3, [hit(), hit(name="b.pdf", label="6", page=5)], [[(0, 15)], []], 1, 1)
    assert "p. iv (page 6 of the file)" in html
    assert ">p. 6<" in html  # label and place agree: said once
    assert "<mark>First sentence.</mark> Second one." in html
    assert "0.73" in html and "found by meaning and words" in html
    assert html.count("card cited") == 1 and html.count("chosen") == 1
    assert 'data-cite="3-1"' in html and 'data-cite="3-2"' in html


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(0, 2)], "<mark>ab</mark>cdef"),
        ([(1, 3), (2, 5)], "a<mark>bc</mark><mark>de</mark>f"),
        ([(4, 99)], "abcd<mark>ef</mark>"),
        ([(3, 3), (-4, 0)], "abcdef"),
    ],
)
def test_marked_spans_lose_and_double_nothing(spans: list[tuple[int, int]], expected: str) -> None:
    assert sources.marked("abcdef", spans) == expected


def test_boxes_are_placed_in_percent_of_the_page() -> None:
    html = sources.picture_html(Picture(Image.new("RGB", (200, 400)), ((20, 40, 120, 80),)), "p. 1")
    assert "left:10.00%;top:10.00%;width:50.00%;height:10.00%" in html
    assert "could not be located" in sources.picture_html(Picture(Image.new("RGB", (20, 40)), ()), "p. 1")


def test_a_lane_shows_what_stood_there_at_each_moment() -> None:
    runner = lane(text="An answer", ttft_ms=800.0)
    assert runner.at(799.9) == "" and runner.at(800.0) == "An" and runner.at(1e9) == "An answer"


def test_race_frames_run_at_the_measured_pace_and_end_with_the_verdict() -> None:
    race = Race("q", 900, (lane(), lane("docs_cache", ttft_ms=80.0)))
    shown = list(race_view.frames(race))
    assert sum(wait for wait, _ in shown) == pytest.approx(0.9, abs=0.06)
    assert "10.0 times sooner" in shown[-1][1] and "same answer" in shown[-1][1]
    middle = shown[len(shown) // 2][1]
    assert "reading …" in middle and "first token" in middle
    assert "An answer" in middle


def test_a_long_race_is_shown_faster_and_says_so() -> None:
    race = Race("q", 900, (lane(ttft_ms=60_000.0), lane("docs_cache", ttft_ms=80.0)))
    shown = list(race_view.frames(race))
    assert sum(wait for wait, _ in shown) < 13
    assert "5.0× faster than it was" in shown[3][1]


def test_differing_answers_are_marked() -> None:
    html = race_view.answers_table(Race("q", 9, (lane(), lane("prefix_cache"), lane("docs_cache", "Something else"))))
    words = Tags(html).words
    assert words.count("reference") == 1 and words.count("same") == 1 and words.count("differs") == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3.456, "3.46 ms"), (47.2, "47 ms"), (340, "0.34 s"), (12_340, "12.3 s"), (83_000, "83 s")],
)
def test_durations(value: float, expected: str) -> None:
    assert seconds(value) == expected


def test_sizes_and_counts() -> None:
    assert [size(n) for n in (340, 12_000_000, 1_500_000_000)] == ["340 B", "12 MB", "1.5 GB"]
    assert [count(n) for n in (512, 36_100_000, 7_240_000_000)] == ["512", "36.1 M", "7.24 B"]


def test_an_upload_tells_how_long_it_still_takes_and_who_comes_first(tiny_model: GritLM, tmp_path: Path) -> None:
    """The seconds come from the passages until now; answers of others, which go first, are told too."""
    now = [0.0]
    upload, other = Job("background", "me"), Job("interactive", "other")
    adding = Adding(Library(tiny_model), [tmp_path / "a.txt"], upload, clock=lambda: now[0])
    with tiny_model.scheduler.working(upload), tiny_model.scheduler.working(other):
        assert "passage 1 of 40 · 1 before you" in table(adding._rows(Progress(0, 1, "a.txt", "embedding", 1, 40)))
        now[0] = 10.0
        told = table(adding._rows(Progress(0, 1, "a.txt", "embedding", 20, 40)))
    assert "passage 20 of 40 · about 10 s left · 1 before you" in told
