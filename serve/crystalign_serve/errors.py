"""HTTP errors. All have one format: `{"errors": [{"status", "title", "detail"}]}`.

ApiError:
    ├── NotFoundError      404  no such material, or it lacks the requested data
    └── UnavailableError   503  no shard or encoder answered in time

The library's `InputError` and `ConfigError` are mistakes of the user and become 422. Every 503 carries
`Retry-After`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive

from crystalign.errors import ConfigError, DatasetError, Error, InputError, StorageError

MAX_BODY_BYTES = 8 * 2**20
DISCARD_BYTES, DISCARD_SECONDS = 2 * MAX_BODY_BYTES, 2.0
"""How much of a refused request's body is read, and for how long."""
RETRY_SECONDS = 2
"""Value of `Retry-After` (s)."""

_TITLES = {
    400: "Bad request",
    401: "API key required",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "The request arrived too slowly",
    413: "Too large",
    422: "The query cannot be used",
    500: "Internal error",
    503: "Temporarily unavailable",
    504: "Timed out",
}
_LOG = logging.getLogger(__name__)


class ApiError(Error):
    """An error with an HTTP status."""

    status: ClassVar[int] = 500


class NotFoundError(ApiError):
    """No such material, or it lacks the requested data."""

    status = 404


class UnavailableError(ApiError):
    """No shard or encoder answered in time."""

    status = 503


def problem(status: int, detail: str, title: str | None = None) -> JSONResponse:
    """An error response."""
    encodable = detail.encode("utf-8", "backslashreplace").decode()  # lone surrogates cannot be encoded
    entry = {"status": str(status), "title": title or _TITLES.get(status, "Error"), "detail": encodable}
    headers = {"retry-after": str(RETRY_SECONDS)} if status == 503 else None
    return JSONResponse({"errors": [entry]}, status_code=status, headers=headers)


async def discard(receive: Receive) -> None:
    """Read and drop the body of a refused request. A client that is still sending would miss the response."""
    size = 0
    try:
        async with asyncio.timeout(DISCARD_SECONDS):
            while size < DISCARD_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def status_of(error: Exception) -> int:
    """The HTTP status of an exception."""
    if isinstance(error, ApiError):
        return error.status
    if isinstance(error, InputError | ConfigError):
        return 422
    return 503 if isinstance(error, StorageError | DatasetError) else 500


def install(app: FastAPI) -> None:
    """Turn every exception into an error response."""

    @app.exception_handler(Error)
    async def _library_error(_request: Request, error: Error) -> JSONResponse:
        return problem(status_of(error), str(error))

    @app.exception_handler(RequestValidationError)
    async def _malformed(_request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "; ".join(_line(entry) for entry in error.errors()[:5]), "The request is malformed")

    @app.exception_handler(HTTPException)
    async def _http(_request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(500, f"{type(error).__name__}; the server's log has the details")


def _line(entry: Any) -> str:
    field = ".".join(str(part) for part in entry["loc"] if part != "body")
    return f"{field}: {entry['msg']}" if field else str(entry["msg"])
