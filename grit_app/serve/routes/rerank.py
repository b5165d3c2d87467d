"""Reranking by the same model: by its vectors, or by what its writing half reads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request

from grit_app.gritlm import GritLM
from grit_app.gritlm.scheduler import Job
from grit_app.rag.reranking import rerank as cross_scores
from grit_app.serve.errors import bad_request
from grit_app.serve.service import Running
from grit_app.serve.types.rerank import RerankDocument, RerankRequest, RerankResponse, RerankResult, RerankUsage
from grit_app.serve.write.answers import new_id

router = APIRouter(tags=["rerank"])


@router.post("/v1/rerank", response_model_exclude_none=True)
@router.post("/v2/rerank", response_model_exclude_none=True, include_in_schema=False)  # Cohere's present address
async def rerank(body: RerankRequest, request: Request, service: Running) -> RerankResponse:
    """Documents in the order of their relevance to a query."""
    return await service.compute(request, lambda model, job: respond(model, body, job))


def respond(model: GritLM, body: RerankRequest, job: Job) -> RerankResponse:
    """The best `top_n`, with scores between 0 and 1."""
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    for index, text in enumerate(texts):
        if not text.strip():
            raise bad_request(f"Document {index} is empty. Leave it out.", "documents")
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
                document=RerankDocument(text=texts[index]) if body.return_documents else None,
            )
            for index in order
        ],
        usage=RerankUsage(prompt_tokens=tokens, total_tokens=tokens),
    )


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
