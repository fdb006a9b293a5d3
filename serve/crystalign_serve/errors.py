"""What went wrong, as HTTP: one shape of answer, `{"errors": [{"status", "title", "detail"}]}`.

ApiError:
    ├── NotFoundError      404  no such material, or it lacks what is asked for
    └── UnavailableError   503  no shard or encoder answered in time

The library's `InputError` and `ConfigError` are the user's mistakes and become 422. Every 503 says with
`Retry-After` when to ask again.
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
"""Of the body of a request that is refused."""
RETRY_SECONDS = 2
"""After which a refused request may be sent again."""

_TITLES = {
    400: "Not a request that can be read",
    401: "An API key is needed",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Took too long to arrive",
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
    told = detail.encode("utf-8", "backslashreplace").decode()  # half a character cannot be sent
    entry = {"status": str(status), "title": title or _TITLES.get(status, "Error"), "detail": told}
    headers = {"retry-after": str(RETRY_SECONDS)} if status == 503 else None
    return JSONResponse({"errors": [entry]}, status_code=status, headers=headers)


async def discard(receive: Receive) -> None:
    """Take in the body of a request that is refused: a client that is still sending would miss the answer."""
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
    """Answer every exception in the one shape."""

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


def _line(entry: Any) -> str:
    place = ".".join(str(part) for part in entry["loc"] if part != "body")
    return f"{place}: {entry['msg']}" if place else str(entry["msg"])
