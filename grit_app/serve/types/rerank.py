"""`POST /v1/rerank`: the common form of Cohere and Jina."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grit_app.serve.types.base import Request

MAX_DOCUMENTS = 1000


class RerankDocument(Request):
    """A document with fields of its own: `text` is what counts, unless `rank_fields` names others."""

    model_config = ConfigDict(extra="allow")
    text: str | None = None


class RerankRequest(Request):
    """Documents to order by their relevance to a query."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "How is honey made?", "documents": ["Bees make honey from nectar.", "The river is long."]},
                {"query": "How is honey made?", "documents": ["Bees make honey."], "method": "relevance", "top_n": 1},
            ]
        }
    )
    model: str = ""
    query: Annotated[str, Field(min_length=1)]
    documents: Annotated[list[str | RerankDocument], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    rank_fields: list[str] | None = Field(
        None, min_length=1, description="Fields of documents that are objects, in the order in which they are read."
    )
    max_tokens_per_doc: int | None = Field(None, ge=1, description="A longer document counts with its beginning alone.")
    method: Literal["embedding", "relevance", "question"] = Field(
        "embedding",
        description="`embedding`: cosine, each text read once (bi-encoder). `relevance`, `question`: the writing half "
        "reads query and document together (cross-encoder): is it relevant, or how likely it would ask that.",
    )


class RerankResult(BaseModel):
    index: int
    relevance_score: float = Field(description="0 … 1, higher is more relevant; compares within one query.")
    document: dict[str, Any] | None = Field(None, description="As it was sent; a plain text as its field `text`.")


class RerankUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class RerankTokens(BaseModel):
    input_tokens: int
    output_tokens: int = 0


class RerankMeta(BaseModel):
    """The tokens again, where clients of Cohere look for them."""

    tokens: RerankTokens


class RerankResponse(BaseModel):
    """The best documents first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: RerankUsage
    meta: RerankMeta
