"""`POST /v1/responses`: the form that newer agents speak, without a memory on the server."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from grit_app.serve.types.base import Request
from grit_app.serve.types.chat import MAX_NEW_TOKENS


class ResponsesRequest(Request):
    """The whole history, each time."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "gritlm", "input": "Hi", "max_output_tokens": 16, "temperature": 0},
                {"instructions": "Be brief.", "input": [{"role": "user", "content": "Name a colour."}], "stream": True},
            ]
        }
    )
    model: str = ""
    input: Annotated[str, Field(min_length=1)] | Annotated[list[dict[str, Any]], Field(min_length=1, max_length=4096)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    stream: bool = False
    text: dict[str, Any] | None = Field(None, description="`format` of the type json_schema limits the answer.")
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = Field(
        None, description="Functions; kinds that are unknown here are left out."
    )
    tool_choice: str | dict[str, Any] | None = None
    previous_response_id: str | None = Field(None, description="Refused: nothing is kept. Send the whole history.")
    metadata: dict[str, Any] | None = None
