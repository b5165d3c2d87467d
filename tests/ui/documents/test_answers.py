"""A question from the library to what the page shows, with a real library and a tiny random model that quotes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from grit_app.documents.library import Library
from grit_app.documents.reports import FileReport
from grit_app.errors import DocumentError, InputError
from grit_app.rag.events import Answer, Citation, PassageAnswer
from grit_app.settings import Settings
from grit_app.ui.base import texts
from grit_app.ui.base.handlers import message_text
from grit_app.ui.base.messages import literal, words_behind
from grit_app.ui.documents.answer_handlers import find_source
from grit_app.ui.documents.answers import (
    Asking,
    body,
    cited_markdown,
    next_questions,
    source_picture,
    statistics,
    turn_at,
    what_each_says,
)
from grit_app.ui.documents.layout import SAMPLES, starters
from grit_app.ui.documents.library_actions import (
    Adding,
    CacheFilling,
    library_limits,
    listed,
    refused,
    searched,
)
from grit_app.ui.documents.listing import as_json, listing


@pytest.fixture(scope="module")
def model(load_tiny: Callable[..., Any]) -> Any:
    return load_tiny("mistral", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def library(model: Any) -> Iterator[Library]:
    """The sample documents, in memory."""
    held = Library(model, None)
    for report in held.add(SAMPLES):
        assert report.state == "ready", report
    yield held
    held.close()


def ask(library: Library, model: Any, question: str, **changes: Any) -> tuple[Asking, list[tuple[Any, str | None]]]:
    asking = Asking(7, question, **{"strategy": "docs_cache", "k": 3, "mode": "quote"} | changes)
    return asking, list(asking.frames(library, model, changes.get("documents"), threading.Event()))


def test_an_answer_streams_then_carries_its_citation_and_its_numbers(library: Library, model: Any) -> None:
    asking, frames = ask(library, model, "When is the harbour museum closed?")
    assert any(cards for _, cards in frames[:-1]), "sources must be there before the answer ends"
    words = [message_text(message["content"][:1]) for message, _ in frames]
    assert all(later.startswith(earlier) for earlier, later in pairwise(words[:-1]))
    last = frames[-1][0]["content"]
    assert "](#cite-7-1)" in last[0]["text"]
    assert "cached" in last[1]["text"] and "docs_cache, quoted" in last[1]["text"]
    assert asking.turn.cited >= 1 and len(asking.turn.hits) == 3
    start, stop = asking.turn.marks[0][0]
    quoted = asking.turn.hits[0].chunk.text[start:stop]
    assert quoted in words_behind(words[-2])


def test_a_citation_opens_the_page_on_which_its_passage_is_boxed(library: Library, model: Any) -> None:
    asking, _ = ask(library, model, "How many terabytes would all caches of the encyclopedia index take?", k=5)
    position = next(i for i, hit in enumerate(asking.turn.hits) if hit.chunk.document_name == "field_guide.pdf")
    html = source_picture(library, asking.turn, position)
    assert "data:image/jpeg;base64," in html and 'class="box"' in html
    label = asking.turn.hits[position].chunk.page_label
    assert f"p. {label} (page " in html


def test_a_text_file_shows_its_text_with_the_passage_framed(library: Library, model: Any) -> None:
    only = [info.id for info in library.documents() if info.kind != "pdf"]
    asking = Asking(1, "What does a ticket cost?", strategy="rag_doc_query", k=1, mode="quote")
    list(asking.frames(library, model, only, threading.Event()))
    assert {hit.chunk.document_id for hit in asking.turn.hits} == set(only)
    html = source_picture(library, asking.turn, 0)
    chunk = asking.turn.hits[0].chunk
    framed = html.split('<span class="framed">')[1]
    assert "text-page" in html and "<mark>" in framed and "<img" not in html
    assert chunk.text.split()[0] in framed


def test_without_documents_the_visitor_is_told_what_to_do(model: Any) -> None:
    empty = Library(model, None)
    asking, frames = ask(empty, model, "Anything?", strategy="rag_doc_query")
    empty.close()
    assert "add a document" in frames[-1][0]["content"][0]["text"]
    assert asking.turn.hits == []


def test_a_question_that_follows_on_earlier_ones_is_read_with_them(library: Library, model: Any) -> None:
    earlier = ["When is the harbour museum closed?", "And on Mondays?"]
    _, frames = ask(library, model, "And on Thursdays?", earlier=earlier)
    shown = words_behind(message_text(frames[-1][0]["content"][:1]))
    assert "Understood as: When is the harbour museum closed on Thursdays?" in shown
    _, frames = ask(library, model, earlier[0], earlier=earlier)
    assert "Understood as" not in message_text(frames[-1][0]["content"][:1]), "it stands for itself"


def test_sources_can_be_asked_for_alone(library: Library, model: Any) -> None:
    asking, frames = ask(library, model, "When is the harbour museum closed?", mode="sources")
    words, numbers = frames[-1][0]["content"][:2]
    assert texts.SOURCES_ONLY in words["text"] and "sources only" in numbers["text"]
    assert len(asking.turn.hits) == 3


def test_a_stopped_answer_keeps_what_was_written_and_says_so(library: Library, model: Any) -> None:
    cancel = threading.Event()
    asking = Asking(2, "What is a tail?", strategy="rag_doc_query", k=1, mode="free", answer_tokens=500)
    seen = []
    for message, _ in asking.frames(library, model, None, cancel):
        seen.append(message["content"])
        if len(seen) == 3:
            cancel.set()
    assert "stopped by you" in seen[-1][1]["text"]
    assert asking.turn.hits


def done(**changes: Any) -> Answer:
    values: dict[str, Any] = {
        "text": "A *b*. C.", "marked": "", "answerable": True, "is_supported": False, "strategy": "rag_doc_query",
        "mode": "free", "citations": (), "prompt_tokens": 120, "cached_tokens": 100, "new_tokens": 9,
        "tokens_per_s": 30.0, "finish_reason": "stop",
        "timings_ms": {"embed": 5.0, "search": 2.0, "load_cache": 0.0, "prefill": 40.0, "first_token": 50.0,
                       "total": 300.0},
        "notes": (), "sentences": (("A *b*.", (2, 1)), ("C.", ())),
    }  # fmt: skip
    return Answer(**(values | changes))


def test_marks_are_links_and_unsupported_sentences_have_none() -> None:
    marked = cited_markdown(4, done().sentences)
    assert marked == f"{literal('A *b*.')} [\\[2\\]](#cite-4-2) [\\[1\\]](#cite-4-1) {literal('C.')}"


def test_the_short_answer_is_bold_where_it_first_stands() -> None:
    """Its characters stay literal, and what is in no sentence changes nothing."""
    marked = cited_markdown(1, [("In *all* 370 took part.", (1,)), ("370 more.", ())], "*all* 370")
    shown = f"In <strong>{literal('*all* 370')}</strong>{literal(' took part.')}"
    assert marked == f"{shown} [\\[1\\]](#cite-1-1) 370 more{literal('.')}"
    assert "<strong>" not in cited_markdown(1, [("A.", (1,))], "B") + cited_markdown(1, [("A.", (1,))])


def test_an_answer_in_the_text_itself_is_no_citation() -> None:
    """A passage may hold "[3]" of its own: only the program's marks are links."""
    assert "#cite" not in cited_markdown(1, [("As shown in [3].", ())])


