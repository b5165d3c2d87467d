"""From a question to a cited answer, over real files and a tiny random model."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import pytest

from grit_app.documents.chunking import Chunk
from grit_app.documents.library import Hit
from grit_app.errors import InputError
from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.write.runtime import Decoder
from grit_app.rag.answering import answer
from grit_app.rag.events import STAGES, Answer, Done, FirstToken, PassageAnswer, Retrieved, Rewritten, Token
from grit_app.rag.one_by_one import choose
from grit_app.rag.reranking import rerank
from grit_app.rag.retrieval import Found, answerable, is_general, is_refusal
from grit_app.rag.strategies import STRATEGIES, build_layouts, find_strategy
from grit_app.rag.turns.follow_up import Turn

QUESTION = "How many schools participated in the United States?"
SHORT = Sampling(max_new_tokens=6)
OURS = ["question", "mode", "confidence", "notes", "passage_answers", "searches"]
"""Keys of the JSON beyond the published ones."""


def with_config(model: GritLM, **changes: Any) -> GritLM:
    """The same weights under another configuration."""
    return GritLM(
        model.hf_model, model.tokenizer, replace(model.config, **changes), name=model.name, identity=model.identity
    )


@pytest.fixture
def model(tiny_model):
    """By keywords alone: a random model's vectors find nothing."""
    return with_config(tiny_model, vector_weight=0.0, answerable_threshold=0.2)


def found(score: float, **how: bool) -> Found:
    """One passage of that retrieval score."""
    chunk = Chunk("d:0", "d", "d.txt", 0, "370 schools.", 0, 12, (0,), "1")
    return Found((Hit(chunk, score, score, score, "both"),), **{"is_general": False} | how)


def ask(question: str, library: Any, model: GritLM, **options: Any) -> Answer:
    events = list(answer(question, library, model, sampling=SHORT, **options))
    assert isinstance(events[-1], Done)
    return events[-1].answer


@pytest.fixture
def searchable(make_library, model):
    library = make_library(model)
    yield library
    library.close()


@pytest.mark.parametrize("mode", ["quote", "free"])
@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_answers_and_counts_its_tokens(searchable, model, name, mode):
    """cached_tokens and prompt_tokens must be those of the layout that was really run."""
    result = ask(QUESTION, searchable, model, strategy=name, k=2, mode=mode)
    passages = [citation.hit.chunk.text for citation in sorted(result.citations, key=lambda c: -c.hit.score)]
    layouts = build_layouts(find_strategy(name), model.prompts, model.config, QUESTION, passages)
    cached = sum(layout.cached_length for layout in layouts)
    assert (result.cached_tokens, result.prompt_tokens) == (cached, cached + sum(len(lay.tail) for lay in layouts))
    assert (result.cached_tokens > 0) == STRATEGIES[name].caches_anything
    assert result.new_tokens > 0
    if not STRATEGIES[name].retrieves:
        assert result.citations == () and result.mode == "free"
    else:
        assert any("370 schools" in passage for passage in passages)
        assert result.mode == mode
    if mode == "quote" and STRATEGIES[name].retrieves:
        assert result.text == "A total of 370 schools participated in the United States."


def test_strategies_that_cache_write_the_same_greedy_text_as_a_fresh_library(searchable, make_library, model):
    """A cache from the store must give what a cache made now gives."""
    first = ask(QUESTION, searchable, model, strategy="docs_cache", k=2, mode="free").text
    again = ask(QUESTION, searchable, model, strategy="docs_cache", k=2, mode="free").text
    fresh = make_library(model)
    assert first == again == ask(QUESTION, fresh, model, strategy="docs_cache", k=2, mode="free").text != ""
    fresh.close()


def test_prefix_cache_writes_the_text_of_full_prefill(searchable, model):
    texts = {
        ask(QUESTION, searchable, model, strategy=s, k=2, mode="free").text for s in ("prefix_cache", "rag_doc_query")
    }
    assert len(texts) == 1 and texts != {""}


def test_events_come_in_order_and_their_text_is_the_answer(searchable, model):
    events = list(answer(QUESTION, searchable, model, mode="free", sampling=SHORT, k=2))
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Retrieved, FirstToken] and kinds[-1] is Done and set(kinds[2:-1]) == {Token}
    assert "".join(e.text for e in events if isinstance(e, Token)).strip() == events[-1].answer.text
    assert len(events[0].hits) == 2


