"""Plain continuations, with the likelihoods that evaluation harnesses read."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request

from grit_app.gritlm import GritLM
from grit_app.serve.errors import bad_request
from grit_app.serve.routes.chat import STREAM
from grit_app.serve.service import Asking, Running
from grit_app.serve.types.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from grit_app.serve.write.answers import Plan, Written, events, new_id, sampling_of, sse, streamed, usage_of, write_all
from grit_app.serve.write.likelihood import prompt_scores
from grit_app.serve.write.schema import tokenizer_of
from grit_app.serve.write.writer import End, TokenScore

router = APIRouter(tags=["completions"])


@router.post("/v1/completions", response_model=Completion, response_model_exclude_none=True, responses=STREAM)
async def completions(body: CompletionRequest, request: Request, service: Running, caller: Asking) -> Any:
    """What follows each prompt. With `echo` and `logprobs` also how likely the prompt itself is, token by token."""
    if body.suffix:
        raise bad_request("suffix is not supported: the model only writes forwards.", "suffix")
    if body.max_tokens == 0 and not body.echo:
        raise bad_request("max_tokens 0 writes nothing. Raise it, or send echo: true.", "max_tokens")
    model = await service.model(request)
    prompts = prompt_ids(model, body)
    count = len(prompts) * body.n
    heads: list[Written] = [Written() for _ in range(count)]
    if body.echo:
        echoed = await service.compute(
            request, lambda model, cancel: [echo(model, ids, body.logprobs, cancel) for ids in prompts]
        )
        heads = [echoed[index // body.n] for index in range(count)]

    def plan(model: GritLM) -> list[Plan]:
        return [
            Plan(ids, sampling_of(model, body, body.max_tokens, index), body.stops, top_logprobs=body.logprobs)
            for ids in prompts
            for index in range(body.n)
        ]

    if body.max_tokens == 0:
        written = [Written() for _ in range(count)]
    else:
        found = events(service, request, caller, plan)
        if body.stream:
            return await streamed(chunks(found, body, model, heads))
        written = await write_all(found, count)
    usage = usage_of(written)
    prompt = sum(len(ids) for ids in prompts)
    usage = usage.model_copy(update={"prompt_tokens": prompt, "total_tokens": prompt + usage.completion_tokens})
    return Completion(
        id=new_id("cmpl"),
        created=int(time.time()),
        model=model.name,
        choices=[
            CompletionChoice(
                index=index,
                text=head.text + one.text,
                logprobs=logprobs([*head.scores, *one.scores], model) if body.logprobs is not None else None,
                finish_reason=one.finish_reason,
            )
            for index, (head, one) in enumerate(zip(heads, written, strict=True))
        ],
        usage=usage,
    )


def prompt_ids(model: GritLM, body: CompletionRequest) -> list[list[int]]:
    """Ids of each prompt, each opened by BOS. Raises ApiError 400 for ids that this vocabulary has not."""
    given: Any = body.prompt
    many: list[Any] = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    size = int(model.hf_model.config.vocab_size)
    found = []
    for prompt in many:
        if isinstance(prompt, str):
            found.append(model.prompts.opening(prompt))
            continue
        if not all(isinstance(one, int) and 0 <= one < size for one in prompt):
            raise bad_request(f"prompt: ids must lie between 0 and {size - 1}, this model's own vocabulary.", "prompt")
        found.append(list(prompt) if prompt[0] == model.prompts.bos_id else [model.prompts.bos_id, *prompt])
    for ids in found:
        if len(ids) + body.max_tokens > model.context and len(ids) >= model.context:
            raise bad_request(
                f"The prompt has {len(ids):,} tokens, and this model reads at most {model.context:,}. Shorten it.",
                "prompt",
                "context_length_exceeded",
            )
    return found


def echo(model: GritLM, ids: Sequence[int], top: int | None, cancel: Any) -> Written:
    """The prompt as text, without BOS, and how likely each of its tokens is after those before it."""
    scores = prompt_scores(model, ids, top, cancel) if top is not None else []
    return Written(model.prompts.decode(ids), scores)


def logprobs(scores: Sequence[TokenScore | None], model: GritLM) -> CompletionLogprobs:
    """Lists side by side, one entry a token."""
    vocabulary = tokenizer_of(model)

    def text(token_id: int) -> str:
        return vocabulary.decode_bytes([token_id]).decode("utf-8", "replace")

    tokens, values, tops, offsets, at = [], [], [], [], 0
    for score in scores:
        assert score is not None
        tokens.append(text(score.token_id))
        is_first = score.log_probability > 0  # nothing stands before it, so nothing can be said
        values.append(None if is_first else max(score.log_probability, -9999.0))
        # As OpenAI has it, the token itself is always among them: one more than asked for if it was not likely.
        likely = dict([*score.top, (score.token_id, score.log_probability)])
        tops.append(None if is_first else {text(token): max(value, -9999.0) for token, value in likely.items()})
        offsets.append(at)
        at += len(tokens[-1])
    return CompletionLogprobs(tokens=tokens, token_logprobs=values, top_logprobs=tops, text_offset=offsets)


async def chunks(
    found: AsyncIterator[Any], body: CompletionRequest, model: GritLM, heads: Sequence[Written]
) -> AsyncIterator[str]:
    """The answer's pieces as OpenAI streams them."""
    head: dict[str, Any] = {"id": new_id("cmpl"), "created": int(time.time()), "model": model.name}
    written = [Written() for _ in heads]

    def chunk(index: int, text: str, scores: Sequence[TokenScore] = (), finish: Any = None) -> str:
        found = logprobs(scores, model) if body.logprobs is not None and scores else None
        one = CompletionChoice(index=index, text=text, logprobs=found, finish_reason=finish)
        return sse(Completion(**head, choices=[one]))

    for index, start in enumerate(heads):
        if start.text:
            yield chunk(index, start.text, start.scores)
    async for index, event in found:
        if isinstance(event, End):
            written[index].end = event
            yield chunk(index, "", (), written[index].finish_reason)
        else:
            yield chunk(index, event.text, event.scores)
    if body.stream_options is not None and body.stream_options.include_usage:
        yield sse(Completion(**head, choices=[], usage=usage_of(written)))
