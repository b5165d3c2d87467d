"""/v1/chat/completions writes what the Python API writes, in every form that clients ask for."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Server, until

MESSAGES = [{"role": "user", "content": "How is honey made?"}]
GREEDY: dict[str, Any] = {"messages": MESSAGES, "temperature": 0, "max_tokens": 12}


def post(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/chat/completions", json=GREEDY | fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def events_of(client: httpx.Client, **fields: Any) -> list[Any]:
    """Data of a stream's events, the closing [DONE] checked and left out."""
    with client.stream("POST", "/v1/chat/completions", json=GREEDY | fields | {"stream": True}) as answer:
        assert answer.status_code == 200
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def text_of(events: list[Any], index: int = 0) -> str:
    parts = [part for event in events for part in event["choices"] if part["index"] == index]
    return "".join(part["delta"].get("content") or "" for part in parts)


def test_the_answer_is_that_of_the_python_api(server: Server, client: httpx.Client) -> None:
    body = post(client)
    assert body["choices"][0]["message"] == {"role": "assistant", "content": server.model.generate(MESSAGES, 12)}
    prompt = len(server.model.prompts.chat(MESSAGES).ids)
    assert body["usage"]["prompt_tokens"] == prompt
    assert body["usage"]["total_tokens"] == prompt + body["usage"]["completion_tokens"]
    assert body["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_stream_has_the_text_of_the_whole_answer(client: httpx.Client) -> None:
    events = events_of(client, stream_options={"include_usage": True})
    assert text_of(events) == post(client)["choices"][0]["message"]["content"]
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] > 0
    assert [part["finish_reason"] for event in events for part in event["choices"]][-1] == "length"
    assert "usage" not in events_of(client)[0]


def test_a_seed_repeats_and_choices_differ(client: httpx.Client) -> None:
    first = post(client, temperature=1.5, seed=7, n=3, max_tokens=16)
    again = post(client, temperature=1.5, seed=7, n=3, max_tokens=16)
    assert first["choices"] == again["choices"]
    assert len({one["message"]["content"] for one in first["choices"]}) == 3
    assert [one["index"] for one in first["choices"]] == [0, 1, 2]
    events = events_of(client, temperature=1.5, seed=7, n=3, max_tokens=16)
    assert [text_of(events, index) for index in range(3)] == [one["message"]["content"] for one in first["choices"]]


def test_the_second_turn_reads_only_what_is_new(client: httpx.Client) -> None:
    """Cached tokens are those of the first turn; the text is that of a conversation never seen before."""
    question = {"role": "user", "content": f"Tell me about bees and honey and wax and combs, number {time.time_ns()}."}
    first = post(client, messages=[question])
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    answer = first["choices"][0]["message"]
    longer = [question, answer, {"role": "user", "content": "And wax?"}]
    second = post(client, messages=longer)
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert first["usage"]["prompt_tokens"] <= cached < second["usage"]["prompt_tokens"]


def test_reused_turns_change_no_token(server: Server, client: httpx.Client) -> None:
    messages: list[dict[str, str]] = []
    for turn in range(4):
        messages.append({"role": "user", "content": f"Question {turn} about the river and the mountains and the sea."})
        body = post(client, messages=messages, max_tokens=8)
        content = body["choices"][0]["message"]["content"]
        assert content == server.model.generate(messages, 8), turn
        messages.append({"role": "assistant", "content": content})
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] > 50


def test_the_prompt_of_several_choices_is_read_once(client: httpx.Client) -> None:
    """Each choice but the first takes up the keys and values that the first one's prompt left."""

    def cached() -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith('grit_tokens_total{kind="cached"}'))

    messages = [{"role": "user", "content": f"Tell me of bees, number {time.time_ns()}. " + "The river is long. " * 40}]
    before = cached()
    body = post(client, messages=messages, n=4, temperature=1.2, seed=5)
    prompt = body["usage"]["prompt_tokens"]
    assert prompt > 300 and cached() - before == 3 * (prompt - 1)
    (one,) = {choice["message"]["content"] for choice in post(client, n=3, max_tokens=1)["choices"]}
    assert post(client, max_tokens=1)["choices"][0]["message"]["content"] == one, "the first has ended with its prompt"
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert len({str(choice["message"]) for choice in post(client, n=2, response_format=form)["choices"]}) == 1
    alone = [post(client, messages=messages, temperature=1.2, seed=5 + at)["choices"][0] for at in range(4)]
    assert [one["message"] for one in body["choices"]] == [one["message"] for one in alone]


def test_an_answer_ends_before_a_stop_string_and_shows_no_part_of_it(client: httpx.Client) -> None:
    whole = post(client, max_tokens=24)["choices"][0]["message"]["content"]
    assert len(whole) > 8
    stop = whole[5:8]
    cut = post(client, max_tokens=24, stop=[stop, "never"])["choices"][0]
    assert cut["message"]["content"] == whole[: whole.index(stop)]
    assert cut["finish_reason"] == "stop"
    assert text_of(events_of(client, max_tokens=24, stop=stop)) == whole[: whole.index(stop)]


