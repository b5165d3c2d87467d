"""/v1/responses: the form that newer agents speak, by the official client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.serve.conftest import Server

GREEDY: dict[str, Any] = {"model": "gritlm", "temperature": 0, "max_output_tokens": 12}


def test_the_answer_is_that_of_the_chat(server: Server, openai_client: Any) -> None:
    found = openai_client.responses.create(**GREEDY, input="How is honey made?", instructions="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How is honey made?"}]
    assert found.output_text == server.model.generate(messages, 12)
    assert found.usage.total_tokens == found.usage.input_tokens + found.usage.output_tokens
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How is honey made?"}]}]
    again = openai_client.responses.create(**GREEDY, instructions="Be brief.", input=[*items, {"type": "reasoning"}])
    assert again.output_text == found.output_text


def test_a_stream_goes_from_created_to_the_end_in_order(openai_client: Any) -> None:
    whole = openai_client.responses.create(**GREEDY, input="How is honey made?")
    events = list(openai_client.responses.create(**GREEDY, input="How is honey made?", stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:-1] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text == events[-1].response.output_text


def test_a_function_is_called_and_its_result_is_read(openai_client: Any) -> None:
    tool = {
        "type": "function",
        "name": "search",
        "parameters": {
            "type": "object",
            "properties": {"query": {"enum": ["bees"]}},
            "required": ["query"],
            "additionalProperties": False,
        },
    }
    options = GREEDY | {"max_output_tokens": 200, "tools": [tool, {"type": "web_search"}], "tool_choice": "required"}
    question = {"role": "user", "content": "How is honey made?"}
    found = openai_client.responses.create(**options, input=[question])
    (call,) = found.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "search", {"query": "bees"})
    kinds = [event.type for event in openai_client.responses.create(**options, input=[question], stream=True)]
    assert "response.function_call_arguments.done" in kinds
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Bees make honey."}
    after = openai_client.responses.create(**GREEDY, input=[question, call.model_dump(), result])
    assert after.output_text


@pytest.mark.parametrize(
    "fields",
    [
        {"previous_response_id": "resp-1"},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": [{"role": "poet", "content": "Hi"}]},
        {"input": [{"type": "reasoning"}]},
    ],
)
def test_what_cannot_be_answered_is_a_sentence(client: httpx.Client, fields: dict[str, Any]) -> None:
    answer = client.post("/v1/responses", json=GREEDY | {"input": "Hi"} | fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].endswith(".")
