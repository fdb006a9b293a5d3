"""What went wrong, as HTTP: one shape of answer, `{"errors": [{"status", "title", "detail"}]}`.

ApiError:
    ├── NotFoundError      404  no such material, or it lacks what is asked for
    └── UnavailableError   503  no shard or encoder answered in time

The library's `InputError` and `ConfigError` are the user's mistakes and become 422; a body beyond the
limit is answered with 413 before anything reads it.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crystalign.errors import ConfigError, DatasetError, Error, InputError, StorageError

MAX_BODY_BYTES = 8 * 2**20

_TITLES = {
    400: "Not a request that can be read",
    404: "Not found",
    405: "Method not allowed",
    413: "Too large",
    422: "The query cannot be used",
    500: "Something broke on our side",
    503: "Not available now",
    504: "Took too long",
}
_LOG = logging.getLogger(__name__)


class ApiError(Error):
    """An answer other than success."""

    status: ClassVar[int] = 500


class NotFoundError(ApiError):
    """No such material, or it lacks what is asked for."""

    status = 404


class UnavailableError(ApiError):
    """No shard or encoder answered in time."""

    status = 503


def problem(status: int, detail: str, title: str | None = None) -> JSONResponse:
    """The one shape of every error."""
    entry = {"status": str(status), "title": title or _TITLES.get(status, "Error"), "detail": detail}
    return JSONResponse({"errors": [entry]}, status_code=status)


def status_of(error: Exception) -> int:
    """The HTTP status of an exception."""
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, InputError | ConfigError):
        return 422
    return 503 if isinstance(error, StorageError | DatasetError) else 500


def install(app: FastAPI) -> None:
    """Answer every exception in the one shape, and refuse bodies beyond the limit."""

    @app.exception_handler(Error)
    async def _ours(_request: Request, error: Error) -> JSONResponse:
        return problem(status_of(error), str(error))

    @app.exception_handler(RequestValidationError)
    async def _malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "; ".join(_line(entry) for entry in error.errors()[:5]), "The request is malformed")

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def _broken(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(500, f"{type(error).__name__}; the server's log has the details")

    app.add_middleware(BodyLimit, limit=MAX_BODY_BYTES)


def _line(entry: Any) -> str:
    place = ".".join(str(part) for part in entry["loc"] if part != "body")
    return f"{place}: {entry['msg']}" if place else str(entry["msg"])


class BodyLimit:
    """Answers 413 as soon as a body is known to be too large: from its declared length, or while it arrives."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.limit:
            await problem(413, self._detail(declared.decode("latin-1")))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise HTTPException(413, self._detail(f"more than {self.limit}"))
            return message

        await self.app(scope, counted, send)

    def _detail(self, size: str) -> str:
        return f"the request has {size} bytes; the limit is {self.limit}. Send one file, without its volumetric data"
