"""Cited answers over documents: kept ones, ones that come with the question, or ones whose caches are kept."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import APIRouter, Request

from grit_app.documents.chunking import Chunk
from grit_app.documents.library import Library
from grit_app.documents.read.pictures import page_picture
from grit_app.errors import GritError
from grit_app.gritlm import GritLM, Sampling
from grit_app.gritlm.prompts import DOCUMENT_FIRST_CLOSING, rag_turn
from grit_app.gritlm.scheduler import Job
from grit_app.rag.answering import answer
from grit_app.rag.events import Answer, Citation, Done, Retrieved, Searching, Token
from grit_app.rag.searching.loop import answer_searching
from grit_app.serve.errors import as_api_error, bad_request
from grit_app.serve.handles import joined
from grit_app.serve.keys import Caller
from grit_app.serve.libraries import passing
from grit_app.serve.routes.chat import STREAM
from grit_app.serve.service import Asking, Running, Service
from grit_app.serve.types.documents import AnswerCitation, AnswerRequest, AnswerResponse
from grit_app.serve.write.answers import Plan, events, new_id, sse, streamed, write_all

router = APIRouter(tags=["answers"])

PICTURE_SCALE = 2.0


@router.post("/v1/answers", response_model=AnswerResponse, response_model_exclude_none=True, responses=STREAM)
async def answers(body: AnswerRequest, request: Request, service: Running, caller: Asking) -> Any:
    """An answer with its sources. Streamed, the tokens come first and the citations with the last event."""
    if not body.question.strip():
        raise bad_request("The question is empty. Type one.", "question")
    if body.caches and body.searches:
        raise bad_request("Texts behind caches cannot be searched: leave out searches or caches.", "searches")
    if body.caches:
        return await over_caches(body, request, service, caller)
    job = Job("interactive", caller.owner)
    if body.stream:
        return await streamed(event_texts(body, request, service, caller, job))

    def work(model: GritLM) -> AnswerResponse:
        with library_for(body, service, caller, model) as library:
            for event in run(body, library, model, job):
                if isinstance(event, Done):
                    return response(event.answer, library, model, body)
        raise AssertionError("an answer ends with Done")

    return await service.compute(request, lambda model, _: work(model), job)


@contextmanager
def library_for(body: AnswerRequest, service: Service, caller: Caller, model: GritLM) -> Iterator[Library]:
    """The texts that came with the question, else the caller's own library."""
    if body.documents is None:
        yield service.libraries.of(caller, model)
        return
    library = passing(model, service.settings)
    try:
        texts: dict[str, str] = {}
        for number, one in enumerate(body.documents, 1):
            text, name = (one, "") if isinstance(one, str) else (one.text, one.name)
            if not text.strip():
                raise bad_request(f"Document {number - 1} is empty. Leave it out.", "documents")
            texts[name if name and name not in texts else f"text {number}"] = text
        keep_texts(library, texts)
        yield library
    finally:
        library.close()


def keep_texts(library: Library, texts: dict[str, str]) -> None:
    """Texts cut into passages as files are. Raises DocumentError for one that is too long."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="grit-texts-") as folder:
        paths = [Path(folder) / f"{number}.txt" for number in range(len(texts))]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8", errors="replace")
        reports = library.add(paths, names=list(texts), with_caches=False)
    failed = [report.reason for report in reports if report.document_id is None]
    if failed:
        raise bad_request(" ".join(failed), "documents")


def run(body: AnswerRequest, library: Library, model: GritLM, job: Job) -> Iterator[Any]:
    """The answer's events."""
    sampling = Sampling(max_new_tokens=body.max_tokens, temperature=body.temperature, seed=body.seed)
    known = {info.id for info in library.documents()}
    if not known:
        raise bad_request("There are no documents to answer from. Upload some, or send documents.", "documents")
    wanted = body.document_ids if body.documents is None else None
    for name in wanted or []:
        if name not in known:
            raise bad_request(f"There is no document {name[:60]!r}. GET /v1/documents lists them.", "document_ids")
    if not body.searches:
        return answer(
            body.question,
            library,
            model,
            body.strategy,
            body.k,
            body.mode,
            wanted,
            sampling,
            job,
            reranked_by=body.rerank,
        )
    if body.rerank:
        raise bad_request("With searches the model orders what it finds by itself: leave rerank out.", "rerank")
    if body.mode in ("quote", "short"):
        raise bad_request("With searches the model writes freely: leave mode out, or set it to free.", "mode")
    return answer_searching(
        body.question, library, model, body.strategy, body.k, wanted, sampling, job, searches=body.searches
    )


