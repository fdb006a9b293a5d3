"""The HTTP server: uvicorn in a replica of the coordinator, with deadlines for whoever is slow.

One process less than Ray's proxy lies between a request and its answer, which saves two hops and a
serialisation (`tests/benchmarks/README.md`), and every limit is set here: headers must be complete
within ten seconds, an answer must be taken within thirty, connections and headers are bounded.
Several replicas share the port (SO_REUSEPORT); the kernel spreads connections over them.
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
GRACE_SECONDS = 0.3
"""Connections that have been answered may send one more request for so long after the service was told to stop."""
FRESH_SECONDS = 3.0
"""A new connection may send its first request for so long, then, too."""


class Patience(NamedTuple):
    """How long, and how much, a connection may take."""

    header_seconds: float = 10.0
    """From the connection, or from the first byte of a further request, to the end of the headers."""
    idle_seconds: float = 15.0
    """Between two requests."""
    write_seconds: float = 30.0
    """To take an answer that does not fit into the buffers."""
    header_bytes: int = 64 * 2**10
    connections: int = 512


class Connection(HttpToolsProtocol):
    """One connection, which is closed if its other end is slow."""

    def __init__(self, *args: Any, patience: Patience, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = patience
        self._header_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._header_bytes = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being worked on."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def expects_more(self) -> bool:
        """Whether a request is on its way: its first, or one of which a part is here."""
        is_fresh = self.cycle is None and self.loop.time() - self.since < FRESH_SECONDS
        return is_fresh or (self.is_idle and self._header_bytes > 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection; where there are too many, the one that has waited longest for its request goes."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.since = self.loop.time()
        self._header_timer = self.loop.call_later(self._patience.header_seconds, self._headers_late)
        if len(self.connections) > self._patience.connections:
            idle = [c for c in self.connections if c is not self and isinstance(c, Connection) and c.is_idle]
            if idle:
                min(idle, key=lambda c: c.since).transport.abort()
            else:
                self._refuse(503, "too many connections; try again in a moment", "retry-after: 2\r\n")

    def data_received(self, data: bytes) -> None:
        """Count what comes before the end of the headers."""
        if self.transport.is_closing():
            return
        if self.is_idle and self._header_timer is None:
            self._header_timer = self.loop.call_later(self._patience.header_seconds, self._headers_late)
        self._header_bytes += len(data)  # headers and bodies that are complete are taken off by the parser's events
        super().data_received(data)
        if self._header_bytes > self._patience.header_bytes and not self.transport.is_closing():
            if self.is_idle:
                self._refuse(431, f"the headers have more than {self._patience.header_bytes} bytes")
            else:  # an answer is on its way: another cannot be put into it
                self.transport.abort()

    def on_body(self, body: bytes) -> None:
        """Bytes of a body are none of a header."""
        self._header_bytes = 0
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """The request begins."""
        self._set_header_timer(None)
        super().on_headers_complete()
        if getattr(self.server_state, "draining", False) and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Its body is here."""
        self._set_header_timer(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Whoever leaves the end of an answer in the buffers is waited for only so long."""
        super().on_response_complete()
        self.since = self.loop.time()
        if self._write_timer is None and self.transport.get_write_buffer_size() > 0:
            self._write_timer = self.loop.call_later(self._patience.write_seconds, self._written_or_gone)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's words are not for users)
        """In the one shape of every error."""
        self._refuse(400, "this is not an HTTP request that can be read")

    def pause_writing(self) -> None:
        """The buffers are full."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._patience.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """They are not any more."""
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
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
            self._refuse(408, f"the headers did not arrive within {self._patience.header_seconds:g} s")
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
    """uvicorn without its signal handlers, with a shutdown that loses no request."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to the process, not to this server."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody new, answer whoever has been accepted, and close."""
        loop, state = asyncio.get_running_loop(), self.server_state
        state.draining = True  # type: ignore[attr-defined]
        for listener in sockets or []:
            with contextlib.suppress(OSError):  # whoever waits in the kernel's queue has been accepted, too
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
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state={}
        )
        return made


class Front:
    """An application, listening."""

    def __init__(self, app: ASGIApp, listen: tuple[str, int], patience: Patience | None = None) -> None:
        patience = patience or Patience()
        http: Any = functools.partial(Connection, patience=patience)
        config = uvicorn.Config(
            app, http=http, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
            proxy_headers=False, timeout_keep_alive=int(patience.idle_seconds),
        )  # fmt: skip
        self._server, self._listen = _Server(config), listen
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Listen, in a task of the running loop.

        Raises:
            ConfigError: the address cannot be listened on.
        """
        listener = listen_on(*self._listen)
        self.port = int(listener.getsockname()[1])
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started and not self._task.done():  # noqa: ASYNC110 (uvicorn sets no event)
            await asyncio.sleep(0.01)

    @property
    def is_listening(self) -> bool:
        """Whether it takes requests."""
        return self._server.started and self._task is not None and not self._task.done()

    @property
    def has_failed(self) -> bool:
        """Whether it has ended although nobody told it to."""
        return self._task is not None and self._task.done() and not self._server.should_exit

    def begin_to_drain(self) -> None:
        """Refuse whoever comes now, answer whoever came before, and end."""
        self._server.should_exit = True

    async def drain(self) -> None:
        """The same, and wait for the end."""
        self.begin_to_drain()
        if self._task is not None:
            await asyncio.shield(self._task)


def listen_on(host: str, port: int) -> socket.socket:
    """A socket that others of this service may share.

    Raises:
        ConfigError: the address cannot be listened on.
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
