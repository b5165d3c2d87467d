"""OpenAI's messages and tools in the turns that the model was trained on."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from grit_app.serve.errors import bad_request
from grit_app.serve.types.chat import ChatRequest, FunctionCall, Message, NamedTool, Tool, ToolCall

TOOLS_TEXT = 'These functions can be called. To call one, answer with JSON alone: {"name": NAME, "arguments": OBJECT}\n'


def text_of(message: Message) -> str:
    """The words of a message. Raises ApiError 400 for a part that is not text."""
    if isinstance(message.content, str) or message.content is None:
        return message.content or ""
    for part in message.content:
        if part.text is None:
            raise bad_request(f"A part of the kind {part.type!r} cannot be read: this model reads text.", "messages")
    return "\n".join(part.text or "" for part in message.content)


def turns_of(messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[dict[str, str]]:
    """System text first, then user and assistant turns; a tool's result is a turn of the user."""
    system = [text_of(message) for message in messages if message.role in ("system", "developer")]
    if tools:
        described = [json.dumps(tool.function.model_dump(), ensure_ascii=False) for tool in tools if tool.function]
        system.append(TOOLS_TEXT + "\n".join(described))
    names = {call.id: call.function.name for message in messages for call in message.tool_calls or []}
    turns: list[dict[str, str]] = []
    for message in messages:
        text = text_of(message)
        if message.role == "assistant":
            calls = [_call_text(call) for call in message.tool_calls or []]
            turns.append({"role": "assistant", "content": "\n".join([*([text] if text else []), *calls])})
        elif message.role == "tool":
            name = names.get(message.tool_call_id or "", message.name or "the function")
            turns.append({"role": "user", "content": f"Result of {name}:\n{text}"})
        elif message.role == "user":
            turns.append({"role": "user", "content": text})
    if not any(turn["role"] == "user" for turn in turns):
        raise bad_request("There is no user message to answer.", "messages")
    if turns[-1]["role"] != "user":
        raise bad_request("The last message must be the user's for the model to answer it.", "messages")
    return [{"role": "system", "content": "\n".join(system)}, *turns] if any(system) else turns


def _call_text(call: ToolCall) -> str:
    return f'{{"name": {json.dumps(call.function.name)}, "arguments": {call.function.arguments}}}'


def offered(body: ChatRequest) -> list[Tool]:
    """The functions that may be called; kinds of tools that are unknown here are left out, as agents expect."""
    if body.tool_choice == "none":
        return []
    tools = [tool for tool in body.tools or [] if tool.type == "function" and tool.function]
    if isinstance(body.tool_choice, NamedTool):
        wanted = body.tool_choice.function.name
        tools = [tool for tool in tools if tool.function and tool.function.name == wanted]
        if not tools:
            raise bad_request(f"tool_choice names {wanted!r}, which is none of the tools.", "tool_choice")
    if body.tool_choice == "required" and not tools:
        raise bad_request("tool_choice is required, and there is no function to call.", "tool_choice")
    return tools


def must_call(body: ChatRequest) -> bool:
    return body.tool_choice == "required" or isinstance(body.tool_choice, NamedTool)


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """What a call looks like: one of the functions, with arguments that fit it."""
    kinds = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.function.name}, "arguments": tool.function.parameters},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
        if tool.function
    ]
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def calls_in(text: str, tools: Sequence[Tool]) -> list[ToolCall]:
    """The call that an answer consists of, if it is one."""
    names = {tool.function.name for tool in tools if tool.function}
    try:
        found = json.loads(text)
    except ValueError:
        return []
    if not isinstance(found, dict) or found.get("name") not in names or not isinstance(found.get("arguments"), dict):
        return []
    function = FunctionCall(name=found["name"], arguments=json.dumps(found["arguments"], ensure_ascii=False))
    return [ToolCall(id=f"call_{secrets.token_hex(12)}", function=function)]
