"""What all requests share."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, model_validator


class Request(BaseModel):
    """Fields that are null count as left out: litellm and others send every field they know."""

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, fields: Any) -> Any:
        return (
            {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else fields
        )