def test_timings_cover_every_stage_and_add_up(searchable, model):
    result = ask(QUESTION, searchable, model, strategy="docs_cache", k=2, mode="free")
    timings = result.timings_ms
    assert tuple(timings) == STAGES
    assert all(timings[stage] > 0 for stage in STAGES)
    assert timings["first_token"] >= timings["embed"] + timings["search"] + timings["load_cache"] + timings["prefill"]
    assert timings["total"] >= timings["first_token"]


def test_a_quote_is_marked_with_the_passage_page_and_place_that_hold_it(searchable, model):
    result = ask(QUESTION, searchable, model, mode="quote", k=2)
    first = result.citations[0]
    assert result.marked == "A total of 370 schools participated in the United States. [1]"
    assert (first.number, first.hit.chunk.document_name, first.page, first.is_cited) == (1, "study.txt", 1, True)
    start, stop = first.support
    assert first.hit.chunk.text[start:stop] == result.text
    assert result.is_supported and result.answerable and result.notes == ()


def test_a_short_answer_is_a_part_of_its_quote_with_the_same_citation(searchable, model):
    """The few words are marked with the passage of the whole sentence, wherever else they may stand."""
    quoted = ask(QUESTION, searchable, model, mode="quote", k=2)
    short = ask(QUESTION, searchable, model, mode="short", k=2)
    assert short.text == short.short == quoted.short and "370" in short.text
    assert len(short.text) < len(quoted.text) and short.text in quoted.text
    assert short.marked == f"{short.text} [1]" and short.citations[0].support == quoted.citations[0].support
    assert ask(QUESTION, searchable, model, mode="free", k=2).short == ""
    general = ask("What is this about?", searchable, model, mode="short", k=2)
    assert general.short == "" and len(general.text.split()) > 4


def test_json_has_the_published_keys_first(searchable, model):
    data = ask(QUESTION, searchable, model, mode="quote", k=2).to_json([{"file": "x.pdf", "reason": "x.pdf is empty."}])
    assert list(data) == [
        "answer", "answerable", "strategy", "citations", "prompt_tokens", "cached_tokens", "new_tokens", "timings_ms",
        "skipped", *OURS,
    ]  # fmt: skip
    assert list(data["citations"][0]) == ["number", "file", "page", "page_label", "text", "score"]
    assert list(data["timings_ms"]) == ["embed", "search", "load_cache", "prefill", "first_token", "total"]
    assert data["skipped"] == [{"file": "x.pdf", "reason": "x.pdf is empty."}]


def test_what_the_documents_do_not_answer_is_refused_without_running_the_model(searchable, model):
    """The nearest passages are still shown, without marks; nothing was read, so nothing counts as prompt."""
    result = ask("Who painted the ceiling of the chapel?", searchable, model, k=2)
    assert not result.answerable and result.text == model.config.refusal_sentence
    assert (result.prompt_tokens, result.cached_tokens, result.new_tokens) == (0, 0, 0)
    assert all(not citation.is_cited for citation in result.citations)
    assert "do not answer" in result.notes[0]


def test_answerable_has_one_definition(model):
    config = replace(model.config, answerable_threshold=0.5)
    assert answerable(found(0.5), "370 schools.", config)
    assert not answerable(found(0.49), "370 schools.", config)
    assert not answerable(found(0.9), config.refusal_sentence, config)
    assert not answerable(found(0.9), "the text does not give the answer", config)
    assert not answerable(found(0.9), "  ", config)
    assert answerable(found(0.0, is_general=True), "It is about bees.", config)
    assert answerable(found(0.0, is_given=True), "370 schools.", config)
    assert not answerable(found(0.0, is_given=True), config.refusal_sentence, config)
    assert not answerable(Found((), is_general=True), "Anything.", config)
    assert not is_refusal("The text does not mention it.", config)


@pytest.mark.parametrize("mode", ["quote", "free"])
def test_general_questions_are_answered_from_the_opening(searchable, model, mode):
    """No word of "What is this about?" stands in any document: by its score alone it would be refused."""
    bees = next(info.id for info in searchable.documents() if info.name == "bees.txt")
    result = ask("What is this document about?", searchable, model, documents=[bees], mode=mode, k=2)
    assert result.new_tokens > 0 and "do not answer" not in " ".join(result.notes)
    assert {citation.hit.chunk.index for citation in result.citations} >= {0}
    if mode == "quote":
        assert result.answerable and result.text.startswith("Bees make honey from nectar")


