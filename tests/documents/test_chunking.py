"""Chunks: whole sentences, within the limit, nothing lost, nothing twice, each knowing where it stands."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grit_app.documents.chunking import Chunk, chunk_document, sentence_spans
from grit_app.documents.document import Document, Page
from grit_app.documents.read.text.markdown import read_markdown
from grit_app.documents.read.text.plain import read_text
from tests.documents.conftest import HONEY, RIVER
from tests.documents.pdf_maker import wrap


def count_words(text: str) -> int:
    """A tokenizer of the simplest kind, for exact expectations."""
    return len(text.split())


def document(text: str, page_starts: tuple[int, ...] = (0,), headings: tuple[tuple[int, str], ...] = ()) -> Document:
    stops = (*page_starts[1:], len(text))
    pages = tuple(Page(i, f"p{i}", a, b) for i, (a, b) in enumerate(zip(page_starts, stops, strict=True)))
    return Document("a.pdf", "0" * 64, "pdf", pages, text, (), headings)


def check_laws(made: Document, chunks: list[Chunk], limit: int) -> None:
    """What holds for every document."""
    assert [c.index for c in chunks] == list(range(len(chunks)))
    assert len({c.id for c in chunks}) == len(chunks)
    for chunk in chunks:
        assert chunk.text == made.text[chunk.start : chunk.stop] and chunk.text.strip() == chunk.text != ""
        assert count_words(chunk.text) <= limit
        touched = [p for p in made.pages if p.start < chunk.stop and p.stop > chunk.start]
        assert chunk.pages == tuple(p.index for p in touched) and chunk.page_label == touched[0].label
        for offset in (0, len(chunk.text) - 1):
            page = chunk.page_at(offset)
            whole = made.pages[page.index]
            assert whole.start <= chunk.start + offset < whole.stop
    for before, after in pairwise(chunks):
        assert before.stop <= after.start
    assert "".join(c.text for c in chunks).split() or not made.text.split()
    kept = "".join(re.sub(r"\s", "", c.text) for c in chunks)
    assert kept == re.sub(r"\s", "", made.text), "every character that is not a space is in exactly one chunk"


WORDS = st.sampled_from(
    ["river", "Bees", "370", "schools.", "grain?", "Dr.", "end.", "“So.”", "U.S.", "x", "(see", "p. 4)."]
)
LINES = st.lists(WORDS, min_size=1, max_size=40).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=12), st.integers(3, 30), st.data())
def test_laws_hold_for_any_text_and_any_pages(lines: list[str], limit: int, data: st.DataObject) -> None:
    text = "\n".join(lines)
    borders = data.draw(st.lists(st.integers(1, max(1, len(text) - 1)), max_size=4, unique=True).map(sorted))
    headings, at = [], 0
    for line in lines:
        if data.draw(st.booleans()) and len(line) < 60:
            headings.append((at, line))
        at += len(line) + 1
    made = document(text, (0, *borders), tuple(headings))
    check_laws(made, chunk_document(made, count_words, limit), limit)


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=8), st.integers(40, 60))
def test_no_sentence_is_divided_that_fits(lines: list[str], limit: int) -> None:
    """Every chunk begins and ends where sentences do: half a sentence embeds badly and quotes wrongly."""
    text = "\n".join(lines)
    starts, stops, at = set(), set(), 0
    for line in lines:
        for a, b in sentence_spans(line):
            starts.add(at + a)
            stops.add(at + b)
        at += len(line) + 1
    for chunk in chunk_document(document(text), count_words, limit):
        assert chunk.start in starts and chunk.stop in stops


def test_a_sentence_longer_than_the_limit_is_divided_between_words() -> None:
    text = " ".join(f"word{i}" for i in range(100))
    chunks = chunk_document(document(text), count_words, 30)
    assert [count_words(c.text) for c in chunks] == [30, 30, 30, 10]
    check_laws(document(text), chunks, 30)


def test_a_word_longer_than_the_limit_is_divided_between_characters() -> None:
    made = document("天" * 95)
    chunks = chunk_document(made, len, 30)
    assert "".join(c.text for c in chunks) == made.text and max(len(c.text) for c in chunks) <= 30


def test_a_line_of_a_million_characters_takes_time_in_proportion() -> None:
    """A file may hold one endless line; work that grows with its square would hang the app."""
    counted = 0

    def count(text: str) -> int:
        nonlocal counted
        counted += len(text)
        return len(text.split())

    made = document("abcdefg " * 60_000 + "end")
    chunks = chunk_document(made, count, 100)
    assert len(chunks) == 601 and counted < 150 * len(made.text)


def test_chunks_are_nearly_full() -> None:
    """Short chunks waste the context; without page ends and headings each is within a sentence of full."""
    text = " ".join([RIVER, HONEY] * 6)
    longest = max(count_words(s) for s in re.split(r"(?<=\.) ", text))
    chunks = chunk_document(document(text), count_words, 100)
    assert len(chunks) >= 5
    assert all(count_words(c.text) > 100 - longest for c in chunks[:-2])


def test_a_heading_goes_with_what_follows() -> None:
    text = f"{RIVER}\nOf bees\n{HONEY}"
    at = text.index("Of bees")
    chunks = chunk_document(document(text, headings=((at, "Of bees"),)), count_words, 75)
    assert [c.text.split("\n")[0] for c in chunks] == [RIVER, "Of bees"]
    assert [c.heading for c in chunks] == ["", ""]


def test_a_chunk_inside_a_section_knows_its_heading() -> None:
    text = f"Of bees\n{HONEY} {RIVER}"
    chunks = chunk_document(document(text, headings=((0, "Of bees"),)), count_words, 30)
    assert chunks[0].heading == "" and {c.heading for c in chunks[1:]} == {"Of bees"}


def test_table_rows_stay_whole_and_carry_caption_and_column_heads() -> None:
    """A chunk of bare numbers is not found by any question; the caption is not in its text but searched with it."""
    caption, heads = "Table A-2. Number of schools", "Education system In sample Participating"
    rows = [f"Country {i} {100 + i} {200 + i} {300 + i}" for i in range(20)]
    text = "\n".join([RIVER, caption, heads, *rows])
    made = document(text, headings=((len(RIVER) + 1, caption),))
    chunks = chunk_document(made, count_words, 40)
    inside = [c for c in chunks if c.text.startswith("Country")]
    assert len(inside) >= 2
    for chunk in inside:
        assert set(chunk.text.split("\n")) <= set(rows)
        assert chunk.heading == f"{caption} {heads}"


def test_most_chunks_cite_one_page() -> None:
    pages = [f"{RIVER} This was page {i}." for i in range(5)]
    text = "\n".join(pages)
    starts = tuple(sum(len(p) + 1 for p in pages[:i]) for i in range(5))
    chunks = chunk_document(document(text, starts), count_words, 150)
    assert [c.pages for c in chunks] == [(0,), (1,), (2,), (3,), (4,)]


def test_near_empty_pages_make_no_passage_of_their_own() -> None:
    text = f"{RIVER}\nPart Two.\n{HONEY}"
    starts = (0, len(RIVER) + 1, len(RIVER) + 11)
    chunks = chunk_document(document(text, starts), count_words, 90)
    assert all(count_words(c.text) > 10 for c in chunks)


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("Dr. Smith paid $3.5 million. He left.", ["Dr. Smith paid $3.5 million.", "He left."]),
        ("它很好。真的！", ["它很好。", "真的！"]),
        ("هذا كتاب. وهذه مدرسة؟ نعم.", ["هذا كتاب.", "وهذه مدرسة؟", "نعم."]),
    ],
)
def test_sentences(line: str, sentences: list[str]) -> None:
    assert [line[a:b] for a, b in sentence_spans(line)] == sentences


def test_a_document_of_one_word() -> None:
    made = read_text("Hello", "a.txt", "0" * 64)
    chunks = chunk_document(made, count_words, 200)
    assert [c.text for c in chunks] == ["Hello"] and chunks[0].pages == (0,)


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        (
            "博物馆九点开门。五点关门！谁保管钥匙？老王保管。",
            ["博物馆九点开门。", "五点关门！", "谁保管钥匙？", "老王保管。"],
        ),
        ("يفتح المتحف في التاسعة. ويغلق في الخامسة؟ نعم.", ["يفتح المتحف في التاسعة.", "ويغلق في الخامسة؟", "نعم."]),
        (
            "พิพิธภัณฑ์เปิดเวลาเก้าโมงเช้า ปิดเวลาห้าโมงเย็นทุกวัน",
            ["พิพิธภัณฑ์เปิดเวลาเก้าโมงเช้า", "ปิดเวลาห้าโมงเย็นทุกวัน"],
        ),
    ],
    ids=["Chinese", "Arabic", "Thai"],
)
def test_sentences_of_any_script(line: str, sentences: list[str]) -> None:
    assert [line[a:b] for a, b in sentence_spans(line)] == sentences


# ---------------------------------------------------------------- code

CODE = """def area(width, height):
    if width < 0:
        raise ValueError("width")

    return width * height"""
LISTING = "\n\n".join(f"def f{n}(x):\n    y = x + {n}\n    return y * {n}" for n in range(9))


def markdown(text: str) -> Document:
    return read_markdown(text, "a.md", "0" * 64)


@pytest.mark.parametrize("prose", [5, 9, 14, 18])
@pytest.mark.parametrize("kind", ["fenced", "indented", "in a text", "fenced in a text"])
def test_a_block_of_code_is_never_cut_inside(prose: int, kind: str) -> None:
    """Half a function answers nothing: blocks were cut wherever a passage was full, and lost their empty lines."""
    indented = "\n".join(f"    {line}" if line else "" for line in CODE.split("\n"))
    block = f"```python\n{CODE}\n```" if "fenced" in kind else indented
    text = f"{'It opens here. ' * prose}\n\n{block}\n\n{'It closes there. ' * 8}"
    made = read_text(text, "a.txt", "0" * 64) if "text" in kind else markdown(text)
    chunks = chunk_document(made, count_words, 30)
    check_laws(made, chunks, 30)
    assert sum(CODE in chunk.text for chunk in chunks) == 1
    assert all("def area" not in c.text or CODE in c.text for c in chunks)


def test_a_block_longer_than_a_passage_is_cut_at_its_empty_lines() -> None:
    made = markdown(f"Here it is.\n\n```\n{LISTING}\n```\n\nThat was it.")
    chunks = chunk_document(made, count_words, 30)
    check_laws(made, chunks, 30)
    functions = LISTING.split("\n\n")
    assert len(chunks) > 3 and all(sum(function in c.text for c in chunks) == 1 for function in functions)
    without = LISTING.replace("\n\n", "\n")
    made = markdown(f"```\n{without}\n```")
    chunks = chunk_document(made, count_words, 30)
    check_laws(made, chunks, 30)
    lines = [line.strip() for line in without.split("\n")]
    assert all(line in lines for c in chunks for line in map(str.strip, c.text.split("\n"))), "then at line ends"


def test_blocks_beside_each_other_are_two() -> None:
    made = markdown(f"```\n{CODE}\n```\n\n```\n{CODE}\n```")
    assert [made.text[a:b] for a, b in made.code] == [CODE, CODE]
    assert [c.text for c in chunk_document(made, count_words, 20)] == [CODE, CODE]


def test_a_line_of_code_longer_than_a_passage_is_cut_in_the_end() -> None:
    made = markdown("```\n" + "call(x) " * 100 + "\n\nend()\n```")
    chunks = chunk_document(made, count_words, 30)
    check_laws(made, chunks, 30)


def test_indented_prose_of_a_text_is_no_code() -> None:
    """A letter's address, a poem and a quotation are indented, too; their broken lines are joined as before."""
    quotation = "\n".join(f"    {line}" for line in wrap(RIVER, 350))
    assert read_text(f"He wrote:\n\n{quotation}\n\nSo it was.", "a.txt", "0" * 64).code == ()
    poem = "    The river ran down to the sea\n    and nobody knew where it went\n"
    assert read_text(f"A poem\n\n{poem}", "a.txt", "0" * 64).code == ()
    assert read_text("An open fence:\n\n```\nnever closed\n", "a.txt", "0" * 64).code == ()
