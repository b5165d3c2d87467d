"""The race: what it shows is what a plain run of each strategy gives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from grit_app.benchmark.measure import race
from grit_app.errors import Cancelled, InputError
from grit_app.gritlm import Sampling
from grit_app.rag.strategies import STRATEGIES, build_layout
from grit_app.ui.caching.handlers import sample_text

QUESTION = "How many bytes are kept per token?"


@pytest.fixture(scope="module")
def model(load_tiny: Callable[..., Any]) -> Any:
    return load_tiny("mistral", max_position_embeddings=4096)


def test_all_strategies_run_and_tell_what_they_read_and_reused(model: Any) -> None:
    text, tokens = race.cut_to_tokens(model, sample_text(), 400)
    assert 200 < tokens <= 400
    names = [name for name in STRATEGIES if name != "none"]
    begun: list[str] = []
    result = race.run(model, QUESTION, text, names, sampling=Sampling(max_new_tokens=6), on_lane=begun.append)
    assert begun == names
    for lane in result.lanes:
        layout = build_layout(lane.strategy, model.prompts, model.config, QUESTION, [text])
        assert lane.cached_tokens == layout.cached_length and lane.computed_tokens == len(layout.tail)
        assert (lane.cache_bytes > 0) == STRATEGIES[lane.strategy].caches_documents
        assert 0 < lane.ttft_ms <= lane.pieces[0][0] + 1e-6 and lane.ttft_ms <= lane.total_ms
        assert lane.at(lane.total_ms + 1) == lane.text and lane.at(0) == ""


def test_the_exact_strategy_gives_the_words_of_full_prefill_and_both_those_of_a_plain_run(model: Any) -> None:
    text, _ = race.cut_to_tokens(model, sample_text(), 300)
    sampling = Sampling(max_new_tokens=12)
    result = race.run(model, QUESTION, text, ["rag_doc_query", "prefix_cache"], sampling=sampling)
    tail = build_layout("rag_doc_query", model.prompts, model.config, QUESTION, [text]).tail
    plain = model.stream_ids(tail, None, sampling).read_all()
    assert plain.strip() and [lane.text for lane in result.lanes] == [plain, plain]
    assert result.same_answer


def test_quoting_gives_a_sentence_of_the_document_at_once(model: Any) -> None:
    text, _ = race.cut_to_tokens(model, sample_text(), 300)
    result = race.run(model, QUESTION, text, ["rag_doc_query", "prefix_cache", "docs_cache"], is_quoting=True)
    for lane in result.lanes:
        assert lane.text.split() and all(part in text for part in lane.text.splitlines())
        assert lane.at(lane.ttft_ms) == lane.text and lane.at(lane.ttft_ms - 0.01) == ""
    assert result.lanes[0].text == result.lanes[1].text  # the exact strategy chooses as full prefill does


def test_what_cannot_be_raced_is_a_sentence(model: Any) -> None:
    with pytest.raises(InputError, match=r"question"):
        race.run(model, " ", "text", ["rag_doc_query"])
    with pytest.raises(InputError, match=r"context"):
        race.run(model, QUESTION, sample_text() * 3, ["rag_doc_query"])


def test_stop_ends_a_race(model: Any) -> None:
    cancel = threading.Event()
    text, _ = race.cut_to_tokens(model, sample_text(), 200)
    begun: list[str] = []

    def begin(name: str) -> None:
        begun.append(name)
        cancel.set()

    with pytest.raises(Cancelled):
        race.run(model, QUESTION, text, ["rag_doc_query", "docs_cache"], on_lane=begin, cancel=cancel)
    assert begun == ["rag_doc_query"]
