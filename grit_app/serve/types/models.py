"""`GET /v1/models` and `GET /health`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ModelCard(BaseModel):
    """One served model, with the keys of both shapes that clients read."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "grit-workbench"
    max_model_len: int
    hidden_size: int
    capabilities: list[str]
    slug: str
    display_name: str
    meta: dict[str, Any]


class ModelList(BaseModel):
    """`data` is OpenAI's shape; `models` is the shape of Codex and of Ollama-like clients."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
    models: list[ModelCard]


class Health(BaseModel):
    """Whether requests are answered."""

    status: Literal["ok", "loading", "failed"]
    model: str = ""
    message: str = ""
