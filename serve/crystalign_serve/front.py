"""The HTTP server: uvicorn in each replica of the coordinator, with time limits for slow clients.

It replaces Ray's proxy, which saves two hops and one serialisation per request (`tests/benchmarks/README.md`).
All limits are set here: headers must arrive within 10 s, a response must be read within 30 s, and the number
of connections and the size of headers are bounded. Replicas share the port (SO_REUSEPORT), and the kernel
distributes connections among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from asyncio.events import TimerHandle
from collections.abc import Iterator
from typing import Any, NamedTuple

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from crystalign.errors import ConfigError

DRAIN_SECONDS = 30.0
"""Longest time to finish accepted requests at shutdown."""
GRACE_SECONDS = 0.3
"""How long idle keep-alive connections may send one more request after shutdown begins."""
FRESH_SECONDS = 3.0
"""How long a new connection may send its first request after shutdown begins."""


class ConnectionLimits(NamedTuple):
    """Time and size limits of connections."""

    header_seconds: float = 10.0
    """From the connection, or the first byte of a later request, to the end of the headers (s)."""
    idle_seconds: float = 15.0
    """Between two requests of a connection (s)."""
    write_seconds: float = 30.0
    """For the client to read a response that does not fit into the buffers (s)."""
    header_bytes: int = 64 * 2**10
    """Size of all headers of a request."""
    connections: int = 512
    """Open connections of one server."""


class Connection(HttpToolsProtocol):
    """One connection. It is closed if the client is too slow."""

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._header_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._header_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request of this connection is being processed."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def expects_more(self) -> bool:
        """Whether a request may still arrive: the first one, or one whose headers have begun."""
        is_fresh = self.cycle is None and self.loop.time() - self.since < FRESH_SECONDS
        return is_fresh or (self.is_idle and self._header_bytes > 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection. If there are too many, close the one that has been idle longest."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.since = self.loop.time()
        self._header_timer = self.loop.call_later(self._limits.header_seconds, self._headers_late)
        if len(self.connections) > self._limits.connections:
            idle = [c for c in self.connections if c is not self and isinstance(c, Connection) and c.is_idle]
            if idle:
                min(idle, key=lambda c: c.since).transport.abort()
            else:
                self._refuse(503, "too many connections; try again in a moment", "retry-after: 2\r\n")

    def data_received(self, data: bytes) -> None:
        """Count the header bytes."""
        if self.transport.is_closing():
            return
        if self.is_idle and self._header_timer is None:
            self._header_timer = self.loop.call_later(self._limits.header_seconds, self._headers_late)
        self._header_bytes += len(data)  # the parser's events reset this after complete headers and bodies
        super().data_received(data)
        if self._header_bytes > self._limits.header_bytes and not self.transport.is_closing():
            if self.is_idle:
                self._refuse(431, f"the headers have more than {self._limits.header_bytes} bytes")
            else:  # a response is being sent, so no error response can be
                self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Reset the header count: these bytes belong to a body."""
        self._header_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Stop the header timer; while draining, close the connection after this request."""
        self._set_header_timer(None)
        super().on_headers_complete()
        if getattr(self.server_state, "draining", False) and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Stop the header timer."""
        self._set_header_timer(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the write timer if the client has not yet read the whole response."""
        super().on_response_complete()
        self.since = self.loop.time()
        if self._write_timer is None and self.transport.get_write_buffer_size() > 0:
            self._write_timer = self.loop.call_later(self._limits.write_seconds, self._written_or_gone)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's words are not for users)
        """Send the error in the format of all other errors."""
        self._refuse(400, "the request is not valid HTTP")

    def pause_writing(self) -> None:
        """The buffers are full: start the write timer."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The buffers have space again: stop the write timer."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._set_header_timer(None)
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    def _set_header_timer(self, timer: TimerHandle | None) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
        self._header_timer, self._header_bytes = timer, 0

    def _headers_late(self) -> None:
        self._header_timer = None
        if self._header_bytes and not self.transport.is_closing():
            self._refuse(408, f"the headers did not arrive within {self._limits.header_seconds:g} s")
        elif not self.transport.is_closing():
            self.transport.close()

    def _written_or_gone(self) -> None:
        self._write_timer = None
        if self.transport.is_closing() and self in self.connections:
            self.transport.abort()

    def _refuse(self, status: int, detail: str, headers: str = "") -> None:
        titles = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}
        title = titles.get(status, "Service Unavailable")
        body = json.dumps({"errors": [{"status": str(status), "title": title, "detail": detail}]}).encode()
        head = f"HTTP/1.1 {status} {title}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        head += f"x-content-type-options: nosniff\r\n{headers}connection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and with a shutdown that loses no request."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers of the process alone."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, answer the accepted requests, and close."""
        loop, state = asyncio.get_running_loop(), self.server_state
        state.draining = True  # type: ignore[attr-defined]
        for listener in sockets or []:
            with contextlib.suppress(OSError):  # the kernel has already accepted the connections in its queue
                while True:
                    waiting, _ = listener.accept()
                    await loop.connect_accepted_socket(self._connection, waiting)
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        await asyncio.sleep(GRACE_SECONDS)
        until = loop.time() + DRAIN_SECONDS
        while state.connections and loop.time() < until:
            for connection in list(state.connections):
                if not (isinstance(connection, Connection) and connection.expects_more):
                    connection.shutdown()
            await asyncio.sleep(0.05)
        for connection in list(state.connections):
            connection.transport.abort()

    def _connection(self) -> asyncio.Protocol:
        connection: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state={}
        )
        return connection


class Front:
    """An HTTP server for one ASGI application."""

    def __init__(self, app: ASGIApp, listen: tuple[str, int], limits: ConnectionLimits | None = None) -> None:
        limits = limits or ConnectionLimits()
        http: Any = functools.partial(Connection, limits=limits)
        config = uvicorn.Config(
            app, http=http, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_keep_alive=int(limits.idle_seconds),
        )  # fmt: skip
        self._server, self._listen = _Server(config), listen
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Start to listen, in a task of the running event loop.

        Raises:
            ConfigError: the port is taken, or the address does not exist.
        """
        listener = listen_on(*self._listen)
        self.port = int(listener.getsockname()[1])
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 (uvicorn sets no event)
            await asyncio.sleep(0.01)

    @property
    def is_listening(self) -> bool:
        """Whether it accepts requests."""
        return self._server.started and self._task is not None and not self._task.done()

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without being stopped."""
        return self._task is not None and self._task.done() and not self._server.should_exit

    def begin_to_drain(self) -> None:
        """Refuse new requests, answer accepted ones, and end."""
        self._server.should_exit = True

    async def drain(self) -> None:
        """Drain and wait until the server has ended."""
        self.begin_to_drain()
        if self._task is not None:
            await asyncio.shield(self._task)


def listen_on(host: str, port: int) -> socket.socket:
    """A bound socket whose port other replicas may share.

    Raises:
        ConfigError: the port is taken, or the address does not exist.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "SO_REUSEPORT"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --port, or 0 for a free one"
        ) from error
    return listener