@pytest.mark.parametrize(
    ("question", "general"),
    [
        ("What is this about?", True), ("what is the paper about", True), ("Summarise the report.", True),
        ("Give me a summary", True), ("What are the main findings?", True), ("What is the purpose of this text?", True),
        ("What does this document say?", True), ("What's in this PDF?", True), ("what is this", True),
        ("Tell me about this document.", True), ("Key takeaways?", True), ("Worum geht es in dem Text?", True),
        ("De quoi parle ce document ?", True), ("这份文件的主要内容是什么？", True), ("ما هو ملخص الوثيقة؟", True),
        ("Tell me about this document's author", False), ("What is this river called?", False),
        ("What does the report say about schools?", False), ("How many schools participated?", False),
        ("What is the law about loans?", False), ("What is about 30 km away?", False),
    ],
)  # fmt: skip
def test_which_questions_are_general(question, general):
    assert is_general(question) is general


def test_only_the_named_documents_are_searched(searchable, model):
    bees = next(info.id for info in searchable.documents() if info.name == "bees.txt")
    result = ask("How many schools and workers are there?", searchable, model, documents=[bees], k=3)
    assert {citation.hit.chunk.document_name for citation in result.citations} == {"bees.txt"}


def test_passages_that_do_not_fit_the_context_are_dropped_from_the_end_and_it_says_so(load_tiny, make_library):
    small = with_config(load_tiny("mistral", max_position_embeddings=160), vector_weight=0.0)
    library = make_library(small)
    result = ask(QUESTION, library, small, mode="free", k=3, strategy="docs_cache")
    assert result.prompt_tokens + SHORT.max_new_tokens <= 160
    assert "Only the best" in result.notes[0]
    with pytest.raises(InputError, match="does not fit into the model's context of 160"):
        ask("why " * 200, library, small, strategy="none")
    library.close()


@pytest.mark.parametrize("mode", ["quote", "free", "sources"])
def test_a_question_that_does_not_fit_is_refused_before_anything_is_computed(
    load_tiny, make_library, monkeypatch, mode
):
    """A pasted book was embedded first: half a minute in which nobody was told anything."""
    small = load_tiny("mistral", max_position_embeddings=160)
    library = make_library(small)
    monkeypatch.setattr(type(small), "encode_iter", lambda *_, **__: pytest.fail("it was embedded"))
    with pytest.raises(InputError, match="Shorten it"):
        list(answer("why " * 200, library, small, mode=mode))
    library.close()


def test_each_passage_is_read_by_itself_and_its_answer_told(searchable, model):
    """The answers over each passage are those of doc_cache over that passage alone, token for token."""
    events = list(answer(QUESTION, searchable, model, strategy="each_cache", k=3, mode="free", sampling=SHORT))
    told = {event.hit: event for event in events if isinstance(event, PassageAnswer)}
    hits = events[0].hits
    assert sorted(told) == [0, 1, 2]
    for number, hit in enumerate(hits):
        alone = ask(QUESTION, searchable, model, strategy="doc_cache", hits=[hit], mode="free")
        assert told[number].text == alone.text != ""
    done = events[-1].answer
    assert done.text == told[0].text, "without a fitted confidence the best-ranked answer that does not refuse"
    assert [a.number for a in done.passage_answers] == [1, 2, 3] and done.new_tokens > 6
    data = done.to_json()
    assert [row["text"] for row in data["passage_answers"]] == [told[a.hit].text for a in done.passage_answers]
    assert "".join(event.text for event in events if isinstance(event, Token)).strip() == done.text


def test_the_likeliest_answer_that_does_not_refuse_wins(searchable, model):
    """By the checkpoint's fitted confidence; and where every passage refuses, so does the answer."""
    fitted = {"weights": {"bias": 0.0, "rank": 2.0}, "refuse": 0.0, "doubt": 0.999, "sure": 1.0}
    judged = with_config(model, vector_weight=0.0, confidence={"each": fitted})
    last = ask(QUESTION, searchable, judged, strategy="each_cache", k=3, mode="free")
    chosen = max(last.passage_answers, key=lambda a: a.confidence)
    assert last.text == chosen.text and chosen.hit == 2 and chosen.number == 1
    assert last.confidence == pytest.approx(1 / (1 + math.exp(-4.0)))
    assert last.is_doubtful and "closest answer" in last.notes[0]
    assert all(not citation.is_cited for citation in last.citations[1:]), "only the passage that was read supports it"
    refusing = [PassageAnswer(number, "x", refuses=number < 2, confidence=0.1 * number) for number in range(3)]
    assert choose(refusing) is refusing[2]
    assert choose(refusing[:2]) is None


