"""`/v1/documents`, `/v1/answers` and `/v1/caches`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grit_app.serve.types.base import Request
from grit_app.serve.types.embeddings import CacheHandle


class DocumentCard(BaseModel):
    """One kept document."""

    id: str
    object: Literal["document"] = "document"
    name: str
    kind: str
    pages: int
    passages: int
    characters: int
    cache_bytes: int
    notes: list[str]
    scanned: int = Field(description="Pages that are pictures and were not read.")
    encoding: str = Field("", description="Of a text file.")


class DocumentList(BaseModel):
    object: Literal["list"] = "list"
    data: list[DocumentCard]


class Uploaded(BaseModel):
    """What became of each file, in order."""

    object: Literal["list"] = "list"
    data: list[DocumentCard]
    failed: list[dict[str, str]]


class Deleted(BaseModel):
    id: str
    deleted: bool = True


class CacheList(BaseModel):
    object: Literal["list"] = "list"
    data: list[CacheHandle]


class InlineDocument(Request):
    name: Annotated[str, Field(max_length=200)] = ""
    text: Annotated[str, Field(min_length=1)]


class AnswerRequest(Request):
    """A question over kept documents, over texts that come with it, or over texts whose caches are kept."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"question": "How is honey made?", "documents": ["Bees make honey from nectar."]},
                {"question": "How many schools took part?", "strategy": "docs_cache", "k": 3, "stream": True},
            ]
        }
    )
    question: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | InlineDocument], Field(max_length=256)] | None = Field(
        None, description="Texts to answer from; they are forgotten afterwards. Left out: the kept documents."
    )
    document_ids: Annotated[list[str], Field(max_length=256)] | None = Field(
        None, description="Which of the kept documents to search; left out: all."
    )
    caches: Annotated[list[str], Field(min_length=1, max_length=64)] | None = Field(
        None, description="Handles of /v1/embeddings: the answer is written over their texts, which are not read again."
    )
    strategy: str | None = Field(None, description="How caches are reused; left out: the checkpoint's own.")
    k: int | None = Field(None, ge=1, le=64, description="Passages to retrieve.")
    mode: Literal["quote", "short", "free"] | None = None
    rerank: Literal["relevance", "question"] | None = Field(
        None, description="The model reads the ten best passages and reorders them before it answers from k of them."
    )
    searches: int = Field(
        0, ge=0, le=8, description="How often the model may search on its own while it answers, in its own words."
    )
    max_tokens: int = Field(64, ge=1, le=100_000)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stream: bool = Field(False, description="Events: retrieved, searching, token …, done.")
    boxes: bool = Field(False, description="Also give where a cited sentence stands on its page of a PDF.")


class AnswerCitation(BaseModel):
    """A retrieved passage; cited ones come first."""

    number: int
    document_id: str
    file: str
    page: int
    page_label: str
    text: str
    score: float
    cited: bool
    by_ocr: bool = Field(False, description="Whether a part of it was read by OCR, which may err.")
    boxes: list[tuple[float, float, float, float]] | None = Field(
        None, description="(left, top, right, bottom) in points from the page's top left corner."
    )


class AnswerResponse(BaseModel):
    """A cited answer."""

    model_config = ConfigDict(extra="allow")
    id: str
    object: Literal["answer"] = "answer"
    model: str
    answer: str
    answerable: bool
    strategy: str
    citations: list[AnswerCitation]
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    timings_ms: dict[str, Any]
