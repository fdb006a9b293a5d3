"""The fork server: import the parsers once, then fork a disposable child process for each file.

    python -m crystalign_serve.sandbox.server CONTROL MEMORY SECONDS FOLDER

The server has one thread and a control socket to the service (descriptor CONTROL). Commands of the service:

- `F`, with one end of a socket pair: fork a child, which answers one request on that socket and exits.
- `K`: kill a child. Only its parent can do this without a race on the process id.

Messages of the server: `R` when it is ready, `E` with the exit status of each child that ended. When the
service ends for any reason, the control socket closes, and the server and all children end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

COMMAND = struct.Struct("<cIi")
"""Letter, number of the child, status as `os.waitstatus_to_exitcode` gives it."""
OUT_OF_MEMORY = 86
"""Exit code of a child that reached its memory limit."""
FILE_BYTES = 64 * 2**20
"""Largest file that a child may write to its own folder."""
OPEN_FILES = 64
"""File descriptors of a child."""
NICE = 10
"""Niceness of children, so that parsing files does not slow down other queries."""
GRACE_SECONDS = 2
"""A child ends by itself this long after its time limit, if nobody has killed it."""
_PR_SET_PDEATHSIG = 1


class Settings(NamedTuple):
    """Limits of each child."""

    memory: int
    """Memory beyond what the child starts with (bytes)."""
    seconds: float
    """Time for one file."""
    folder: Path
    """Where children may write; created by the service, removed by the server."""


class ForkServer:
    """Forks child processes and reports their exit status."""

    def __init__(self, control: socket.socket, settings: Settings) -> None:
        self._control, self._settings = control, settings
        self._children: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def run(self) -> None:
        """Obey commands until the service has ended."""
        signal_pipe, signal_end = os.pipe()
        os.set_blocking(signal_pipe, False)
        os.set_blocking(signal_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(signal_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        events = select.poll()
        events.register(self._control, select.POLLIN)
        events.register(signal_pipe, select.POLLIN)
        try:
            self._report(b"R", 0, 0)
            while True:
                ready = {number for number, _ in events.poll()}
                if signal_pipe in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(signal_pipe, 4096)
                    self._reap()
                if self._control.fileno() in ready and not self._obey():
                    return
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            self._end()

    def _obey(self) -> bool:
        """Execute one command; False if the service has ended."""
        data, descriptors, _, _ = socket.recv_fds(self._control, COMMAND.size, 1)
        while data and len(data) < COMMAND.size:
            more = self._control.recv(COMMAND.size - len(data))
            data = data + more if more else b""
        if not data:
            return False
        letter, number, _ = COMMAND.unpack(data)
        if letter == b"F":
            self._fork(number, descriptors[0])
        elif number in self._children:
            os.kill(self._children[number], signal.SIGKILL)
        return True

    def _fork(self, number: int, descriptor: int) -> None:
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            self._report(b"E", number, OUT_OF_MEMORY)
            os.close(descriptor)
            return
        if pid == 0:
            self._be_child(number, descriptor, server)
        os.close(descriptor)
        self._children[number], self._numbers[pid] = pid, number

    def _be_child(self, number: int, descriptor: int, server: int) -> None:
        """Prepare the child, answer one request and exit. Never returns."""
        code = 1
        try:
            connection = self._prepare(number, descriptor, server)
            code = _answer(connection, self._settings.seconds)
        except MemoryError:
            code = OUT_OF_MEMORY
        finally:
            os._exit(code)

    def _prepare(self, number: int, descriptor: int, server: int) -> socket.socket:
        """Close the server's descriptors and apply the limits."""
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number_of in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number_of, signal.SIG_DFL)
        null_device = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null_device, stream)
        os.dup2(descriptor, 3, inheritable=False)
        os.closerange(4, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 65_536))
        folder = self._settings.folder / str(number)
        folder.mkdir()
        tempfile.tempdir = str(folder)
        os.chdir(folder)
        os.nice(NICE)
        _limit(self._settings)
        return socket.socket(fileno=3)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self._numbers.pop(pid)
            del self._children[number]
            shutil.rmtree(self._settings.folder / str(number), ignore_errors=True)
            self._report(b"E", number, os.waitstatus_to_exitcode(status))

    def _report(self, letter: bytes, number: int, status: int) -> None:
        self._control.sendall(COMMAND.pack(letter, number, status))

    def _end(self) -> None:
        for pid in self._children.values():
            os.kill(pid, signal.SIGKILL)
        for pid in self._children.values():
            os.waitpid(pid, 0)
        shutil.rmtree(self._settings.folder, ignore_errors=True)


def _limit(settings: Settings) -> None:
    """Set the resource limits that the kernel enforces. macOS ignores the memory limit."""
    used = 0
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmData:"))
        used = int(line.split()[1]) * 1024
    seconds = math.ceil(settings.seconds) + GRACE_SECONDS
    limits = {
        resource.RLIMIT_DATA: used + settings.memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    for name, value in limits.items():
        hard = resource.getrlimit(name)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (limit, limit))


def _answer(connection: socket.socket, seconds: float) -> int:
    """Answer one request. Returns the exit code."""
    from crystalign_serve.sandbox import tasks, wire

    tasks.rehearse()  # before the request, because copy-on-write page faults cost more than parsing a small file
    connection.sendall(b"R")
    try:
        request = wire.receive(connection)
    except EOFError:
        return 0  # the service ended without using this child
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    try:
        answer = tasks.run(request)
        wire.send(connection, answer)
    except wire.WireError:
        wire.send(connection, wire.Message({"fault": "its parsed content is too large"}))
    return 0


def main() -> None:
    """Run the fork server with the arguments that the service passes."""
    descriptor, memory, seconds, folder = sys.argv[1:]
    from crystalign_serve.sandbox import tasks

    tasks.warm_up()
    gc.collect()
    gc.freeze()  # so that garbage collection in children does not copy pages
    settings = Settings(int(memory), float(seconds), Path(folder))
    ForkServer(socket.socket(fileno=int(descriptor)), settings).run()


if __name__ == "__main__":
    main()
