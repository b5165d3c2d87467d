"""The same capabilities as tools for agents: the Model Context Protocol over streamable HTTP at /mcp.

Documents are resources, `grit://documents/ID`. Built with the official SDK; every request stands for itself.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import Resource
from pydantic import Field
from starlette.datastructures import Headers

from grit_app.errors import GritError
from grit_app.gritlm import GritLM
from grit_app.gritlm.scheduler import Job
from grit_app.rag.events import Done
from grit_app.serve.errors import ApiError, as_api_error
from grit_app.serve.keys import Caller
from grit_app.serve.libraries import THIS_MACHINE, may_keep
from grit_app.serve.routes.answers import library_for, run
from grit_app.serve.routes.embeddings import checked_texts
from grit_app.serve.routes.rerank import relevance
from grit_app.serve.service import Service
from grit_app.serve.types.documents import AnswerRequest

INSTRUCTIONS = (
    "Text tools over one local language model: compare texts by meaning, search and rerank passages, and answer "
    "questions over documents with citations."
)

_caller: ContextVar[Caller] = ContextVar("caller")

Texts = Annotated[list[str], Field(min_length=1, max_length=256, description="Plain texts, none of them empty.")]
Instruction = Annotated[
    str,
    Field(description="What to compare by: Retrieve passages that answer the question, say. Empty for passages."),
]
Query = Annotated[str, Field(min_length=1, description="A question or a few words, as a person would ask.")]


class Tools(MCPServer[Any]):
    """The MCP tools and resources of one service. Each call acts for the sender of the present request."""

    def __init__(self, service: Service) -> None:
        super().__init__("grit-workbench", title="GRIT Workbench", instructions=INSTRUCTIONS, log_level="WARNING")
        self._service = service
        for tool in (self.embed, self.similarity, self.search, self.ask, self.rerank):
            self.add_tool(tool)
        self.resource("grit://documents/{document_id}", mime_type="text/plain")(self.read_document)

    async def list_resources(self) -> list[Resource]:
        """The caller's documents; none where callers cannot be told apart."""
        try:
            may_keep(self._service.settings)
        except ApiError:
            return []
        caller = _caller.get()

        def work(model: GritLM) -> list[Resource]:
            library = self._service.libraries.of(caller, model)
            return [
                Resource(uri=f"grit://documents/{info.id}", name=info.name, mime_type="text/plain")
                for info in library.documents()
            ]

        return await self._work(lambda model, _: work(model))

    async def read_document(self, document_id: str) -> str:
        """The text of a kept document, page after page."""
        caller = _caller.get()
        return await self._work(lambda model, _: self._service.libraries.of(caller, model).document(document_id).text)

    async def embed(self, texts: Texts, instruction: Instruction = "") -> list[list[float]]:
        """Turn texts into vectors of length 1. The dot product of two of them tells how close they are in meaning."""
        return await self._work(lambda model, job: model.encode(checked_texts(texts), instruction, cancel=job).tolist())

    async def similarity(self, texts: Texts, instruction: Instruction = "") -> list[list[float]]:
        """How close each text is to each other one in meaning: a square table of cosines, 1 for the same meaning."""

        def work(model: GritLM, job: Job) -> list[list[float]]:
            vectors = model.encode(checked_texts(texts), instruction, cancel=job)
            return (vectors @ vectors.T).tolist()

        return await self._work(work)

    async def search(
        self, query: Query, k: Annotated[int, Field(ge=1, le=50, description="Passages to return.")] = 5
    ) -> list[dict[str, Any]]:
        """Find the passages of the kept documents that fit a query best: file, page, text, score; best first."""
        caller = _caller.get()

        def work(model: GritLM, job: Job) -> list[dict[str, Any]]:
            library = self._service.libraries.of(caller, model)
            vector = model.encode([query], model.config.retrieval_instruction, cancel=job)[0]
            return [
                {
                    "document": f"grit://documents/{hit.chunk.document_id}",
                    "file": hit.chunk.document_name,
                    "page": hit.chunk.page_at(0).index + 1,
                    "text": hit.chunk.text,
                    "score": round(hit.score, 4),
                }
                for hit in library.search(vector, query, k)
            ]

        return await self._work(work)

    async def ask(
        self,
        question: Query,
        documents: Annotated[
            list[str] | None, Field(max_length=64, description="Texts to answer from. Left out: the kept documents.")
        ] = None,
        k: Annotated[int, Field(ge=1, le=50, description="Passages to read.")] = 3,
        searches: Annotated[
            int, Field(ge=0, le=8, description="How often the model may search for more while it answers.")
        ] = 0,
    ) -> dict[str, Any]:
        """Answer a question from documents, with the passages and pages that the answer rests on.

        If the documents do not answer the question, `answerable` is false and the nearest passages are given.
        """
        caller = _caller.get()
        asked = {"question": question, "documents": documents or None, "k": k, "searches": searches}
        body = AnswerRequest.model_validate(asked)

        def work(model: GritLM, job: Job) -> dict[str, Any]:
            with library_for(body, self._service, caller, model) as library:
                done = next(event for event in run(body, library, model, job) if isinstance(event, Done))
            return done.answer.to_json()

        return await self._work(work)

    async def rerank(
        self,
        query: Query,
        documents: Texts,
        method: Annotated[
            Literal["embedding", "relevance", "question"],
            Field(description="embedding is fast; relevance and question read query and text together."),
        ] = "embedding",
    ) -> list[dict[str, Any]]:
        """Order texts by how well they fit a query: index in the list that was given, and a score from 0 to 1."""

        def work(model: GritLM, job: Job) -> list[dict[str, Any]]:
            scores = relevance(model, query, checked_texts(documents), method, job)
            order = sorted(range(len(documents)), key=lambda index: -scores[index])
            return [{"index": index, "score": scores[index], "text": documents[index]} for index in order]

        return await self._work(work)

    async def _work(self, work: Any) -> Any:
        try:
            return await self._service.work(_caller.get().owner, work)
        except (ApiError, GritError) as error:
            raise ToolError(str(as_api_error(error))) from None


class McpRoute:
    """ASGI: /mcp, for callers that the service knows. Its sessions begin with the first request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tools = Tools(service)
        is_local = service.settings.host is None or service.settings.host in THIS_MACHINE
        security = None if is_local else TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self._app = self._tools.streamable_http_app(
            stateless_http=True, json_response=True, transport_security=security
        )
        self._running: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def _run(self) -> None:
        async with self._tools.session_manager.run():
            self._ready.set()
            await asyncio.Event().wait()  # until the loop ends: a mounted application has no end of its own

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        try:
            caller = self._service.gate.identify(key if scheme.lower() == "bearer" else None)
            self._service.gate.enter(caller)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        token = _caller.set(caller)
        try:
            if self._running is None:
                self._running = asyncio.create_task(self._run())
            await self._ready.wait()
            await self._app(scope, receive, send)
        finally:
            _caller.reset(token)
            self._service.gate.leave(caller)
