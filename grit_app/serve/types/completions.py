"""`POST /v1/completions`: the older form, which evaluation harnesses use for its likelihoods."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from grit_app.serve.types.chat import MAX_NEW_TOKENS, Usage, Writes

Texts = Annotated[list[str], Field(min_length=1, max_length=256)]
Ids = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(Writes):
    """Texts to continue."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "gritlm", "prompt": "Bees make", "max_tokens": 8, "temperature": 0},
                {"prompt": ["Bees make honey."], "max_tokens": 0, "logprobs": 1, "echo": True},
            ]
        }
    )
    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=256)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1)]
    ) = Field(description="One text or several; or ids of this model's own vocabulary.")
    max_tokens: int = Field(16, ge=0, le=MAX_NEW_TOKENS)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = Field(False, description="Give the prompt back before the answer, with its likelihoods if asked for.")
    suffix: str | None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: Literal["stop", "length"] | None


class Completion(BaseModel):
    """The whole answer; also each piece of a streamed one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
