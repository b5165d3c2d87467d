"""OpenAI's newer form. It is turned into a chat: the history arrives whole, and nothing is kept."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError

from grit_app.serve.errors import bad_request
from grit_app.serve.routes.chat import plans
from grit_app.serve.service import Asking, Running
from grit_app.serve.types.chat import ChatRequest
from grit_app.serve.types.responses import ResponsesRequest
from grit_app.serve.write.answers import Written, events, new_id, sse, streamed, usage_of, write_all
from grit_app.serve.write.messages import calls_in, offered
from grit_app.serve.write.writer import End

router = APIRouter(tags=["responses"])


@router.post(
    "/v1/responses",
    response_model=dict[str, Any],
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "A response"}},
)
async def responses(body: ResponsesRequest, request: Request, service: Running, caller: Asking) -> Any:
    """The model's answer to a history of items; with `stream`, as the events that agents follow."""
    if body.previous_response_id:
        raise bad_request(
            "Nothing is kept between requests, so previous_response_id is unknown. Send the whole history as input.",
            "previous_response_id",
        )
    chat = as_chat(body)
    model = await service.model(request)
    found = events(service, request, caller, lambda model: plans(model, chat, service, caller))
    head = {
        "id": new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "model": model.name,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": False,
        "previous_response_id": None,
        "temperature": body.temperature,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": body.top_p,
        "store": False,
        "error": None,
        "incomplete_details": None,
    }
    if body.stream:
        return await streamed(event_texts(found, head, chat), closing="")
    written = (await write_all(found, 1))[0]
    return finished(head, items_of(written, chat), written)


def as_chat(body: ResponsesRequest) -> ChatRequest:
    """The same as a chat. Raises ApiError 400 for items that cannot be read."""
    messages: list[dict[str, Any]] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    items: list[dict[str, Any]] = (
        [{"role": "user", "content": body.input}] if isinstance(body.input, str) else body.input
    )
    for item in items:
        messages += message_of(item)
    form = (body.text or {}).get("format")
    fields: dict[str, Any] = {
        "messages": messages,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "tools": [
            {"type": "function", "function": tool}
            for tool in body.tools or []
            if tool.get("type") == "function" and tool.get("name")
        ],
    }
    if isinstance(form, dict) and form.get("type") == "json_schema":
        named = {"name": form.get("name") or "answer", "schema": form.get("schema")}
        fields["response_format"] = {"type": "json_schema", "json_schema": named}
    elif isinstance(form, dict) and form.get("type") == "json_object":
        fields["response_format"] = {"type": "json_object"}
    choice = body.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "function":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    elif choice in ("none", "auto", "required"):
        fields["tool_choice"] = choice
    try:
        return ChatRequest(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise bad_request(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.", "input") from error


def message_of(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The turns that an item stands for; items of unknown kinds, such as reasoning, are left out."""
    kind = item.get("type", "message")
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        return [{"role": "assistant", "tool_calls": [{"id": str(item.get("call_id")), "function": function}]}]
    if kind == "function_call_output":
        output = item.get("output")
        text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
        return [{"role": "tool", "tool_call_id": str(item.get("call_id")), "content": text}]
    if kind != "message":
        return []
    content = item.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        for part in parts:
            if not isinstance(part.get("text"), str):
                raise bad_request(
                    f"A part of the kind {part.get('type')!r} cannot be read: this model reads text.", "input"
                )
        content = "\n".join(part["text"] for part in parts)
    return [{"role": item.get("role"), "content": content}]


def items_of(written: Written, chat: ChatRequest) -> list[dict[str, Any]]:
    """What was written, as output items."""
    calls = calls_in(written.text, offered(chat))
    if calls:
        return [
            {
                "id": new_id("fc"),
                "type": "function_call",
                "status": "completed",
                "call_id": call.id,
                "name": call.function.name,
                "arguments": call.function.arguments,
            }
            for call in calls
        ]
    return [message_item(new_id("msg"), written.text, "completed")]


def message_item(name: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [{"type": "output_text", "text": text, "annotations": []}]
    return {"id": name, "type": "message", "status": status, "role": "assistant", "content": content}


def finished(head: dict[str, Any], output: list[dict[str, Any]], written: Written) -> dict[str, Any]:
    """The whole response."""
    usage = usage_of([written])
    is_cut = written.finish_reason == "length"
    return {
        **head,
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "output": output,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.prompt_tokens_details.cached_tokens,
                "cache_write_tokens": 0,
            },
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens,
        },
    }


async def event_texts(found: AsyncIterator[Any], head: dict[str, Any], chat: ChatRequest) -> AsyncIterator[str]:
    """From `response.created` to `response.completed`. With functions on offer the text comes whole: it may be one."""
    number = -1

    def event(kind: str, **fields: Any) -> str:
        nonlocal number
        number += 1
        return sse({"type": kind, "sequence_number": number, **fields}, kind)

    opened = {**head, "status": "in_progress", "output": [], "usage": None}
    name, written, holds = new_id("msg"), Written(), bool(offered(chat))
    place: dict[str, Any] = {"item_id": name, "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    is_open = False
    async for _, one in found:
        if not is_open:
            is_open = True
            yield event("response.created", response=opened)
            yield event("response.in_progress", response=opened)
            if not holds:
                yield event("response.output_item.added", output_index=0, item=message_item(name, None, "in_progress"))
                yield event("response.content_part.added", **place, part=part)
        if isinstance(one, End):
            written.end = one
            continue
        written.text += one.text
        if not holds and one.text:
            yield event("response.output_text.delta", **place, delta=one.text, logprobs=[])
    items = items_of(written, chat)
    if holds:
        async for text in _late(items[0], event):
            yield text
    else:
        items = [message_item(name, written.text, "completed")]
        yield event("response.output_text.done", **place, text=written.text, logprobs=[])
        yield event("response.content_part.done", **place, part={**part, "text": written.text})
        yield event("response.output_item.done", output_index=0, item=items[0])
    whole = finished(head, items, written)
    yield event("response.incomplete" if whole["status"] == "incomplete" else "response.completed", response=whole)


async def _late(item: dict[str, Any], event: Any) -> AsyncIterator[str]:
    """An item that was held back until it was whole."""
    place = {"item_id": item["id"], "output_index": 0}
    if item["type"] == "function_call":
        yield event(
            "response.output_item.added", output_index=0, item={**item, "arguments": "", "status": "in_progress"}
        )
        yield event("response.function_call_arguments.delta", **place, delta=item["arguments"])
        yield event("response.function_call_arguments.done", **place, arguments=item["arguments"], name=item["name"])
    else:
        text = item["content"][0]["text"]
        part = {"type": "output_text", "text": "", "annotations": []}
        yield event("response.output_item.added", output_index=0, item=message_item(item["id"], None, "in_progress"))
        yield event("response.content_part.added", **place, content_index=0, part=part)
        yield event("response.output_text.delta", **place, content_index=0, delta=text, logprobs=[])
        yield event("response.output_text.done", **place, content_index=0, text=text, logprobs=[])
        yield event("response.content_part.done", **place, content_index=0, part={**part, "text": text})
    yield event("response.output_item.done", output_index=0, item=item)
