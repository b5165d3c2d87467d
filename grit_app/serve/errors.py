"""Errors as OpenAI's clients read them: `{"error": {"message", "type", "param", "code"}}`, never a traceback.

The sentence stands in `detail` as well: clients of Jina's reranking look there and nowhere else.

A `GritError` reaches the client as its own sentence. Anything else is logged in full under a short id, and the client
reads a sentence with that id.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from grit_app.errors import Busy, Cancelled, DocumentError, GritError, InputError, ModelError

logger = logging.getLogger("grit_app.serve")

CLIENT_CLOSED = 499
"""nginx's status for a client that went away; nobody reads it but the log."""

KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "error": {
                    "message": "Text 1 is empty. An embedding needs at least one visible character.",
                    "type": "invalid_request_error",
                    "param": "input",
                    "code": None,
                },
                "detail": "Text 1 is empty. An embedding needs at least one visible character.",
            }
        }
    )
    error: ErrorDetail
    detail: str


class ApiError(Exception):
    """An answer with a status of its own. The message is a sentence for a person."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers

    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {
            "error": {"message": str(self), "type": kind, "param": self.param, "code": self.code},
            "detail": str(self),
        }

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), self.status, headers=self.headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request cannot be used as it is; the sentence says what to change."""
    return ApiError(400, message, param=param, code=code)


def as_api_error(error: BaseException) -> ApiError:
    """Any exception as the client reads it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, Cancelled):
        return ApiError(CLIENT_CLOSED, str(error))
    if isinstance(error, Busy):
        return ApiError(429, str(error), code="busy", headers={"Retry-After": "2"})
    if isinstance(error, (InputError, DocumentError)):
        return bad_request(str(error))
    if isinstance(error, ModelError):
        return ApiError(503, str(error), code="model_unavailable")
    if isinstance(error, GritError):
        return bad_request(str(error))
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, ApiError):  # FastAPI's own words for whatever happens while a body is read
            return error.__cause__
        return ApiError(error.status_code, _sentence(error), headers=dict(error.headers or {}))
    number = secrets.token_hex(3)
    logger.error("error %s", number, exc_info=error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return ApiError(503, f"The machine ran out of memory. Send shorter or fewer texts (error {number}).")
    return ApiError(500, f"Something went wrong on the server's side; its log has the cause (error {number}).")


def _sentence(error: HTTPException) -> str:
    if error.status_code == 404:
        return "There is no such address here. /docs lists all of them."
    if error.status_code == 405:
        return "This address does not take that method. /docs lists which it takes."
    return f"{error.detail}."


def invalid(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a request's fields, as a sentence that names the field."""
    first = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    # A union's branches are named after their types; the path up to the field is what the client wrote.
    param = ".".join(part for part in place if not part.startswith(("function-", "list[", "constrained-"))) or None
    what = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return bad_request("The body is not valid JSON.")
    if param is None:
        return bad_request(f"The body cannot be used: {what}.")
    return bad_request(f"{param}: {what[:1].lower()}{what[1:].rstrip('.')}.", param=param)


def install(app: FastAPI) -> None:
    """All of the app's errors in this shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    async def unusable(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return invalid(error).response()

    for kind in (ApiError, GritError, HTTPException):
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, unusable)


class CatchAll:
    """ASGI: an exception that no handler knows becomes a sentence, also for the server that runs the app."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        started = False

        async def watched(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            if started or scope["type"] != "http":
                raise
            await as_api_error(error).response()(scope, receive, send)
