"""A model that searches while it answers: the words of the protocol, and the loop around them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from grit_app.errors import InputError
from grit_app.gritlm import Sampling
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Done, FirstToken, Searching, Token
from grit_app.rag.searching import loop
from grit_app.rag.searching.loop import answer_searching
from grit_app.rag.searching.protocol import OFFER, call, may_become_call, offered, query_in

QUESTION = "How many schools participated?"
SHORT = Sampling(max_new_tokens=5)


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("search(bees in Paris (Texas))", "bees in Paris (Texas)"),
        ('\nsearch("honey")\nand more', "honey"),
        ("search(no end", "no end"),
        ("search()", None),
        ("search(…)", None),
        ("The search(bees) found it.", None),
        ("370 schools", None),
        ("", None),
    ],
)
def test_a_call_is_told_from_an_answer(text: str, query: str | None) -> None:
    assert query_in(text) == query


def test_what_is_asked_for_is_read_back_and_tokens_wait_only_while_needed() -> None:
    assert query_in(call(" bees \n and wax ")) == "bees and wax"
    assert all(may_become_call("search(bees)"[:end]) for end in range(12))
    assert not may_become_call("sea of") and not may_become_call("370")
    assert offered("Q?") == f"Q?\n{OFFER}" and offered("Q?", ["a", "b"]).endswith("Searched for: a | b")


@pytest.fixture
def scripted(library: Any, tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`scripted([...texts])`: the steps write these, one after the other; gives the prompts that they were asked."""
    done = list(answer(QUESTION, library, tiny_model, "docs_cache", mode="free", sampling=SHORT))[-1]
    assert isinstance(done, Done)

    def start(texts: list[str]) -> tuple[list[str], list[tuple[Any, ...]]]:
        prompts: list[str] = []
        read: list[tuple[Any, ...]] = []

        def written(prompt: str, *_: Any, hits: tuple[Any, ...], **__: Any) -> Iterator[Any]:
            prompts.append(prompt)
            read.append(hits)
            text = texts[len(prompts) - 1]
            yield FirstToken(1.0)
            yield from (Token(text[place : place + 3]) for place in range(0, len(text), 3))
            yield Done(replace(done.answer, text=text))

        monkeypatch.setattr(loop, "answer", written)
        return prompts, read

    return start


def run(library: Any, model: Any, **options: Any) -> tuple[list[Any], Answer]:
    events = list(answer_searching(QUESTION, library, model, "docs_cache", **{"k": 1, "searches": 2} | options))
    assert isinstance(events[-1], Done)
    return events, events[-1].answer


def test_the_model_searches_reads_more_and_answers(library: Any, tiny_model: Any, scripted: Any) -> None:
    prompts, read = scripted(["search(The river reaches the sea)", "370 schools"])
    events, done = run(library, tiny_model)
    assert [event.query for event in events if isinstance(event, Searching)] == ["The river reaches the sea"]
    assert "".join(event.text for event in events if isinstance(event, Token)) == done.text == "370 schools"
    assert (done.searches, done.question) == (("The river reaches the sea",), QUESTION)
    assert prompts == [offered(QUESTION), offered(QUESTION, done.searches)]
    assert len(read[0]) < len(read[1]) and read[1][: len(read[0])] == read[0]
    assert done.cached_tokens and done.timings_ms["total"] > done.timings_ms["first_token"] > 1.0


def test_it_has_to_answer_at_last(library: Any, tiny_model: Any, scripted: Any) -> None:
    """After the searches that are allowed, and after one that brings nothing new: the plain question."""
    prompts, _ = scripted(["search(river)", "search(sea)"])
    assert run(library, tiny_model, searches=1)[1].text == "search(sea)"
    assert prompts[-1] == QUESTION
    prompts, _ = scripted([f"search({QUESTION})", "so"])
    assert run(library, tiny_model)[1].searches == (QUESTION,) and prompts[-1] == QUESTION


def test_a_model_that_never_asks_answers_as_over_the_same_passages(library: Any, tiny_model: Any) -> None:
    _, found = run(library, tiny_model, sampling=SHORT)
    hits = library.search(tiny_model.encode([QUESTION])[0], QUESTION, 1)
    prompt = offered(QUESTION)
    plain = list(answer(prompt, library, tiny_model, "docs_cache", mode="free", sampling=SHORT, hits=hits))[-1]
    assert isinstance(plain, Done) and plain.answer.text == found.text and found.searches == ()
    assert found.cached_tokens == plain.answer.cached_tokens > 0, "passages come from their caches"


def test_what_cannot_be_searched_is_a_sentence(library: Any, tiny_model: Any) -> None:
    for options, words in (({"searches": 0}, "1 … 8"), ({"strategy": "each_cache", "searches": 1}, "docs_cache")):
        with pytest.raises(InputError, match=words):
            list(answer_searching(QUESTION, library, tiny_model, **options))