def test_logprobs_are_those_of_the_model(server: Server, client: httpx.Client) -> None:
    body = post(client, logprobs=True, top_logprobs=3, max_tokens=6)
    entries = body["choices"][0]["logprobs"]["content"]
    ids = server.model.prompts.chat(MESSAGES).ids
    stream = server.model.stream_ids(ids, sampling=None)
    stream.read_all()
    chosen = stream.token_ids[: len(entries)]
    total = server.model.score(ids, [chosen])[0]
    assert len(entries) == 6
    assert sum(entry["logprob"] for entry in entries) == pytest.approx(total, abs=1e-3)
    for entry in entries:
        assert entry["top_logprobs"][0]["logprob"] == pytest.approx(entry["logprob"])  # greedy: the likeliest
        assert len(entry["top_logprobs"]) == 3
    assert (
        bytes(byte for entry in entries for byte in entry["bytes"])
        .decode("utf-8", "ignore")
        .startswith(body["choices"][0]["message"]["content"][:3])
    )
    streamed = events_of(client, logprobs=True, top_logprobs=3, max_tokens=6)
    parts = [p for e in streamed for p in e["choices"] if p["logprobs"]]
    assert [entry for part in parts for entry in part["logprobs"]["content"]] == entries


SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}


def test_an_answer_fits_its_json_schema(client: httpx.Client) -> None:
    """A random model would never write JSON by itself."""
    import jsonschema

    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    for fields in ({"temperature": 0}, {"temperature": 2, "seed": 3}):
        one = post(client, response_format=form, max_tokens=200, **fields)["choices"][0]
        jsonschema.validate(json.loads(one["message"]["content"]), SCHEMA)
        assert one["finish_reason"] == "stop"
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "poem"}}}
    answer = client.post("/v1/chat/completions", json=GREEDY | {"response_format": bad})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")


def test_an_integer_without_limits_ends(client: httpx.Client) -> None:
    """A random model would write digits until it has no tokens left."""
    fields = {
        "count": {"type": "integer"},
        "fixed": {"const": {"type": "integer"}},
        "few": {"type": "integer", "maximum": 9},
    }
    schema = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for seed in range(3):
        one = post(client, response_format=form, max_tokens=120, temperature=0.1, seed=seed)["choices"][0]
        found = json.loads(one["message"]["content"])
        assert abs(found["count"]) < 2**53 and found["few"] <= 9 and found["fixed"] == {"type": "integer"}


TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Finds passages.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"enum": ["bees", "wax"]}},
            "required": ["query"],
            "additionalProperties": False,
        },
    },
}


def test_a_required_tool_is_called_with_arguments_that_fit(client: httpx.Client) -> None:
    for wanted in ("required", {"type": "function", "function": {"name": "search"}}):
        one = post(client, tools=[TOOL], tool_choice=wanted, max_tokens=200)["choices"][0]
        assert one["finish_reason"] == "tool_calls"
        (call,) = one["message"]["tool_calls"]
        assert call["function"]["name"] == "search"
        assert json.loads(call["function"]["arguments"])["query"] in ("bees", "wax")
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "Bees make honey."},
    ]
    assert post(client, messages=history, tools=[TOOL])["choices"][0]["message"]["content"]


def test_writing_stops_when_the_client_goes(server: Server, client: httpx.Client) -> None:
    writer = server.app.state.service.writer(server.model)
    with client.stream("POST", "/v1/chat/completions", json=GREEDY | {"stream": True, "max_tokens": 1900}) as answer:
        lines = answer.iter_lines()  # kept: an iterator that nobody holds closes the connection
        next(lines)
        until(lambda: writer.running == 1, seconds=5)
    until(lambda: writer.running == 0, seconds=5)


def test_an_answer_that_nobody_waits_for_any_more_is_stopped(server: Server) -> None:
    """Without a stream nothing is sent that could fail; tokens come faster than the server looks for its client."""
    body = GREEDY | {"max_tokens": 2000}
    writer = server.app.state.service.writer(server.model)
    with httpx.Client(base_url=server.url) as http, pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json=body, timeout=0.3)
    until(lambda: writer.running == 0, seconds=1)


def test_many_chats_at_once_get_their_own_answers(server: Server) -> None:
    """Decoded together, each answer is that of its conversation alone."""
    questions = [f"Question {number}: what does the river do?" for number in range(12)]
    wanted = [server.model.generate([{"role": "user", "content": text}], 10) for text in questions]
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            body = GREEDY | {"messages": [{"role": "user", "content": questions[number]}], "max_tokens": 10}
            found[number] = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(12)] == wanted


def test_one_key_gains_nothing_from_anothers_conversation(fresh_server: Callable[..., Any]) -> None:
    """How much of a prompt was kept would tell that somebody else had asked it."""
    with fresh_server(api_key="a,b") as server, httpx.Client(base_url=server.url, timeout=60) as http:

        def cached(key: str) -> int:
            headers = {"authorization": f"Bearer {key}"}
            body = http.post("/v1/chat/completions", json=GREEDY, headers=headers).json()
            return int(body["usage"]["prompt_tokens_details"]["cached_tokens"])

        assert cached("a") == 0
        assert cached("b") == 0
        assert cached("a") > 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"temperature": -1}, "temperature"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "fly"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(client: httpx.Client, fields: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        answer = client.post("/v1/chat/completions", json=GREEDY | fields | {"stream": stream})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == param


def test_a_conversation_that_does_not_fit_is_refused_before_the_stream(client: httpx.Client) -> None:
    messages = [{"role": "user", "content": "bee " * 3000}]
    answer = client.post("/v1/chat/completions", json=GREEDY | {"messages": messages, "stream": True})
    assert answer.status_code == 400
    assert "tokens" in answer.json()["error"]["message"]