def test_an_answer_below_the_first_threshold_is_refused_and_above_the_last_is_short(searchable, model):
    def ask_with(**thresholds: float) -> Answer:
        fitted = {"weights": {"bias": 0.0}, "refuse": 0.0, "doubt": 0.0, "sure": 0.0} | thresholds
        return ask(QUESTION, searchable, with_config(model, vector_weight=0.0, confidence={"quote": fitted}), k=2,
                   mode="quote")  # fmt: skip

    refused = ask_with(refuse=0.6)
    assert refused.text == model.config.refusal_sentence and not refused.answerable and refused.short == ""
    sure, unsure, doubtful = ask_with(), ask_with(sure=0.6), ask_with(sure=0.6, doubt=0.6)
    assert sure.text == unsure.text == doubtful.text and sure.confidence == 0.5
    assert sure.short and not unsure.short and not doubtful.short
    assert doubtful.notes == ("This is the closest sentence; it may not answer the question.",) != unsure.notes


def test_a_quote_of_table_rows_carries_its_passages_number(make_library, model):
    """It was searched for again by its words, and a verbatim row was called unsupported."""
    rows = "Travel costs of senators\nMs Ruiz 1,204.50 travel 17 days\nMr Okoye 88.10 travel 2 days\n"
    library = make_library(model, {"table.txt": rows, "more.txt": "Ms Ruiz is a senator. She does travel a lot."})
    result = ask("How much did Ms Ruiz spend on travel?", library, model, mode="quote", k=2)
    assert result.is_supported and result.notes == ()
    for sentence, numbers in result.sentences:
        assert len(numbers) == 1 and sentence in result.citations[numbers[0] - 1].hit.chunk.text
    library.close()


def test_sources_alone_are_found_and_nothing_is_read(searchable, model):
    events = list(answer(QUESTION, searchable, model, mode="sources", k=2))
    assert [type(event) for event in events] == [Retrieved, Done]
    result = events[-1].answer
    assert (result.text, result.mode, result.prompt_tokens) == ("", "sources", 0)
    assert len(result.citations) == 2 and result.notes == ()


def test_the_model_reorders_what_was_found_before_k_are_taken(searchable, model):
    """The order is that of the scores that `rerank` gives the ten best, and the price is told."""
    found = ask(QUESTION, searchable, model, mode="sources", k=10)
    texts = [citation.hit.chunk.text for citation in found.citations]
    scores = rerank(model, QUESTION, texts, "question")
    expected = [text for _, text in sorted(zip(scores, texts, strict=True), key=lambda pair: -pair[0])]
    assert expected != texts and len(texts) > 2, "the order must be able to change"

    reordered = ask(QUESTION, searchable, model, mode="sources", k=2, reranked_by="question")
    assert [citation.hit.chunk.text for citation in reordered.citations] == expected[:2]
    (note,) = [note for note in reordered.notes if "own order" in note]
    assert f"read {len(texts)} passages" in note and note.endswith(" s.")


def test_given_passages_and_whole_documents_keep_their_order(searchable, model):
    hits = [citation.hit for citation in ask(QUESTION, searchable, model, mode="sources", k=3).citations]
    given = ask(QUESTION, searchable, model, mode="sources", hits=hits[::-1], reranked_by="relevance")
    assert [citation.hit.chunk.id for citation in given.citations] == [hit.chunk.id for hit in hits[::-1]]
    assert not any("own order" in note for note in given.notes)


