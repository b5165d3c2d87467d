"""Chats by OpenAI's protocol."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request

from grit_app.gritlm import GritLM
from grit_app.gritlm.prompts import rag_turn
from grit_app.gritlm.write.decoding import Constraint
from grit_app.serve.errors import bad_request
from grit_app.serve.handles import joined
from grit_app.serve.keys import Caller
from grit_app.serve.service import Asking, Running, Service
from grit_app.serve.types.chat import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatRequest,
    ChoiceLogprobs,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from grit_app.serve.write.answers import Plan, Written, events, new_id, sampling_of, sse, streamed, usage_of, write_all
from grit_app.serve.write.messages import call_schema, calls_in, must_call, offered, turns_of
from grit_app.serve.write.schema import ANY_OBJECT, SchemaConstraint, tokenizer_of
from grit_app.serve.write.writer import End, TokenScore

router = APIRouter(tags=["chat"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Whole, or streamed"}
}


@router.post("/v1/chat/completions", response_model=ChatCompletion, response_model_exclude_none=True, responses=STREAM)
async def chat(body: ChatRequest, request: Request, service: Running, caller: Asking) -> Any:
    """The model's answer to a conversation; with `stream`, piece by piece as server-sent events."""
    tools = offered(body)

    def plan(model: GritLM) -> list[Plan]:
        return plans(model, body, service, caller)

    found = events(service, request, caller, plan)
    if body.stream:
        model = await service.model(request)
        return await streamed(chunks(found, body, model))
    written = await write_all(found, body.n)
    model = await service.model(request)
    return ChatCompletion(
        id=new_id("chatcmpl"),
        created=int(time.time()),
        model=model.name,
        choices=[choice(index, one, body, model, tools) for index, one in enumerate(written)],
        usage=usage_of(written),
    )


def plans(model: GritLM, body: ChatRequest, service: Service, caller: Caller) -> list[Plan]:
    """The answers that are asked for. Raises ApiError 400 for a conversation that cannot be answered."""
    tools = offered(body)
    limit = body.max_completion_tokens or body.max_tokens or model.context
    constraint = constraint_of(model, body)
    turns = turns_of(body.messages, tools)
    cache = joined(model, service.handles(model), caller.owner, body.caches) if body.caches else None
    prompt_ids = model.prompts.chat(turns).ids if cache is None else continued_ids(model, turns)
    top = (body.top_logprobs or 0) if body.logprobs else None
    return [
        Plan(prompt_ids, sampling_of(model, body, limit, index), body.stops, cache, constraint, top)
        for index in range(body.n)
    ]


def continued_ids(model: GritLM, turns: Sequence[dict[str, str]]) -> list[int]:
    """A chat that follows texts from a cache: a newline closes the text, and no BOS opens the chat."""
    if len(turns) == 1:
        return model.prompts.continuation(rag_turn([turns[0]["content"]], answer_prefix="", continued=True))
    return [*model.prompts.continuation("\n"), *model.prompts.chat(turns).ids[1:]]


def constraint_of(model: GritLM, body: ChatRequest) -> Constraint | None:
    """What the answer is limited to, if it is."""
    if must_call(body):
        return SchemaConstraint(model, call_schema(offered(body)), "tools")
    form = body.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return SchemaConstraint(model, ANY_OBJECT)
    if form.json_schema is None:
        raise bad_request("response_format of the type json_schema needs a json_schema.", "response_format")
    return SchemaConstraint(model, form.json_schema.schema_)


def choice(index: int, written: Written, body: ChatRequest, model: GritLM, tools: Sequence[Any]) -> ChatChoice:
    """One whole choice."""
    calls = calls_in(written.text, tools) if tools else []
    message = AssistantMessage(content=None if calls else written.text, tool_calls=calls or None)
    return ChatChoice(
        index=index,
        message=message,
        logprobs=logprobs(written.scores, model) if body.logprobs else None,
        finish_reason="tool_calls" if calls else written.finish_reason,
    )


def logprobs(scores: Sequence[TokenScore], model: GritLM) -> ChoiceLogprobs:
    """The tokens with the exact bytes that they stand for."""
    vocabulary = tokenizer_of(model)

    def entry(token_id: int, log_probability: float) -> dict[str, Any]:
        raw = vocabulary.decode_bytes([token_id])
        return {"token": raw.decode("utf-8", "replace"), "logprob": max(log_probability, -9999.0), "bytes": list(raw)}

    return ChoiceLogprobs(
        content=[
            TokenLogprob(
                **entry(score.token_id, score.log_probability),
                top_logprobs=[TopLogprob(**entry(*pair)) for pair in score.top],
            )
            for score in scores
        ]
    )


async def chunks(found: AsyncIterator[Any], body: ChatRequest, model: GritLM) -> AsyncIterator[str]:
    """The answer's pieces as OpenAI streams them. A function's call comes whole, once it is known to be one."""
    head = {
        "id": new_id("chatcmpl"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model.name,
    }
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    tools = offered(body)
    written = [Written() for _ in range(body.n)]

    def chunk(index: int, delta: dict[str, Any], finish: str | None = None, scores: Any = None) -> str:
        part: dict[str, Any] = {"index": index, "delta": delta, "finish_reason": finish, "logprobs": scores}
        return sse({**head, "choices": [part], **({"usage": None} if with_usage else {})})

    has_begun = [False] * body.n
    async for index, event in found:
        one = written[index]
        if not has_begun[index]:
            has_begun[index] = True
            yield chunk(index, {"role": "assistant", "content": ""})
        if isinstance(event, End):
            one.end = event
            calls = calls_in(one.text, tools) if tools else []
            if tools and not calls and one.text:
                yield chunk(index, {"content": one.text})
            if calls:
                yield chunk(index, {"tool_calls": [{"index": at, **_dump(call)} for at, call in enumerate(calls)]})
            yield chunk(index, {}, "tool_calls" if calls else one.finish_reason)
            continue
        one.text += event.text
        if tools:
            continue
        scores = logprobs(event.scores, model).model_dump() if body.logprobs else None
        yield chunk(index, {"content": event.text}, None, scores)
    if with_usage:
        yield sse({**head, "choices": [], "usage": usage_of(written).model_dump()})


def _dump(call: ToolCall) -> dict[str, Any]:
    return call.model_dump()
