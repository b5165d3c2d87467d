"""Talk about the app itself: which messages get an example, and which reach the model as they are."""

import json
from dataclasses import replace

import pytest

from grit_app.gritlm import GritLM
from grit_app.places import BUNDLED_MODEL
from grit_app.rag.turns.small_talk import FILE, LONGEST_REQUEST, SmallTalk, exchanges, with_example


@pytest.fixture(scope="module")
def served() -> GritLM:
    return GritLM.from_pretrained(BUNDLED_MODEL)


def said(*words: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(words)]


def test_every_row_has_requests_and_a_reply_and_no_request_stands_twice():
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    requests = [request for row in rows for request in row["requests"]]
    assert all(row["requests"] and row["reply"].strip() for row in rows)
    assert len(requests) == len(set(requests))
    assert max(map(len, requests)) <= LONGEST_REQUEST


def test_replies_name_the_model_that_is_there():
    texts = " ".join(one.reply for one in exchanges("some-model", 7242))
    assert "some-model" in texts and "7242 million" in texts
    assert "{" not in texts and "gritlm-135m" not in texts


@pytest.mark.parametrize(
    ("message", "meant"),
    [
        ("Who are you?", "Who are you?"),
        ("whats ur name", "what's your name?"),
        ("how can I add a pdf file", "How do I add a PDF?"),
        ("is my data private", "Is this private?"),
    ],
)
def test_a_question_about_the_app_gets_its_example_right_before_it(served: GritLM, message: str, meant: str):
    earlier = said("What is the capital of France?", "Paris.")
    messages, example = with_example(served, [*earlier, *said(message)])
    assert example is not None and example.request == meant
    assert messages == [*earlier, *example.messages, *said(message)]


@pytest.mark.parametrize(
    "message",
    [
        "What is the capital of France?",
        "Who wrote Romeo and Juliet?",
        "How big is the moon?",
        "Who made the iPhone?",
        "Write a poem about a robot",
        "Why is the sky blue?",
        "Who are you? " * 30,
    ],
)
def test_other_messages_reach_the_model_as_they_are(served: GritLM, message: str):
    assert with_example(served, said(message)) == (said(message), None)


def test_a_system_message_says_who_the_model_shall_be(served: GritLM):
    messages = [{"role": "system", "content": "You are Napoleon."}, *said("Who are you?")]
    assert with_example(served, messages) == (messages, None)


def test_a_model_without_a_threshold_gets_no_examples(served: GritLM, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(served, "config", replace(served.config, small_talk_similarity=0.0))
    monkeypatch.setattr(served, "encode", lambda *_, **__: pytest.fail("nothing is embedded for nothing"))
    assert SmallTalk(served).nearest(served, "Who are you?") is None


def test_the_model_answers_who_it_is(served: GritLM):
    messages, _ = with_example(served, said("Who are you?"))
    assert served.name in served.generate(messages, max_new_tokens=40)
