"""What is served, and whether it is up."""

from __future__ import annotations

import threading
import time

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from grit_app.gritlm import GritLM
from grit_app.serve.errors import ApiError
from grit_app.serve.service import Running
from grit_app.serve.types.models import Health, ModelCard, ModelList

router = APIRouter(tags=["models"])

STARTED = int(time.time())
CAPABILITIES = ["embeddings", "chat", "completions", "responses", "rerank", "answers"]


def card(model: GritLM) -> ModelCard:
    """The model as a client lists it."""
    facts = model.describe()
    return ModelCard(
        id=model.name,
        created=STARTED,
        max_model_len=model.context,
        hidden_size=model.hidden_size,
        capabilities=CAPABILITIES,
        slug=model.name,
        display_name=model.name,
        meta={name: facts[name] for name in ("parameters", "dtype", "quantization", "memory_bytes")},
    )


@router.get("/v1/models")
async def models(request: Request, service: Running) -> ModelList:
    """The one model that is served here."""

    def work(model: GritLM, cancel: threading.Event) -> ModelCard:
        return card(model)

    found = await service.compute(request, work)
    return ModelList(data=[found], models=[found])


@router.get("/v1/models/{name:path}")
async def one_model(name: str, request: Request, service: Running) -> ModelCard:
    """The served model by its name."""
    found = (await models(request, service)).data[0]
    if name != found.id:
        raise ApiError(404, f"There is no model {name!r} here; {found.id!r} is served.", code="model_not_found")
    return found


@router.get("/health", responses={503: {"model": Health}})
async def health(response: Response, service: Running) -> Health:
    """200 once requests are answered; 503 while the model loads, or if it could not be loaded."""
    model = service.source.ready_model()
    if model is not None:
        return Health(status="ok", model=model.name)
    response.status_code = 503
    if service.source.failure:
        return Health(status="failed", message=service.source.failure)
    response.headers["Retry-After"] = "2"
    return Health(status="loading", message="The model is being loaded.")


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Running) -> PlainTextResponse:
    """Counts and times in Prometheus' text format."""
    return PlainTextResponse(service.measure(), media_type="text/plain; version=0.0.4")
