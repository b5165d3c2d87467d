"""Documents that a caller keeps here, and KV caches that it keeps."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile

from grit_app.documents.document import MOST_OCR_PAGES
from grit_app.documents.library import Library
from grit_app.documents.read.text.languages import is_encoding
from grit_app.gritlm.scheduler import Job
from grit_app.serve.errors import ApiError, bad_request
from grit_app.serve.service import Asking, Running
from grit_app.serve.types.documents import CacheList, Deleted, DocumentCard, DocumentList, Uploaded

router = APIRouter(tags=["documents"])

MAX_FILES = 32

UPLOAD_EXAMPLE = {"requestBody": {"content": {"multipart/form-data": {"example": {"file": ["report.pdf"]}}}}}


@router.post("/v1/documents", openapi_extra=UPLOAD_EXAMPLE)
async def upload(
    request: Request,
    service: Running,
    caller: Asking,
    file: Annotated[list[UploadFile], File(description="PDF, text, Markdown, office files, web pages, books, mails.")],
    ocr_pages: Annotated[
        int, Form(ge=0, le=MOST_OCR_PAGES, description="Scanned pages of a file that OCR reads, where it is installed.")
    ] = 20,
    encoding: Annotated[
        str | None, Form(max_length=40, description="Of text files, e.g. Shift-JIS; left out: found from their bytes.")
    ] = None,
) -> Uploaded:
    """Reads, embeds and keeps files. Those that cannot be used are named with the reason and stop no other.

    A text file that is kept already is read again where another encoding is given.
    """
    if encoding is not None and not is_encoding(encoding):
        raise bad_request(f"There is no encoding called {encoding!r}. Use one such as UTF-8 or Shift-JIS.", "encoding")
    if len(file) > MAX_FILES:
        raise bad_request(f"{len(file)} files are more than one request takes. Send at most {MAX_FILES}.", "file")
    with tempfile.TemporaryDirectory(prefix="grit-upload-") as folder:
        paths, names = [], []
        for number, one in enumerate(file):
            names.append(Path((one.filename or f"file {number + 1}").replace("\\", "/")).name[:200] or "file")
            paths.append(Path(folder) / f"{number}{Path(names[-1]).suffix[:16]}")
            paths[-1].write_bytes(await one.read())
        job = Job("background", caller.owner)

        def work(library: Library) -> Uploaded:
            reports = library.add(paths, cancel=job, names=names, ocr_pages=ocr_pages, encoding=encoding)
            kept = {card.id: card for card in cards(library)}
            return Uploaded(
                data=[kept[report.document_id] for report in reports if report.document_id in kept],
                failed=[{"file": r.name, "reason": r.reason} for r in reports if r.document_id is None],
            )

        answer = await service.compute(request, lambda model, _: work(service.libraries.of(caller, model)), job)
    if not answer.data:
        raise bad_request(" ".join(entry["reason"] for entry in answer.failed), "file")
    return answer


def cards(library: Library) -> list[DocumentCard]:
    """All documents, oldest first."""
    return [
        DocumentCard(
            id=info.id,
            name=info.name,
            kind=info.kind,
            pages=info.pages,
            passages=info.chunks,
            characters=info.characters,
            cache_bytes=info.cache_bytes,
            notes=list(info.notes),
            scanned=info.scanned,
            encoding=info.encoding,
        )
        for info in library.documents()
    ]


@router.get("/v1/documents")
async def documents(request: Request, service: Running, caller: Asking) -> DocumentList:
    """The caller's documents, oldest first."""
    found = await service.compute(request, lambda model, _: cards(service.libraries.of(caller, model)))
    return DocumentList(data=found)


@router.delete("/v1/documents/{document_id}")
async def delete(document_id: str, request: Request, service: Running, caller: Asking) -> Deleted:
    """Removes a document with its vectors and caches."""

    def work(library: Library) -> Deleted:
        if document_id not in {info.id for info in library.documents()}:
            raise ApiError(404, "There is no such document. GET /v1/documents lists them.", code="document_not_found")
        library.remove(document_id)
        return Deleted(id=document_id)

    return await service.compute(request, lambda model, _: work(service.libraries.of(caller, model)))


@router.get("/v1/caches")
async def caches(request: Request, service: Running, caller: Asking) -> CacheList:
    """The handles of the caller's KV caches, with their bytes and how long they are kept."""
    return CacheList(data=service.handles(await service.model(request)).list(caller.owner))


@router.delete("/v1/caches/{name}")
async def delete_cache(name: str, request: Request, service: Running, caller: Asking) -> Deleted:
    """Lets a KV cache go before its time."""
    service.handles(await service.model(request)).remove(caller.owner, name)
    return Deleted(id=name)
