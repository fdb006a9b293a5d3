"""Admission control: read the whole body of a request first, then queue it behind a concurrency limit.

A request occupies a slot only while it is processed, not while its body arrives or its response is sent.
If the queue is full or the wait too long, the response is 503 with `Retry-After`. The response time of
accepted requests is therefore bounded under any load.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crystalign.modalities import MODALITIES
from crystalign_serve.errors import MAX_BODY_BYTES, UnavailableError, discard, problem
from crystalign_serve.query_fields import file_kinds

BODY_SECONDS = 20.0
"""Time limit from the end of the headers to the last byte of the body."""
HELD_BYTES = 256 * 2**20
"""Memory limit for the bodies of all open requests together."""
MAX_KEYS = 2000
"""Limit on the keys of a JSON body. The validator would list every unknown key in its error message."""
MAX_ESCAPED_BYTES = 64 * 2**10
"""A JSON query with escape sequences above this size is queued with the files without being parsed."""


class QueueLimits(NamedTuple):
    """Limits for one kind of request."""

    concurrency: int
    """Requests processed at the same time."""
    queue: int
    """Largest number of waiting requests."""
    wait: float
    """Longest wait in the queue (s)."""
    deadline: float
    """Longest processing time (s)."""


class Limits(NamedTuple):
    """Limits of one HTTP server."""

    queries: QueueLimits = QueueLimits(16, 32, 1.5, 30.0)
    """Searches by text, formula and id."""
    files: QueueLimits = QueueLimits(8, 16, 8.0, 90.0)
    """Searches by structures and spectra, and predictions."""
    lookups: QueueLimits = QueueLimits(16, 64, 1.5, 20.0)
    """Requests for one material or for information about the index."""
    body_bytes: int = MAX_BODY_BYTES
    """Largest body of one request."""
    body_seconds: float = BODY_SECONDS
    """Longest time for a body to arrive (s)."""
    held_bytes: int = HELD_BYTES
    """Total size of the bodies in memory."""


class Gate:
    """A concurrency limit with a bounded queue for one kind of request."""

    def __init__(self, name: str, limits: QueueLimits) -> None:
        self.name, self.limits = name, limits
        self._free = asyncio.Semaphore(limits.concurrency)
        self._waiting = 0

    async def enter(self) -> None:
        """Acquire a slot.

        Raises:
            UnavailableError: the queue is full, or no slot became free in time.
        """
        if self._free.locked():
            if self._waiting >= self.limits.queue:
                raise UnavailableError(f"too many {self.name} are waiting; try again in a moment")
            self._waiting += 1
            try:
                await asyncio.wait_for(self._free.acquire(), self.limits.wait)
            except TimeoutError:
                raise UnavailableError(
                    f"too many {self.name}: this one waited {self.limits.wait:g} s in the queue; try again"
                ) from None
            finally:
                self._waiting -= 1
        else:
            await self._free.acquire()

    def leave(self) -> None:
        """Release the slot."""
        self._free.release()


class Admission:
    """ASGI middleware: read bodies within limits of size and time, then queue requests at the gate of their kind."""

    def __init__(self, app: ASGIApp, limits: Limits | None = None) -> None:
        self.app = app
        self.limits = limits or Limits()
        names = {"queries": "queries", "files": "queries with files", "lookups": "requests"}
        self.gates = {kind: Gate(name, getattr(self.limits, kind)) for kind, name in names.items()}
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on once its body has arrived and a slot is free."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        async with self._body(scope, receive, send) as body:
            if body is None:
                return
            kind = kind_of(scope["method"], scope["path"], body)
            if kind is None:
                await self.app(scope, _replayed(body, receive), send)
            else:
                await self._through(self.gates[kind], body, scope, receive, send)

    @contextlib.asynccontextmanager
    async def _body(self, scope: Scope, receive: Receive, send: Send) -> AsyncIterator[bytes | None]:
        """The whole body; None if the request was already refused or the client disconnected."""
        body = bytearray()
        try:
            refusal = self._declared(scope)
            if refusal is None:
                refusal = await self._read(receive, body) or _unreadable(scope, body)
            if refusal is not None and refusal[0]:
                if refusal[0] == 413:
                    await discard(receive)
                answer = problem(*refusal)
                answer.headers["connection"] = "close"  # the rest of the body is not read
                await answer(scope, receive, send)
            yield bytes(body) if refusal is None else None
        finally:
            self._held -= len(body)

    def _declared(self, scope: Scope) -> tuple[int, str] | None:
        declared = next((v for k, v in scope["headers"] if k == b"content-length"), b"0")
        if not declared.isdigit() or len(declared) > 18 or int(declared) > self.limits.body_bytes:
            return 413, self._too_large(declared[:40].decode("latin-1"))
        return None

    async def _read(self, receive: Receive, body: bytearray) -> tuple[int, str] | None:
        """Read into `body`. Returns status and reason of a refusal, or None; status 0 means the client disconnected."""
        limits = self.limits
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return 0, ""
                    chunk = message.get("body", b"")
                    if len(body) + len(chunk) > limits.body_bytes:
                        return 413, self._too_large(f"more than {limits.body_bytes}")
                    if self._held + len(chunk) > limits.held_bytes:
                        return 503, "too many large requests arrive at once; try again in a moment"
                    body += chunk
                    self._held += len(chunk)
                    if not message.get("more_body", False):
                        return None
        except TimeoutError:
            return 408, f"the body of the request did not arrive within {limits.body_seconds:g} s"

    def _too_large(self, size: str) -> str:
        limit = self.limits.body_bytes
        return f"the request has {size} bytes; the limit is {limit}. Send one file, without its volumetric data"

    async def _through(self, gate: Gate, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for a slot, process the request, and release the slot when the response starts."""
        disconnect = asyncio.ensure_future(receive())  # after the body, the only possible message is the disconnect
        has_slot = started = False

        async def sending(message: Message) -> None:
            nonlocal has_slot, started
            started = True
            if has_slot:  # a slow client must not occupy a slot
                has_slot = False
                gate.leave()
            await send(message)

        async def work() -> None:
            nonlocal has_slot
            try:
                await gate.enter()
            except UnavailableError as error:
                await problem(503, str(error))(scope, receive, send)
                return
            has_slot = True
            try:
                async with asyncio.timeout(gate.limits.deadline) as limit:
                    await self.app(scope, _replayed(body, receive, disconnect), sending)
                    limit.reschedule(None)
            except TimeoutError:
                if started:
                    raise
                await problem(503, f"the request took more than {gate.limits.deadline:g} s; try again")(
                    scope, receive, send
                )

        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not started:
                task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
        finally:
            task.cancel()
            disconnect.cancel()
            if has_slot:
                gate.leave()


