"""From a request's thread of events to what routes send: whole answers, or server-sent events."""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from grit_app.gritlm import GritLM, KVCache, Sampling
from grit_app.gritlm.write.decoding import Constraint
from grit_app.serve.errors import ApiError, as_api_error, bad_request
from grit_app.serve.keys import Caller
from grit_app.serve.service import DISCONNECT_POLL_S, Service
from grit_app.serve.types.chat import PromptDetails, Usage, Writes
from grit_app.serve.write.writer import End, Event, Piece, TokenScore, Writing


@dataclass(frozen=True)
class Plan:
    """One answer that a request asks for."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    stops: Sequence[str] = ()
    cache: KVCache | None = None
    constraint: Constraint | None = None
    top_logprobs: int | None = None


@dataclass
class Written:
    """The state of one answer while it is written."""

    text: str = ""
    scores: list[TokenScore] = field(default_factory=list)
    end: End | None = None

    @property
    def finish_reason(self) -> Any:
        return "length" if self.end is None or self.end.finish_reason == "length" else "stop"


def sampling_of(model: GritLM, body: Writes, max_new_tokens: int, index: int = 0) -> Sampling:
    """How tokens are chosen. Each choice of a seeded request has a seed of its own, the first the one given."""
    if body.presence_penalty or body.frequency_penalty:
        raise bad_request("Only 0 is taken for presence_penalty and frequency_penalty. Use repetition_penalty.")
    if body.logit_bias:
        raise bad_request("logit_bias is not supported: ids of other vocabularies mean nothing here.", "logit_bias")
    seed = None if body.seed is None else (body.seed + index) % 2**63
    config = model.config
    penalty, size = body.repetition_penalty, body.no_repeat_ngram_size
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=seed,
        repetition_penalty=config.repetition_penalty if penalty is None else penalty,
        no_repeat_ngram_size=config.no_repeat_ngram_size if size is None else size,
    )


def usage_of(written: Sequence[Written]) -> Usage:
    """What all choices took together. Their prompt is one and counts once."""
    ends = [one.end for one in written if one.end is not None]
    prompt, new = max((end.prompt_tokens for end in ends), default=0), sum(end.new_tokens for end in ends)
    cached = min((end.cached_tokens for end in ends), default=0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=new,
        total_tokens=prompt + new,
        prompt_tokens_details=PromptDetails(cached_tokens=cached),
    )


def new_id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(12)}"


async def events(
    service: Service, request: Request, caller: Caller, plan: Callable[[GritLM], Sequence[Plan]]
) -> AsyncIterator[tuple[int, Piece | End]]:
    """(choice, event) as they come, until every choice has ended.

    Raises ApiError for a request that cannot be written, 504 when the time is up. Ends the writing when the iteration
    is given up, and when the client goes.
    """
    plans, model = await service.compute(request, lambda model, _: (list(plan(model)), model))
    cancel = threading.Event()
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
    started = time.monotonic()
    first_s: float | None = None
    try:
        for index, one in enumerate(plans):

            def tell(event: Event, index: int = index) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(inbox.put_nowait, (index, event))

            writing = Writing(caller.owner, one.prompt_ids, one.sampling, tell, cancel)
            writing.cache, writing.constraint = one.cache, one.constraint
            writing.stops, writing.top_logprobs = one.stops, one.top_logprobs
            service.writer(model).submit(writing)
        open_choices = len(plans)
        looked = started
        while open_choices:
            if time.monotonic() - looked >= DISCONNECT_POLL_S:  # also while tokens come faster than that
                looked = time.monotonic()
                if await request.is_disconnected():
                    raise ApiError(499, "The client went away.")
                if looked - started > service.settings.request_timeout_s:
                    raise service.too_slow()
            try:
                index, event = await asyncio.wait_for(inbox.get(), DISCONNECT_POLL_S)
            except TimeoutError:
                continue
            if isinstance(event, Exception):
                raise event
            if first_s is None:
                first_s = time.monotonic() - started
            if isinstance(event, End):
                open_choices -= 1
                service.metrics.wrote(
                    event.prompt_tokens,
                    event.cached_tokens,
                    event.new_tokens,
                    first_s,
                    by_handle=plans[index].cache is not None,
                )
            yield index, event
    finally:
        cancel.set()


async def write_all(found: AsyncIterator[tuple[int, Piece | End]], count: int) -> list[Written]:
    """All choices once they are whole."""
    written = [Written() for _ in range(count)]
    async for index, event in found:
        if isinstance(event, End):
            written[index].end = event
        else:
            written[index].text += event.text
            written[index].scores.extend(event.scores)
    return written


def sse(data: BaseModel | dict[str, Any] | str, event: str = "") -> str:
    """One server-sent event."""
    if isinstance(data, BaseModel):
        text = data.model_dump_json(exclude_none=False)
    else:
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {event}\n" if event else "") + f"data: {text}\n\n"


async def streamed(pieces: AsyncIterator[str], *, closing: str = sse("[DONE]")) -> StreamingResponse:
    """The pieces as they come. What goes wrong before the first of them is an answer with its own status."""
    try:
        first = await anext(pieces)
    except StopAsyncIteration:
        first = ""

    async def body() -> AsyncIterator[str]:
        try:
            yield first
            async for piece in pieces:
                yield piece
            yield closing
        except Exception as error:
            yield sse(as_api_error(error).body())
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]  # an asynchronous generator

    return StreamingResponse(body(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
