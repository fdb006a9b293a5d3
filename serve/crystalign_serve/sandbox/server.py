"""The fork server: imports what readers need once, then makes a disposable process of itself for each file.

    python -m crystalign_serve.sandbox.server CONTROL MEMORY SECONDS FOLDER

It has one thread, a socket to the service (descriptor CONTROL) and no other work. The service sends
`F` with one end of a socket pair: a child is made, waits there for one request, answers and exits.
It sends `K` to end a child: only the parent of a process can name it safely. The server tells `R`
when it is ready and `E` with the status of each child that ended. When the service is gone, however it
went, the socket ends; so do the server and all children.
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
"""Exit code of a child that reached its limit of memory."""
FILE_BYTES = 64 * 2**20
"""Largest file that a child may write, in its own folder."""
OPEN_FILES = 64
NICE = 10
"""Readers of files leave the processor to whoever answers other queries."""
GRACE_SECONDS = 2
"""After its time a child ends by itself, should nobody end it."""
_PR_SET_PDEATHSIG = 1


class Settings(NamedTuple):
    """Limits of each child."""

    memory: int
    """Bytes beyond those it starts with."""
    seconds: float
    folder: Path
    """Where children may write; made by the service, removed by the server."""


class ForkServer:
    """Children by number."""

    def __init__(self, control: socket.socket, settings: Settings) -> None:
        self._control, self._settings = control, settings
        self._children: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def run(self) -> None:
        """Serve until the service is gone."""
        awake, wake = os.pipe()
        os.set_blocking(awake, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        events = select.poll()
        events.register(self._control, select.POLLIN)
        events.register(awake, select.POLLIN)
        try:
            self._tell(b"R", 0, 0)
            while True:
                ready = {number for number, _ in events.poll()}
                if awake in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(awake, 4096)
                    self._reap()
                if self._control.fileno() in ready and not self._obey():
                    return
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            self._end()

    def _obey(self) -> bool:
        """Do what the service asks; False where it is gone."""
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
            self._tell(b"E", number, OUT_OF_MEMORY)
            os.close(descriptor)
            return
        if pid == 0:
            self._be_child(number, descriptor, server)
        os.close(descriptor)
        self._children[number], self._numbers[pid] = pid, number

    def _be_child(self, number: int, descriptor: int, server: int) -> None:
        """Prepare, answer one request, exit; never returns."""
        code = 1
        try:
            connection = self._prepare(number, descriptor, server)
            code = _answer(connection, self._settings.seconds)
        except MemoryError:
            code = OUT_OF_MEMORY
        finally:
            os._exit(code)

    def _prepare(self, number: int, descriptor: int, server: int) -> socket.socket:
        """Close what is the server's, and take on the limits."""
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != server:
            os._exit(1)
        signal.set_wakeup_fd(-1)
        for number_of in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number_of, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
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
            self._tell(b"E", number, os.waitstatus_to_exitcode(status))

    def _tell(self, letter: bytes, number: int, status: int) -> None:
        self._control.sendall(COMMAND.pack(letter, number, status))

    def _end(self) -> None:
        for pid in self._children.values():
            os.kill(pid, signal.SIGKILL)
        for pid in self._children.values():
            os.waitpid(pid, 0)
        shutil.rmtree(self._settings.folder, ignore_errors=True)


def _limit(settings: Settings) -> None:
    """Have the kernel end or refuse what is too much. macOS ignores the limit of memory."""
    used = 0
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmData:"))
        used = int(line.split()[1]) * 1024
    seconds = math.ceil(settings.seconds) + GRACE_SECONDS
    wanted = {
        resource.RLIMIT_DATA: used + settings.memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    for name, value in wanted.items():
        hard = resource.getrlimit(name)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (limit, limit))


def _answer(connection: socket.socket, seconds: float) -> int:
    """Answer one request; the exit code."""
    from crystalign_serve.sandbox import tasks, wire

    tasks.rehearse()  # ahead of need: copying the pages that a reader touches takes longer than a small file
    connection.sendall(b"R")
    try:
        request = wire.receive(connection)
    except EOFError:
        return 0  # it was not needed
    signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
    try:
        answer = tasks.run(request)
        wire.send(connection, answer)
    except wire.WireError:
        wire.send(connection, wire.Message({"fault": "what it holds is too large to be passed on"}))
    return 0


def main() -> None:
    """Start, as the service does."""
    descriptor, memory, seconds, folder = sys.argv[1:]
    from crystalign_serve.sandbox import tasks

    tasks.warm_up()
    gc.collect()
    gc.freeze()  # so that children do not copy pages only to count what lives in them
    settings = Settings(int(memory), float(seconds), Path(folder))
    ForkServer(socket.socket(fileno=int(descriptor)), settings).run()


if __name__ == "__main__":
    main()