def test_a_question_that_the_documents_do_not_answer_shows_the_note_and_not_the_refusal(
    library: Library, model: Any
) -> None:
    asking, _ = ask(library, model, "Which strategy is exact?")
    answer = done(
        answerable=False,
        text="The text does not give the answer.",
        sentences=(),
        notes=("The documents do not answer this. These passages come nearest.",),
        citations=(),
        strategy="none",
    )
    assert "does not give" in body(1, answer)  # without retrieval there is nothing to point to
    near = Citation(1, asking.turn.hits[0], False, 1, "1")
    shown = body(1, done(answerable=False, text="The text does not give the answer.", sentences=(),
                         notes=answer.notes, citations=(near,)))  # fmt: skip
    assert "come nearest" in shown and "does not give" not in shown


def test_the_line_of_numbers_names_stages_cache_and_mode() -> None:
    line = statistics(done())
    assert "first token after 50 ms (embed 5 ms, search 2 ms, prefill 40 ms)" in line
    assert "120 prompt tokens, 100 of them cached + 9 new" in line and "rag_doc_query, free" in line


def test_a_refusal_claims_no_first_token() -> None:
    """The search decides it: the model reads no prompt and writes nothing, so there is no such time to tell."""
    line = statistics(done(answerable=False, prompt_tokens=0, cached_tokens=0, new_tokens=0))
    assert "nothing written" in line and "embed 5 ms, search 2 ms" in line
    assert "first token" not in line and "prompt tokens" not in line


