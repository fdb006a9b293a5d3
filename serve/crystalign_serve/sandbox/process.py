"""The service's side of the fork server: starts it, keeps children ready, talks to one child."""

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
"""For the imports of the fork server, on a slow disk."""
STATUS_SECONDS = 2.0
END_SECONDS = 5.0
_KEPT = ("PATH", "PYTHONPATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
"""Variables of the environment that children get: none that may hold a secret. Other packages' modalities may lie on
PYTHONPATH."""
_LOG = logging.getLogger(__name__)


class TooSlowError(Exception):
    """A child did not answer in time and was ended."""


class TooLargeError(Exception):
    """A child reached its limit of memory."""


class CrashError(Exception):
    """A child ended without an answer, or with one that is none."""


class LostError(Exception):
    """A child was gone before it was asked anything, or went with the fork server."""


class Child:
    """One process that answers one request."""

    def __init__(self, server: Server, number: int, connection: socket.socket) -> None:
        self._server, self._number, self._connection = server, number, connection

    def ask(self, request: Message, seconds: float) -> Message:
        """Its answer.

        Raises:
            LostError: it was gone already.
            TooSlowError: it took longer, and was ended.
            TooLargeError: it reached its limit of memory.
            CrashError: it ended otherwise, or answered nonsense.
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
        """Until it is there."""
        self._connection.settimeout(START_SECONDS)
        try:
            there = self._connection.recv(1)
        except TimeoutError:
            self.end()
            raise LostError from None
        except OSError:
            there = b""
        if not there or self._server.has_ended(self._number):
            raise LostError

    def _explain(self) -> NoReturn:
        """Raise why it ended."""
        status = self._server.status(self._number)
        if status is None and not self._server.alive:
            raise LostError
        if status in {OUT_OF_MEMORY, -signal.SIGKILL}:  # the kernel kills when the machine has no memory left
            raise TooLargeError
        if status in {-signal.SIGXCPU, -signal.SIGALRM}:
            raise TooSlowError
        told = signal.Signals(-status).name if status is not None and status < 0 else f"status {status}"
        raise CrashError(told)

    def end(self) -> None:
        """End it, whatever it does."""
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
            start_new_session=True,  # Ctrl-C in a terminal is the service's alone
            env=_environment(),
        )
        theirs.close()
        threading.Thread(target=self._listen, name="sandbox-server", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it takes commands."""
        return not self._lost

    def wait(self) -> bool:
        """Whether it has started, once that is known."""
        return self._ready.wait(START_SECONDS) and self.alive

    def fork(self) -> Child:
        """A child that is being made."""
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
        """Tell the server; if it is gone its children are, too."""
        try:
            with self._changed:
                data = COMMAND.pack(letter, number, 0)
                socket.send_fds(self._control, [data], [] if end is None else [end.fileno()])
        except OSError:
            self._lost = True

    def has_ended(self, number: int) -> bool:
        """Whether a child is known to be gone."""
        with self._changed:
            return self._lost or self._statuses.get(number) is not None

    def status(self, number: int) -> int | None:
        """How a child ended: an exit code, minus a signal, or None if the server does not say."""
        with self._changed:
            self._changed.wait_for(lambda: self._lost or self._statuses.get(number) is not None, STATUS_SECONDS)
            return self._statuses.get(number)

    def forget(self, number: int) -> None:
        """Nobody will ask about this child any more."""
        with self._changed:
            self._statuses.pop(number, None)

    def _listen(self) -> None:
        """Note what the server tells, until it is gone."""
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
        shutil.rmtree(self.folder, ignore_errors=True)  # the server does that itself, if it can

    def _note(self, letter: bytes, number: int, status: int) -> None:
        with self._changed:
            if letter == b"R":
                self._ready.set()
            if letter == b"E" and number in self._statuses:
                self._statuses[number] = status
            self._changed.notify_all()

    def close(self) -> None:
        """End it and its children."""
        self._lost = True
        try:
            self._control.shutdown(socket.SHUT_RDWR)
            self.process.wait(END_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    threads["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # who forks has one thread
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return kept | threads | {"PYTHONPATH": path, "MPLBACKEND": "agg"}


class Servers:
    """The fork server of this process for some limits: started when it is first needed, and again when it dies."""

    RESTART_SECONDS = 2.0
    """A server that dies sooner than this is not started again at once."""

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._started = 0.0
        self._owner = os.getpid()
        atexit.register(self.close)

    def start(self) -> Server:
        """The running server, with children ahead of need.

        Raises:
            UnavailableError: it keeps dying.
        """
        with self._lock:
            if self._owner != os.getpid():  # this process was forked: the server is that of its parent
                self._server, self._owner = None, os.getpid()
            if self._server is None or not self._server.alive:
                if self._server is not None and time.monotonic() - self._started < self.RESTART_SECONDS:
                    raise UnavailableError("the process that reads files does not start; the server's log says why")
                if self._server is not None:
                    _LOG.warning("the process that reads files ended; another is started")
                self._started = time.monotonic()
                self._server = Server(self._limits)
                self._server.ready.extend(self._server.fork() for _ in range(self._limits.processes))
            return self._server

    def child(self) -> Child:
        """A child of one's own; another takes its place among those that stand ready."""
        server = self.start()
        try:
            child = server.ready.popleft()
        except IndexError:
            child = server.fork()
        server.ready.append(server.fork())
        return child

    def close(self) -> None:
        """End the server; a later request starts another."""
        with self._lock:
            if self._server is not None and self._owner == os.getpid():
                self._server.close()
            self._server = None


@functools.cache
def servers(limits: SandboxLimits) -> Servers:
    """The one of this process."""
    return Servers(limits)
