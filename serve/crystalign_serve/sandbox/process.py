"""The service's side of the fork server: start it, keep child processes ready, and talk to a child."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import NoReturn

from crystalign_serve.errors import UnavailableError
from crystalign_serve.sandbox import wire
from crystalign_serve.sandbox.limits import SandboxLimits
from crystalign_serve.sandbox.server import COMMAND, OUT_OF_MEMORY
from crystalign_serve.sandbox.wire import Message, WireError

START_SECONDS = 120.0
"""Time limit for the imports of the fork server, which are slow on a slow disk."""
STATUS_SECONDS = 2.0
"""Longest wait for the exit status of a child."""
END_SECONDS = 5.0
"""Longest wait for the fork server to end."""
_INHERITED = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""Environment variables that children inherit; none may hold a secret. PYTHONPATH may contain modalities of other
packages."""
_LOG = logging.getLogger(__name__)


class TooSlowError(Exception):
    """A child did not answer in time and was killed."""


class TooLargeError(Exception):
    """A child reached its memory limit."""


class CrashError(Exception):
    """A child ended without a valid answer."""


class LostError(Exception):
    """A child had ended before it received a request, or ended together with the fork server."""


class Child:
    """A child process, which answers one request."""

    def __init__(self, server: Server, number: int, connection: socket.socket) -> None:
        self._server, self._number, self._connection = server, number, connection

    def ask(self, request: Message, seconds: float) -> Message:
        """Send a request and return the answer.

        Raises:
            LostError: the child had already ended.
            TooSlowError: it took longer than `seconds` and was killed.
            TooLargeError: it reached its memory limit.
            CrashError: it ended otherwise, or its answer is invalid.
        """
        try:
            self._await()
            until = time.monotonic() + seconds
            wire.send(self._connection, request, until)
            return wire.receive(self._connection, until)
        except TimeoutError:
            self.end()
            raise TooSlowError from None
        except WireError as error:
            self.end()
            raise CrashError(str(error)) from error
        except (EOFError, OSError):
            self._explain()
        finally:
            self._connection.close()
            self._server.forget(self._number)

    def _await(self) -> None:
        """Wait until the child is ready."""
        self._connection.settimeout(START_SECONDS)
        try:
            ready = self._connection.recv(1)
        except TimeoutError:
            self.end()
            raise LostError from None
        except OSError:
            ready = b""
        if not ready or self._server.has_ended(self._number):
            raise LostError

    def _explain(self) -> NoReturn:
        """Raise the exception for the way in which the child ended."""
        status = self._server.status(self._number)
        if status is None and not self._server.alive:
            raise LostError
        if status in {OUT_OF_MEMORY, -signal.SIGKILL}:  # the kernel kills when the machine has no memory left
            raise TooLargeError
        if status in {-signal.SIGXCPU, -signal.SIGALRM}:
            raise TooSlowError
        cause = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
        raise CrashError(cause)

    def end(self) -> None:
        """Kill the child."""
        self._server.command(b"K", self._number)


