"""All routes in one FastAPI application, and how it stands beside the page."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.datastructures import Headers
from starlette.routing import Route

from grit_app.serve import errors
from grit_app.serve.errors import ApiError, ErrorBody
from grit_app.serve.mcp import McpRoute
from grit_app.serve.routes import answers, chat, completions, documents, embeddings, models, rerank, responses
from grit_app.serve.service import ModelSource, Service, counted
from grit_app.settings import MB, Settings

DESCRIPTION = """
One set of weights embeds, writes, answers over documents and reranks. Point an OpenAI client here:

    from openai import OpenAI
    client = OpenAI(base_url="http://127.0.0.1:7860/v1", api_key="none")
    client.embeddings.create(model="gritlm", input="Bees make honey from nectar.")
"""

OWN_PATHS: Final = ("/v1", "/v2", "/rerank", "/health", "/metrics", "/docs", "/openapi.json", "/mcp")
"""What is answered here when the page runs in the same process; all else is the page's."""

FORM_BYTES: Final = MB
"""Room for what surrounds a file of the largest size in its request."""


def create_app(source: ModelSource, settings: Settings) -> FastAPI:
    """The routes over one model, ready to be served."""
    service = Service(source, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        lifespan=lifespan,
        title="GRIT Workbench",
        description=DESCRIPTION,
        version="1",
        redoc_url=None,
        responses={
            status: {"model": ErrorBody, "description": text}
            for status, text in {
                400: "The request cannot be used as it is",
                401: "No key, or an unknown one",
                403: "Not from here",
                404: "Not there",
                413: "Too large",
                429: "Too many requests",
                503: "No model",
                504: "Out of time",
            }.items()
        },
    )
    app.state.service = service
    errors.install(app)
    app.include_router(models.router)
    for room in (embeddings, chat, completions, responses, rerank, documents, answers):
        app.include_router(room.router, dependencies=[Depends(counted)])
    app.router.routes.append(Route("/mcp", McpRoute(service), include_in_schema=False))
    app.add_middleware(Doorkeeper, max_bytes=settings.max_file_bytes + FORM_BYTES)
    app.add_middleware(errors.CatchAll)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of the routes. FastAPI's own 422 never comes: such a request gets a 400."""
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for operations in schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        app.openapi_schema = schema
    return app.openapi_schema


class Doorkeeper:
    """ASGI: refuses bodies above the limit, and pages of other sites that a visitor's browser would send here."""

    def __init__(self, app: Any, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            refusal = ApiError(403, "Pages of other sites may not use this server.", code="cross_origin")
            await refusal.response()(scope, receive, send)
            return
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_bytes:
            await self._too_large().response()(scope, receive, send)
            return
        seen = 0

        async def counted_receive() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, counted_receive, send)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"The request is larger than {self.max_bytes / 1e6:.0f} MB. Send less at once.")


class BesideThePage:
    """ASGI: the routes' own paths go to them, everything else to the page."""

    def __init__(self, app: Any, api: FastAPI) -> None:
        self.app, self.api = app, api

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        own = scope["type"] == "http" and any(path == own or path.startswith(f"{own}/") for own in OWN_PATHS)
        await (self.api if own else self.app)(scope, receive, send)