def test_a_citation_of_a_forgotten_turn_or_a_made_up_one_is_a_sentence(library: Library, model: Any) -> None:
    asking, _ = ask(library, model, "Which strategy is exact?")
    assert find_source([asking.turn], "7-2") == (asking.turn, 1)
    for reference in ("6-1", "7-0", "7-99", "7", "", "7-x", "../1"):
        with pytest.raises(InputError, match="Ask again"):
            find_source([asking.turn], reference)


# ---------------------------------------------------------------- adding


def test_sources_of_an_earlier_visit_are_not_those_of_another_cutting(model: Any) -> None:
    """The places were numbers of passages: after the documents were cut anew they named other ones."""
    held = Library(model, None)
    held.add(SAMPLES)
    asking, _ = ask(held, model, "When is the harbour museum closed?")
    places = asking.turn.places()
    assert [hit.chunk for hit in turn_at(7, places, held).hits] == [hit.chunk for hit in asking.turn.hits]
    held.cut_anew(40)
    with pytest.raises(InputError, match="cut into other passages"):
        turn_at(7, places, held)
    held.close()


def test_what_else_was_found_is_offered_as_the_next_question(library: Library, model: Any) -> None:
    asking, frames = ask(library, model, "When is the harbour museum closed?", k=8)
    blocks = [block["text"] for block in frames[-1][0]["content"]]
    offered = [text for text in blocks if 'href="#ask-next"' in text]
    cited = {hit.chunk.heading for hit in asking.turn.hits[: asking.turn.cited]}
    others = {hit.chunk.heading for hit in asking.turn.hits} - cited
    assert others, "the passages must stand under other headings, too"
    (text,) = offered
    assert 1 <= text.count("<a ") <= 3
    assert not any(f"about {heading}?" in text for heading in cited)
    near = tuple(Citation(n, hit, False, 1, "1") for n, hit in enumerate(asking.turn.hits, 1))
    assert next_questions(done(citations=near)) and next_questions(done(citations=near, answerable=False)) == []


def test_a_document_can_be_looked_at_passage_by_passage_and_saved(library: Library, model: Any) -> None:
    (info,) = [one for one in library.documents() if one.kind == "pdf"]
    found = listing(library, info.id)
    assert [hit.chunk for hit in found.hits] == list(library.chunks(info.id))
    html = found.cards(1)
    assert f"{info.chunks} passages" in html and "tokens" in html and "added on 20" in html
    assert html.count('data-cite="0-') == info.chunks and 'class="score"' not in html
    assert 'class="box"' in source_picture(library, found, 1)
    saved = json.loads(as_json(library, info.id))
    assert [one["text"] for one in saved["passages"]] == [chunk.text for chunk in library.chunks(info.id)]
    with pytest.raises(DocumentError):
        listing(library, "0" * 16)
    assert find_source([found], "0-2") == (found, 1)


def test_starters_ask_about_the_documents_that_are_there() -> None:
    """Questions about the samples are nonsense beside other files; on an empty library a starter adds the samples."""

    def offered(*names: str) -> list[str]:
        return [one["text"] for one in starters(names)]

    assert offered() == offered("my.pdf", SAMPLES[0].name) == list(texts.SAMPLE_QUESTIONS)
    assert offered("my.pdf") == list(texts.GENERAL_QUESTIONS)
    assert "museum" in " ".join(offered()) and "museum" not in " ".join(offered("my.pdf"))


def test_a_file_that_waits_for_its_password_is_locked_and_not_failed() -> None:
    reports = [FileReport("a.pdf", "failed", "Why.", needs_password=True), FileReport("b.pdf", "failed", "Why.")]
    held = refused([Path("up/a.pdf"), Path("up/b.pdf")], reports, 4)
    assert [(one.number, one.name, one.state) for one in held] == [(5, "a.pdf", "locked"), (6, "b.pdf", "failed")]
    assert [one.path for one in held] == [Path("up/a.pdf"), None]


def test_refused_files_stay_in_the_list_through_later_uploads(model: Any, tmp_path: Path) -> None:
    """A locked file must not have to be uploaded again because another came after it."""
    fake, good = tmp_path / "fake.pdf", tmp_path / "good.txt"
    fake.write_bytes(b"not a pdf at all")
    good.write_text("Bees make honey. They store it in combs made of wax. " * 20, encoding="utf-8")
    library = Library(model, None)
    list(first := Adding(library, [fake], threading.Event()))
    tables = list(second := Adding(library, [good], threading.Event(), earlier=first.held))
    library.close()
    assert all("fake.pdf" in [row.name for row in table] for table in tables)
    assert [(one.number, one.name) for one in second.held] == [(1, "fake.pdf")]


