"""`POST /v1/chat/completions`: OpenAI's fields, and ours: repetition_penalty, caches."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grit_app.serve.types.base import Request

MAX_NEW_TOKENS = 1_000_000
MAX_CHOICES = 16


class StreamOptions(Request):
    include_usage: bool = False


class Writes(Request):
    """What chats and completions share: how tokens are chosen, and when to stop."""

    model: str = Field("", description="Any name is taken: there is one model, and the answer names it.")
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest token each time.")
    top_p: float = Field(1.0, gt=0, le=1)
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        None, description="The same seed gives the same answer."
    )
    stop: str | Annotated[list[str], Field(max_length=16)] | None = Field(
        None, description="The answer ends before the first of these."
    )
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions | None = None
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Only 0; use repetition_penalty.")
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="Only 0; use repetition_penalty.")
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Above 1, what the answer has already becomes less likely. Left out: the model's own.",
    )
    no_repeat_ngram_size: int | None = Field(
        None, ge=0, le=1000, description="No run of so many tokens comes twice. Left out: the model's own."
    )
    logit_bias: dict[str, float] | None = Field(None, description="Not supported: an empty one only.")
    user: str | None = None

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])


class TextPart(BaseModel):
    """A part of a message. Only text is read."""

    type: str
    text: str | None = None


class FunctionCall(BaseModel):
    name: str
    arguments: str


class ToolCall(BaseModel):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(Request):
    """One turn. `developer` counts as `system`."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class JsonSchema(Request):
    name: str = "answer"
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Request):
    """`json_schema`: every answer fits the schema, for tokens that do not fit cannot be chosen."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


class ToolFunction(Request):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object"})


class Tool(Request):
    type: str = "function"
    function: ToolFunction | None = None


class NamedFunction(Request):
    name: str


class NamedTool(Request):
    type: Literal["function"] = "function"
    function: NamedFunction


class ChatRequest(Writes):
    """A conversation to continue."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "gritlm",
                    "messages": [{"role": "user", "content": "Hi"}],
                    "max_tokens": 16,
                    "temperature": 0,
                },
                {
                    "messages": [{"role": "user", "content": "Name a colour."}],
                    "max_tokens": 32,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {
                            "name": "colour",
                            "schema": {"type": "object", "properties": {"name": {"enum": ["red", "blue"]}}},
                        },
                    },
                },
            ]
        }
    )
    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    max_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_NEW_TOKENS, description="The newer name.")
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=64)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    caches: Annotated[list[str], Field(max_length=64)] | None = Field(
        None, description="Handles of /v1/embeddings: their texts stand before the conversation and are not read again."
    )


class PromptDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprob]


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    tool_calls: list[ToolCall] | None = None
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: AssistantMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    """The whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