def test_a_short_document_is_read_whole_in_its_own_order(make_library, model):
    library = make_library(model, {"bees.txt": "\n\n".join(f"Hive {n} holds {n} queens." for n in range(40))})
    library.chunk_tokens = 200
    (info,) = library.documents()
    assert info.chunks > 1
    result = ask("How many queens does hive 3 hold?", library, model, whole=True, mode="free", strategy="each_cache")
    read = sorted(result.citations, key=lambda citation: citation.hit.chunk.index)
    assert len(read) == info.chunks and result.strategy == "docs_cache"
    joined = build_layouts(find_strategy("docs_cache"), model.prompts, model.config, result.question,
                           [citation.hit.chunk.text for citation in read])  # fmt: skip
    assert result.cached_tokens == joined[0].cached_length
    small = with_config(load_small := model)
    small.context = 200
    with pytest.raises(InputError, match="does not fit into the model's context of 200 tokens as a whole"):
        ask("How many?", library, small, whole=True, mode="free")
    assert load_small.context > 200
    library.close()


def test_several_documents_cannot_be_read_as_a_whole(searchable, model):
    with pytest.raises(InputError, match="3 are chosen"):
        ask(QUESTION, searchable, model, whole=True)


def test_a_question_that_follows_is_rewritten_shown_and_searched_as_rewritten(searchable, model):
    turns = [Turn("How many schools participated in the United States?", "370 schools.")]
    events = list(answer("And in 2011?", searchable, model, turns=turns, mode="sources", k=2))
    assert events[0] == Rewritten("How many schools participated in 2011?")
    assert events[-1].answer.question == "How many schools participated in 2011?"
    assert events[1].hits[0].chunk.document_name == "study.txt"


@pytest.mark.parametrize("mode", ["quote", "short", "free"])
@pytest.mark.parametrize("strategy", ["rag_doc_query", "docs_cache", "each_cache"])
def test_stop_is_looked_at_while_an_answer_is_read(searchable, model, strategy, mode, monkeypatch):
    """Quoting and scoring looked away: a long prompt on a slow machine could not be stopped."""
    stop = threading.Event()
    layers = 0

    def stop_in_the_second_layer(self: Any, *arguments: Any) -> Any:
        nonlocal layers
        layers += 1
        if layers == 1:
            stop.set()
        return attention(self, *arguments)

    attention = Decoder._attention
    monkeypatch.setattr(Decoder, "_attention", stop_in_the_second_layer)
    result = ask(QUESTION, searchable, model, strategy=strategy, mode=mode, cancel=stop, k=2)
    assert layers == 1, "no second layer is computed after Stop"
    assert (result.finish_reason, result.answerable) == ("cancelled", False)
    assert "Stopped" in result.notes[0]


def test_cancel_stops_a_free_answer_and_an_answer_that_has_not_begun(searchable, model):
    stop = threading.Event()
    events = answer(QUESTION, searchable, model, mode="free", cancel=stop, k=1, sampling=Sampling(max_new_tokens=400))
    texts = 0
    for event in events:
        if isinstance(event, Token):
            texts += 1
            stop.set()
        if isinstance(event, Done):
            assert event.answer.finish_reason == "cancelled"
            assert "Stopped" in event.answer.notes[0]
    assert 1 <= texts <= 3
    result = ask(QUESTION, searchable, model, mode="quote", cancel=stop)
    assert (result.text, result.finish_reason, result.answerable) == ("", "cancelled", False)


def test_passages_given_by_the_caller_are_read_and_judged_whatever_their_score(searchable, model):
    """They were read, and then the answer was disowned by their score: a right quote without a mark."""
    hits = searchable.search(model.encode([QUESTION])[0], QUESTION, 1)
    poor = [replace(hits[0], score=0.0)]
    result = ask(QUESTION, searchable, model, hits=poor, mode="quote")
    assert result.marked == "A total of 370 schools participated in the United States. [1]"
    assert result.answerable and result.citations[0].is_cited and result.notes == ()


@pytest.mark.parametrize(
    ("question", "options", "words"),
    [("  ", {}, "empty"), ("Why?", {"strategy": "fast"}, "no strategy 'fast'"), ("Why?", {"k": 0}, "at least 1")],
)
def test_bad_questions_are_sentences_and_raise_at_once(searchable, model, question, options, words):
    """At the call and not at the first event, so that a caller can tell before it shows anything."""
    with pytest.raises(InputError, match=words):
        answer(question, searchable, model, **options)


def test_an_empty_library_does_not_answer(tiny_model):
    from grit_app.documents.library import Library

    library = Library(tiny_model, None)
    result = ask("Is there anything?", library, tiny_model)
    assert not result.answerable and result.citations == ()
    library.close()