def response(found: Answer, library: Library, model: GritLM, body: AnswerRequest) -> AnswerResponse:
    """The answer as it is sent."""
    fields = found.to_json()
    fields["citations"] = [citation_of(one, library, with_boxes=body.boxes) for one in found.citations]
    return AnswerResponse(id=new_id("answer"), model=model.name, **fields)


def citation_of(citation: Citation, library: Library, *, with_boxes: bool) -> AnswerCitation:
    """A passage with its place."""
    chunk = citation.hit.chunk
    boxes = boxes_of(citation, library) if with_boxes and citation.is_cited else None
    return AnswerCitation(**citation.to_json(), document_id=chunk.document_id, cited=citation.is_cited, boxes=boxes)


def boxes_of(citation: Citation, library: Library) -> list[tuple[float, float, float, float]] | None:
    """Where the supporting sentence stands on its page, in points; None for texts without pages to look at."""
    chunk: Chunk = citation.hit.chunk
    if library.document(chunk.document_id).kind != "pdf":
        return None
    first, last = citation.support or (0, len(chunk.text))
    try:
        source = library.source(chunk.document_id)
        picture = page_picture(source, citation.page - 1, chunk.text[first:last], scale=PICTURE_SCALE)
    except GritError:
        return None  # a page that cannot be drawn still has its number
    return [
        (left / PICTURE_SCALE, top / PICTURE_SCALE, right / PICTURE_SCALE, bottom / PICTURE_SCALE)
        for left, top, right, bottom in picture.boxes
    ]


async def event_texts(
    body: AnswerRequest, request: Request, service: Service, caller: Caller, job: Job
) -> AsyncIterator[str]:
    """Server-sent events: `retrieved`, `searching`, `token` …, `done` with the whole answer and its citations."""
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue[Any]()

    def tell(item: Any) -> None:
        loop.call_soon_threadsafe(inbox.put_nowait, item)

    def work(model: GritLM) -> None:
        with library_for(body, service, caller, model) as library:
            for event in run(body, library, model, job):
                if isinstance(event, Retrieved):
                    tell(sse({"passages": len(event.hits)}, "retrieved"))
                elif isinstance(event, Searching):
                    tell(sse({"query": event.query}, "searching"))
                elif isinstance(event, Token):
                    tell(sse({"text": event.text}, "token"))
                elif isinstance(event, Done):
                    tell(sse(response(event.answer, library, model, body), "done"))

    task = asyncio.ensure_future(service.compute(request, lambda model, _: work(model), job))
    task.add_done_callback(lambda done: inbox.put_nowait(done))
    try:
        while True:
            item = await inbox.get()
            if item is task:
                if (error := task.exception()) is not None:
                    raise as_api_error(error)
                return
            yield item
    finally:
        job.set()


async def over_caches(body: AnswerRequest, request: Request, service: Service, caller: Caller) -> Any:
    """The model's own words over texts whose keys and values are kept: only the question is read."""
    names = body.caches or []

    def plan(model: GritLM) -> list[Plan]:
        cache = joined(model, service.handles(model), caller.owner, names)
        parts = [body.question.strip(), DOCUMENT_FIRST_CLOSING]
        tail = model.prompts.continuation(rag_turn(parts, answer_prefix=model.config.answer_prefix, continued=True))
        sampling = Sampling(max_new_tokens=body.max_tokens, temperature=body.temperature, seed=body.seed)
        return [Plan(tail, sampling, cache=cache)]

    model = await service.model(request)
    started = asyncio.get_running_loop().time()

    def whole(written: Any) -> AnswerResponse:
        return AnswerResponse(
            id=new_id("answer"),
            model=model.name,
            answer=written.text.strip(),
            answerable=written.text.strip() != model.config.refusal_sentence,
            strategy="docs_cache",
            citations=[],
            prompt_tokens=written.end.prompt_tokens,
            cached_tokens=written.end.cached_tokens,
            new_tokens=written.end.new_tokens,
            timings_ms={"total": (asyncio.get_running_loop().time() - started) * 1e3},
        )

    found = events(service, request, caller, plan)
    if not body.stream:
        return whole((await write_all(found, 1))[0])

    async def texts() -> AsyncIterator[str]:
        kept: list[Any] = []

        async def watched() -> AsyncIterator[Any]:
            async for item in found:
                kept.append(item)
                yield item

        async for _, event in watched():
            if dataclasses.is_dataclass(event) and hasattr(event, "text"):
                yield sse({"text": event.text}, "token")
        written = await write_all(_replayed(kept), 1)
        yield sse(whole(written[0]), "done")

    return await streamed(texts())


async def _replayed(items: list[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item