def kind_of(method: str, path: str, body: bytes) -> str | None:
    """`queries`, `files` or `lookups`; None for cheap requests, which are not queued."""
    if not path.startswith("/api/") or path == "/api/health":
        return None
    if path.startswith("/api/predict") or path == "/api/search/file":
        return "files"
    if path == "/api/search" and method == "POST":
        return "files" if _holds_a_file(body) else "queries"
    if path.endswith("/predictions"):
        return "files"
    return "queries" if path.endswith("/similar") else "lookups"


def _holds_a_file(body: bytes) -> bool:
    """Whether a JSON query has a part that is read in the sandbox. Keys may contain JSON escapes."""
    if b"\\u" not in body:
        return bool(_names_in_json(MODALITIES.names()).search(body))
    if len(body) > MAX_ESCAPED_BYTES:
        return True
    try:
        query = json.loads(body)["query"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False  # validation refuses this request before the sandbox
    return isinstance(query, dict) and bool(file_kinds().keys() & query.keys())


@functools.lru_cache(maxsize=1)
def _names_in_json(modalities: tuple[str, ...]) -> re.Pattern[bytes]:  # noqa: ARG001 (the key of the cache)
    """Pattern of the JSON keys whose value is a file."""
    names = "|".join(re.escape(name) for name in file_kinds())
    return re.compile(rf'"(?:{names})"\s*:'.encode())


def _unreadable(scope: Scope, body: bytearray) -> tuple[int, str] | None:
    """Status and reason if a JSON body is refused before parsing: it is not UTF-8, or it has too many keys."""
    kind = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
    if not body or kind.strip().lower().startswith((b"multipart/", b"application/x-www-form-urlencoded")):
        return None
    if b"\x00" in body[:64]:
        return 422, "the body is not UTF-8; send JSON in UTF-8"
    if body.count(b'":') > MAX_KEYS:
        return 422, f"the body has more than {MAX_KEYS} keys; send one query per request"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return 422, f"the body is not UTF-8 at byte {error.start}; send JSON in UTF-8"
    return None


def _replayed(body: bytes, receive: Receive, disconnect: asyncio.Future[Message] | None = None) -> Receive:
    """A `receive` that returns the body once, then the messages of the server."""
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await (receive() if disconnect is None else asyncio.shield(disconnect))

    return replay