class Server:
    """One running fork server."""

    def __init__(self, limits: SandboxLimits) -> None:
        ours, theirs = socket.socketpair()
        self._control, self._lost, self._numbers = ours, False, 0
        self._ready = threading.Event()
        self._changed = threading.Condition()
        self._statuses: dict[int, int | None] = {}
        self.ready: deque[Child] = deque()
        self.folder = Path(tempfile.mkdtemp(prefix="crystalign-files-"))
        settings = [str(theirs.fileno()), str(limits.memory_mb * 2**20), str(limits.seconds), str(self.folder)]
        self.process = subprocess.Popen(  # noqa: S603 (nothing in it comes from a request)
            [sys.executable, "-m", "crystalign_serve.sandbox.server", *settings],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal must reach the service only
            env=_environment(),
        )
        theirs.close()
        threading.Thread(target=self._listen, name="sandbox-server", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the fork server accepts commands."""
        return not self._lost

    def wait(self) -> bool:
        """Wait for the start of the fork server; whether it has started."""
        return self._ready.wait(START_SECONDS) and self.alive

    def fork(self) -> Child:
        """Request a new child; the fork server creates it in the background."""
        with self._changed:
            self._numbers += 1
            number = self._numbers
            self._statuses[number] = None
        ours, theirs = socket.socketpair()
        try:
            self.command(b"F", number, theirs)
        finally:
            theirs.close()
        return Child(self, number, ours)

    def command(self, letter: bytes, number: int, end: socket.socket | None = None) -> None:
        """Send a command to the fork server. If the server has ended, so have its children."""
        try:
            with self._changed:
                data = COMMAND.pack(letter, number, 0)
                socket.send_fds(self._control, [data], [] if end is None else [end.fileno()])
        except OSError:
            self._lost = True

    def has_ended(self, number: int) -> bool:
        """Whether a child is known to have ended."""
        with self._changed:
            return self._lost or self._statuses.get(number) is not None

    def status(self, number: int) -> int | None:
        """How a child ended: exit code, or minus the signal number; None if the server did not report it."""
        with self._changed:
            self._changed.wait_for(lambda: self._lost or self._statuses.get(number) is not None, STATUS_SECONDS)
            return self._statuses.get(number)

    def forget(self, number: int) -> None:
        """Drop the status of a child."""
        with self._changed:
            self._statuses.pop(number, None)

    def _listen(self) -> None:
        """Record the reports of the fork server until it ends."""
        data = b""
        try:
            while part := self._control.recv(COMMAND.size - len(data)):
                data += part
                if len(data) == COMMAND.size:
                    letter, number, status = COMMAND.unpack(data)
                    self._note(letter, number, status)
                    data = b""
        except OSError:
            pass
        with self._changed:
            self._lost = True
            self._changed.notify_all()
        self._ready.set()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)  # the server does this too, unless it was killed

    def _note(self, letter: bytes, number: int, status: int) -> None:
        with self._changed:
            if letter == b"R":
                self._ready.set()
            if letter == b"E" and number in self._statuses:
                self._statuses[number] = status
            self._changed.notify_all()

    def close(self) -> None:
        """End the fork server and its children."""
        self._lost = True
        try:
            self._control.shutdown(socket.SHUT_RDWR)
            self.process.wait(END_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    threads["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # a process that forks must have one thread
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return inherited | threads | {"PYTHONPATH": path, "MPLBACKEND": "agg"}


class Servers:
    """The fork server of this process for given limits. It starts on first use and restarts when it dies."""

    RESTART_SECONDS = 2.0
    """A server that dies within this time of its start is not restarted at once."""

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._started = 0.0
        self._owner = os.getpid()
        atexit.register(self.close)

    def start(self) -> Server:
        """The running fork server, with idle children ready.

        Raises:
            UnavailableError: the server died right after its start.
        """
        with self._lock:
            if self._owner != os.getpid():  # this process was forked, and the server belongs to its parent
                self._server, self._owner = None, os.getpid()
            if self._server is None or not self._server.alive:
                if self._server is not None and time.monotonic() - self._started < self.RESTART_SECONDS:
                    raise UnavailableError("the process that reads files does not start; the server's log says why")
                if self._server is not None:
                    _LOG.warning("the process that reads files ended and is being restarted")
                self._started = time.monotonic()
                self._server = Server(self._limits)
                self._server.ready.extend(self._server.fork() for _ in range(self._limits.processes))
            return self._server

    def child(self) -> Child:
        """Take an idle child, and request another to replace it."""
        server = self.start()
        try:
            child = server.ready.popleft()
        except IndexError:
            child = server.fork()
        server.ready.append(server.fork())
        return child

    def close(self) -> None:
        """End the fork server; a later request starts a new one."""
        with self._lock:
            if self._server is not None and self._owner == os.getpid():
                self._server.close()
            self._server = None


@functools.cache
def servers(limits: SandboxLimits) -> Servers:
    """The shared instance of this process for the given limits."""
    return Servers(limits)
