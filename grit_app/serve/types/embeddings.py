"""`POST /v1/embeddings`: OpenAI's fields, and GRIT's instruction."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from grit_app.serve.types.base import Request

MAX_TEXTS = 2048

Tokens = Annotated[list[int], Field(min_length=1)]
InputType = Literal["query", "document", "passage", "search_query", "search_document"]


class EmbeddingRequest(Request):
    """Texts to embed with one instruction."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": "Bees make honey from nectar.", "model": "gritlm"},
                {"input": ["How is honey made?"], "input_type": "query", "dimensions": 32, "encoding_format": "float"},
                {"input": ["A long article …"], "cache": True},
            ]
        }
    )
    input: str | list[str] | Tokens | list[Tokens] = Field(
        description=f"One text, or a list of at most {MAX_TEXTS:,}. Token arrays are refused: vocabularies differ."
    )
    model: str = Field("", description="Any name is taken: there is one model, and the answer names it.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64` is the vector's little-endian float32 bytes."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Keep that many numbers of each vector, and normalise what is left."
    )
    instruction: str | None = Field(
        None, max_length=4000, description="What the vectors are for, in words; for queries, not for documents."
    )
    input_type: InputType | None = Field(
        None, description="`query` uses the checkpoint's own retrieval instruction; the others use none."
    )
    truncate: bool = Field(False, description="Cut texts that are longer than the model reads, instead of refusing.")
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="vLLM's name for cutting texts, at so many tokens; -1: at what the model reads."
    )
    cache: bool = Field(
        False, description="Keep each text's keys and values, and return a handle that chats and answers can name."
    )
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def is_no_chat(cls, fields: Any) -> Any:
        """Servers of other kinds embed chats, and mteb sends them so unless it is told otherwise."""
        if isinstance(fields, dict) and "messages" in fields and "input" not in fields:
            raise ValueError("send texts as input, not messages; with mteb set use_chat_template=False")
        return fields


class CacheHandle(BaseModel):
    """A text's keys and values, kept on the server for its owner."""

    id: str
    tokens: int
    bytes: int
    expires_at: int = Field(description="Unix time; each use puts it off.")


class EmbeddingItem(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    cache: CacheHandle | None = None


class EmbeddingUsage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """One vector a text, in the order given."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage
