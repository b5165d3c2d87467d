"""Reranking by the same model: by its vectors, or by what its writing half reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request

from grit_app.gritlm import GritLM
from grit_app.gritlm.scheduler import Job
from grit_app.rag.reranking import rerank as cross_scores
from grit_app.serve.errors import bad_request
from grit_app.serve.service import Running
from grit_app.serve.types.rerank import (
    RerankDocument,
    RerankMeta,
    RerankRequest,
    RerankResponse,
    RerankResult,
    RerankTokens,
    RerankUsage,
)
from grit_app.serve.write.answers import new_id

router = APIRouter(tags=["rerank"])


@router.post("/v1/rerank", response_model_exclude_none=True)
@router.post("/v2/rerank", response_model_exclude_none=True, include_in_schema=False)  # Cohere's present address
@router.post("/rerank", response_model_exclude_none=True, include_in_schema=False)  # vLLM's, and litellm's for it
async def rerank(body: RerankRequest, request: Request, service: Running) -> RerankResponse:
    """Documents in the order of their relevance to a query."""
    return await service.compute(request, lambda model, job: respond(model, body, job))


def respond(model: GritLM, body: RerankRequest, job: Job) -> RerankResponse:
    """The best `top_n`, with scores between 0 and 1."""
    texts = texts_of(model, body)
    if not body.query.strip():
        raise bad_request("The query is empty. Write what the documents should be ranked for.", "query")
    scores = relevance(model, body.query, texts, body.method, job)
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
    tokens = model.prompts.count(body.query) + sum(model.prompts.count(text) for text in texts)
    return RerankResponse(
        id=new_id("rerank"),
        model=model.name,
        results=[
            RerankResult(
                index=index,
                relevance_score=scores[index],
                document=as_sent(body.documents[index]) if body.return_documents else None,
            )
            for index in order
        ],
        usage=RerankUsage(prompt_tokens=tokens, total_tokens=tokens),
        meta=RerankMeta(tokens=RerankTokens(input_tokens=tokens)),
    )


def texts_of(model: GritLM, body: RerankRequest) -> list[str]:
    """What is read of each document. Raises ApiError 400 for one without text."""
    texts = []
    for index, document in enumerate(body.documents):
        text = document if isinstance(document, str) else _fields(document, body.rank_fields)
        if text is None:
            wanted = ", ".join(body.rank_fields or ["text"])
            raise bad_request(
                f"Document {index} has no field of the name {wanted}. Name fields that it has in rank_fields.",
                "documents",
            )
        if not text.strip():
            raise bad_request(f"Document {index} is empty. Leave it out.", "documents")
        if body.max_tokens_per_doc is not None:
            ids = model.prompts.continuation(text)
            if len(ids) > body.max_tokens_per_doc:
                text = model.prompts.decode(ids[: body.max_tokens_per_doc])
        texts.append(text)
    return texts


def _fields(document: RerankDocument, names: Sequence[str] | None) -> str | None:
    """The wanted fields as lines `name: value`, in the order of `names`; None if it has none of them."""
    if names is None:
        return document.text
    fields = document.model_dump(exclude_none=True)
    lines = [f"{name}: {fields[name]}" for name in names if name in fields]
    return "\n".join(lines) if lines else None


def as_sent(document: str | RerankDocument) -> dict[str, Any]:
    """A document as clients expect it back."""
    return {"text": document} if isinstance(document, str) else document.model_dump(exclude_none=True)


def relevance(model: GritLM, query: str, texts: Sequence[str], method: str, job: Job) -> list[float]:
    """A score between 0 and 1 for each text."""
    if method == "embedding":
        wanted = model.encode([query], model.config.retrieval_instruction, cancel=job)[0]
        cosines = model.encode(texts, cancel=job) @ wanted
        return [float(value) for value in np.clip((cosines + 1) / 2, 0, 1)]
    found = cross_scores(model, query, texts, "relevance" if method == "relevance" else "question", cancel=job)
    if method == "relevance":
        return [1 / (1 + math.exp(-max(-500.0, min(500.0, score)))) for score in found]
    count = max(1, model.prompts.count(query))
    return [math.exp(min(0.0, score / count)) for score in found]