def test_adding_shows_every_file_with_its_state_and_goes_on_after_a_bad_one(model: Any, tmp_path: Path) -> None:
    good, empty, fake = tmp_path / "good.txt", tmp_path / "empty.txt", tmp_path / "fake.pdf"
    good.write_text("Bees make honey. They store it in combs made of wax. " * 20, encoding="utf-8")
    empty.write_text("", encoding="utf-8")
    fake.write_bytes(b"not a pdf at all")
    library = Library(model, None)
    adding = Adding(library, [fake, empty, good], threading.Event())
    tables = list(adding)
    library_rows = listed(library)
    library.close()
    assert [row.state for row in tables[0]] == ["queued"] * 3
    assert {row.state for table in tables for row in table} >= {"queued", "ready", "failed"}
    last = {row.name: row for row in tables[-1]}
    assert last["good.txt"].state == "ready" and last["good.txt"].chunks > 0 and last["good.txt"].cache_bytes > 0
    for name in ("empty.txt", "fake.pdf"):
        assert last[name].state == "failed" and name in last[name].detail and last[name].detail.endswith(".")
    assert [row.name for row in library_rows] == ["good.txt"]
    assert [(one.name, one.path) for one in adding.held] == [("fake.pdf", None), ("empty.txt", None)]


def test_stopping_keeps_whole_documents_only(model: Any, tmp_path: Path) -> None:
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"Number {number}. " + "Bees make honey from nectar. " * 3000, encoding="utf-8")
        paths.append(path)
    library = Library(model, None)
    cancel = threading.Event()
    for rows in (adding := Adding(library, paths, cancel)):
        if any(row.state == "embedding" for row in rows):
            cancel.set()
    states = [report.state for report in adding.reports]
    kept = [info.name for info in library.documents()]
    library.close()
    assert "cancelled" in states
    assert kept == [r.name for r in adding.reports if r.state == "ready"]


def test_only_ticked_documents_are_searched(library: Library) -> None:
    ids = [info.id for info in library.documents()]
    assert searched(library, []) is None
    assert searched(library, [ids[0]]) == ids[1:]
    assert searched(library, ids) == []
    assert [row.is_used for row in listed(library, [ids[0]])] == [False, True]


def test_missing_caches_are_made_afterwards(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Bees make honey from nectar. " * 200, encoding="utf-8")
    library = Library(model, None)
    library.add([path], with_caches=False)
    missing = len(library.missing_caches())
    assert missing > 0 and library.cache_bytes() == 0
    steps = list(CacheFilling(library, threading.Event()))
    left, size = len(library.missing_caches()), library.cache_bytes()
    library.close()
    assert left == 0 and size > 0
    assert steps[-1] == (missing, missing)


def test_limits_of_the_library_are_those_that_the_page_shows() -> None:
    limits = library_limits(Settings(max_file_mb=3, max_pages=7, max_files=2))
    assert (limits.max_bytes, limits.max_pages, limits.max_documents) == (3_000_000, 7, 2)


def test_passages_that_were_read_one_by_one_each_tell_their_answer(model: Any, tmp_path: Path) -> None:
    """`each_cache` answers over every passage and shows one answer; the others are a click away."""
    told = what_each_says(
        3,
        [
            PassageAnswer(1, "<b>14 euros</b>", False, 0.42, number=2),
            PassageAnswer(0, "", True, 0.0, number=1),
        ],
    )
    assert told.index("Passage 1</a> does not answer.") < told.index("Passage 2</a> says:")
    assert "&lt;b&gt;14 euros" in told and "(42 % likely right)" in told and 'href="#cite-3-2"' in told
    assert what_each_says(3, [PassageAnswer(0, "alone", False, number=1)]) == ""


def test_one_document_can_be_read_whole_and_two_cannot(model: Any, tmp_path: Path) -> None:
    library = Library(model, chunk_tokens=40)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(f"{name} says that bees make honey from nectar. " * 6)
    library.add([tmp_path / "a.txt", tmp_path / "b.txt"])
    first, second = (info.id for info in library.documents())
    asking = Asking(1, "What do bees make?", strategy="docs_cache", mode="quote", whole=True)
    list(asking.frames(library, model, [first], threading.Event()))
    assert [hit.chunk.document_id for hit in asking.turn.hits] == [first] * len(library.chunks(first))
    with pytest.raises(InputError, match="2 are chosen"):
        list(asking.frames(library, model, [first, second], threading.Event()))
