"""Who comes in, and when: bodies are read whole before work begins, and work waits in short queues.

A request holds one of a few places only while it is worked on: not while its body arrives, and not
while its answer leaves. Where a queue is full, or the wait too long, the answer is an immediate 503
with `Retry-After`, so that what is accepted is answered in bounded time however many ask.
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
"""From the headers to the last byte of the body."""
HELD_BYTES = 256 * 2**20
"""Of all bodies together."""
MAX_KEYS = 2000
"""Names in a body of JSON; a validator lists every one that it does not know."""
MAX_ESCAPED_BYTES = 64 * 2**10
"""A query with escapes above this size waits with the files, whatever it holds."""


class Room(NamedTuple):
    """How many requests of a kind are worked on and may wait."""

    places: int
    """Worked on at the same time."""
    queue: int
    """Waiting, at most."""
    wait: float
    """Seconds, at most."""
    deadline: float
    """Seconds of work."""


class Limits(NamedTuple):
    """Of one front."""

    queries: Room = Room(16, 32, 1.5, 30.0)
    """Searches by text, formula and id."""
    files: Room = Room(8, 16, 8.0, 90.0)
    """Searches by structures and spectra, and predictions."""
    lookups: Room = Room(16, 64, 1.5, 20.0)
    """Everything that is known of one material, or of the index."""
    body_bytes: int = MAX_BODY_BYTES
    body_seconds: float = BODY_SECONDS
    held_bytes: int = HELD_BYTES


class Gate:
    """Places for one kind of request."""

    def __init__(self, name: str, room: Room) -> None:
        self.name, self.room = name, room
        self._free = asyncio.Semaphore(room.places)
        self._waiting = 0

    async def enter(self) -> None:
        """Take a place.

        Raises:
            UnavailableError: too many wait, or none became free in time.
        """
        if self._free.locked():
            if self._waiting >= self.room.queue:
                raise UnavailableError(f"too many {self.name} wait already; try again in a moment")
            self._waiting += 1
            try:
                await asyncio.wait_for(self._free.acquire(), self.room.wait)
            except TimeoutError:
                raise UnavailableError(
                    f"too many {self.name} at once: none could begin within {self.room.wait:g} s; try again"
                ) from None
            finally:
                self._waiting -= 1
        else:
            await self._free.acquire()

    def leave(self) -> None:
        """Give the place back."""
        self._free.release()


class Admission:
    """Reads bodies within limits of size and time, and lets requests through the gate of their kind."""

    def __init__(self, app: ASGIApp, limits: Limits | None = None) -> None:
        self.app = app
        self.limits = limits or Limits()
        names = {"queries": "queries", "files": "queries with files", "lookups": "requests"}
        self.gates = {kind: Gate(name, getattr(self.limits, kind)) for kind, name in names.items()}
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on once its body is here and its turn has come."""
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
        """The whole body; None where the request has been answered, or its sender has gone."""
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
        """Fill `body`; gives why the request is refused, with status 0 if its sender has gone."""
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
        """Wait for a place, work, and give the place back when the answer begins to leave."""
        gone = asyncio.ensure_future(receive())  # nothing comes after the body but the news that the sender left
        held = started = False

        async def sending(message: Message) -> None:
            nonlocal held, started
            started = True
            if held:  # who reads slowly holds no place
                held = False
                gate.leave()
            await send(message)

        async def work() -> None:
            nonlocal held
            try:
                await gate.enter()
            except UnavailableError as error:
                await problem(503, str(error))(scope, receive, send)
                return
            held = True
            try:
                async with asyncio.timeout(gate.room.deadline) as limit:
                    await self.app(scope, _replayed(body, receive, gone), sending)
                    limit.reschedule(None)
            except TimeoutError:
                if started:
                    raise
                await problem(503, f"no answer within {gate.room.deadline:g} s; try again")(scope, receive, send)

        task = asyncio.ensure_future(work())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not started:
                task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
        finally:
            task.cancel()
            gone.cancel()
            if held:
                gate.leave()


def kind_of(method: str, path: str, body: bytes) -> str | None:
    """`queries`, `files` or `lookups`; None for what costs nothing and never waits."""
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
    """Whether a JSON query has a part that the sandbox reads; keys may be written with escapes."""
    if b"\\u" not in body:
        return bool(_names_in_json(MODALITIES.names()).search(body))
    if len(body) > MAX_ESCAPED_BYTES:
        return True
    try:
        query = json.loads(body)["query"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return False  # nothing that the sandbox would ever see
    return isinstance(query, dict) and bool(file_kinds().keys() & query.keys())


@functools.lru_cache(maxsize=1)
def _names_in_json(modalities: tuple[str, ...]) -> re.Pattern[bytes]:  # noqa: ARG001 (the key of the cache)
    """A key of JSON under which a file may stand."""
    names = "|".join(re.escape(name) for name in file_kinds())
    return re.compile(rf'"(?:{names})"\s*:'.encode())


def _unreadable(scope: Scope, body: bytearray) -> tuple[int, str] | None:
    """Why a body of JSON is refused before it is parsed: not UTF-8, or more names than any request has."""
    kind = next((v for k, v in scope["headers"] if k == b"content-type"), b"")
    if not body or kind.strip().lower().startswith((b"multipart/", b"application/x-www-form-urlencoded")):
        return None
    if b"\x00" in body[:64]:
        return 422, "the body is not UTF-8; send JSON in UTF-8"
    if body.count(b'":') > MAX_KEYS:
        return 422, f"the body has more than {MAX_KEYS} names; a query has a few"
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return 422, f"the body is not UTF-8 at byte {error.start}; send JSON in UTF-8"
    return None


def _replayed(body: bytes, receive: Receive, gone: asyncio.Future[Message] | None = None) -> Receive:
    """A `receive` that gives the body once, then what the server says."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await (receive() if gone is None else asyncio.shield(gone))

    return replay
