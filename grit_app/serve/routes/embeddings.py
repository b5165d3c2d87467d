"""Vectors by OpenAI's protocol."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray

from grit_app.gritlm import Encoding, GritLM, KVCache
from grit_app.gritlm.scheduler import Job
from grit_app.serve.errors import bad_request
from grit_app.serve.keys import Caller
from grit_app.serve.libraries import may_keep
from grit_app.serve.service import Asking, Running, Service
from grit_app.serve.types.embeddings import (
    MAX_TEXTS,
    EmbeddingItem,
    EmbeddingRequest,
    EmbeddingResponse,
    EmbeddingUsage,
)

router = APIRouter(tags=["embeddings"])

FEW_TEXTS = 32

FOREIGN_TOKENS = (
    "input holds token ids. This model has a vocabulary of its own, so ids of another one mean nothing to it. Send "
    "text; with LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False."
)


@router.post("/v1/embeddings", response_model_exclude_none=True)
async def embeddings(body: EmbeddingRequest, request: Request, service: Running, caller: Asking) -> EmbeddingResponse:
    """One L2-normalised vector a text; with `cache` also a handle of its keys and values."""
    texts = checked_texts(body.input)
    if body.cache:
        may_keep(service.settings)
    # Whoever sends hundreds of texts is indexing; people who chat meanwhile go first.
    job = Job("interactive" if len(texts) <= FEW_TEXTS else "background", caller.owner)

    def work(model: GritLM, job: Job) -> EmbeddingResponse:
        answer, caches = respond(model, body, texts, encoded(service, caller, model, body, texts, job))
        service.metrics.tokens.labels("embedded").inc(answer.usage.prompt_tokens)
        if body.cache:
            handles = service.handles(model).keep(caller.owner, caches)
            for item, handle in zip(answer.data, handles, strict=True):
                item.cache = handle
        return answer

    return await service.compute(request, work, job)


def checked_texts(given: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]) -> list[str]:
    """The texts as a list. Raises ApiError 400 for token ids, for none, for too many, and for an empty one."""
    texts = [given] if isinstance(given, str) else list(given)
    if not texts:
        raise bad_request("input is an empty list. Send at least one text.", "input")
    if len(texts) > MAX_TEXTS:
        raise bad_request(f"{len(texts):,} texts are more than one request takes. Send at most {MAX_TEXTS:,}.", "input")
    checked: list[str] = []
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise bad_request(FOREIGN_TOKENS, "input", "token_ids_unsupported")
        if not text.strip():
            raise bad_request(f"Text {index} is empty. An embedding needs at least one visible character.", "input")
        checked.append(text)
    return checked


def instruction_of(model: GritLM, body: EmbeddingRequest) -> str:
    """The instruction that was given, else the one that the kind of input stands for."""
    if body.instruction is not None:
        return body.instruction
    return model.config.retrieval_instruction if body.input_type in ("query", "search_query") else ""


def encoded(
    service: Service, caller: Caller, model: GritLM, body: EmbeddingRequest, texts: list[str], job: Job
) -> list[Encoding]:
    """Each text's vector, and its cache if that is wanted. Short requests share their forwards with other callers'."""
    if body.dimensions is not None and body.dimensions > model.hidden_size:
        raise bad_request(
            f"dimensions {body.dimensions} is above this model's width of {model.hidden_size}.", "dimensions"
        )
    instruction, limit = instruction_of(model, body), body.truncate_prompt_tokens
    limit = None if limit is None or limit == -1 else max(1, limit)
    if body.cache or len(texts) > FEW_TEXTS:
        return list(model.encode_iter(texts, instruction, body.cache, max_length=limit, cancel=job))
    return service.embedder(model).encode(caller.owner, texts, instruction, job, limit)


def respond(
    model: GritLM, body: EmbeddingRequest, texts: list[str], encodings: list[Encoding]
) -> tuple[EmbeddingResponse, list[KVCache]]:
    """Vectors, cut and packed as asked for, and the tokens that were read; the caches if they are wanted."""
    may_cut = body.truncate or body.truncate_prompt_tokens is not None
    for index, encoding in enumerate(encodings):
        if encoding.truncated and not may_cut:
            raise bad_request(
                f"Text {index} is longer than the {model.context:,} tokens that this model reads. Split it, or send "
                "truncate: true to embed its beginning.",
                "input",
                "context_length_exceeded",
            )
    items = [
        EmbeddingItem(index=index, embedding=packed(shortened(encoding.vector, body.dimensions), body.encoding_format))
        for index, encoding in enumerate(encodings)
    ]
    tokens = sum(encoding.tokens for encoding in encodings)
    usage = EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens)
    caches = [encoding.cache for encoding in encodings if encoding.cache is not None]
    return EmbeddingResponse(data=items, model=model.name, usage=usage), caches


def shortened(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first `dimensions` numbers with length 1 again; all of them if None."""
    if dimensions is None or dimensions == len(vector):
        return vector
    kept = vector[:dimensions]
    return (kept / max(float(np.linalg.norm(kept)), 1e-12)).astype(np.float32)


def packed(vector: NDArray[np.float32], encoding_format: str) -> list[float] | str:
    """A list of numbers, or the base64 text of their little-endian float32 bytes."""
    if encoding_format == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(number) for number in vector]
