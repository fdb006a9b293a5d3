"""A lock file that lets only one job, the driver, write to a run, a dataset or an index.

Another job is refused while the driver is alive. The lock file is replaced only by conditional writes: if two jobs find
a dead driver, one of them gets the lock. A live driver that lost its lock stops at its next heartbeat. Until then it
cannot undo the work of its successor, because manifests are replaced by conditional writes, too.
"""

from __future__ import annotations

import _thread
import contextlib
import hashlib
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, ConflictError, StorageError

FILE = "driver.json"
BEAT_SECONDS = 30.0
"""Seconds between two heartbeats."""
_TRIES = 5
SILENT_SECONDS = 4 * BEAT_SECONDS
"""Seconds without a heartbeat after which a driver on another machine is considered dead."""


class Driver(Config):
    """The content of `driver.json`."""

    machine: str
    """Scope in which the process id is unique: host, boot and PID namespace."""
    host: str
    """Host name, for messages."""
    pid: int
    """Process id."""
    began: float
    """Start time of the process, by the clock of its machine; process ids are reused."""
    token: str
    """Unique id of this driver."""


@contextmanager
def driving(run: str) -> Iterator[Callable[[], bool]]:
    """Hold the lock of a folder for the duration of a `with` block.

    Args:
        run: URI of the folder of a run, a dataset or an index.

    Yields:
        A function that returns whether this process still holds the lock.

    Raises:
        ConfigError: another driver is alive.
    """
    driver = Driver(
        machine=_machine(),
        host=socket.gethostname(),
        pid=os.getpid(),
        began=psutil.Process().create_time(),
        token=uuid.uuid4().hex,
    )
    lock, stop = storage.join(run, FILE), threading.Event()
    _claim(lock, driver)
    thread = threading.Thread(target=_beat, args=(lock, driver, stop), daemon=True, name="driver")
    thread.start()
    try:
        yield lambda: _read(lock) == driver
    finally:
        stop.set()
        thread.join(timeout=BEAT_SECONDS)
        with contextlib.suppress(StorageError):  # the next driver will find the lock expired
            if _read(lock) == driver:
                storage.delete(lock)


def is_driven(run: str) -> bool:
    """Whether the driver of a run is alive."""
    lock = storage.join(run, FILE)
    other = _read(lock)
    return other is not None and _is_alive(other, _age(lock))


def _claim(lock: str, driver: Driver) -> None:
    for _ in range(_TRIES):
        stored = _stored(lock)
        if stored is not None:
            _refuse_if_alive(lock, stored)
        try:
            storage.replace_bytes(lock, _bytes(driver), expected=None if stored is None else _sha256(stored))
        except ConflictError:
            continue  # another job took the lock first, or has just released it
        return
    raise ConfigError(
        f"the lock of {lock.rpartition('/')[0]} keeps changing owner; stop the other jobs that write there"
    )


def _refuse_if_alive(lock: str, stored: bytes) -> None:
    """Raise if the driver that wrote a lock file is alive."""
    folder, other, age = lock.rpartition("/")[0], _parsed(stored), _age(lock)
    if other is None:
        raise ConfigError(
            f"{lock} does not name the process that holds it; delete the file if no job writes to {folder}"
        )
    if _is_alive(other, age):
        raise ConfigError(
            f"{folder} is locked by process {other.pid} on {other.host}, whose last heartbeat was {age:.0f} s ago; "
            "wait until it ends, or stop it. If it died on another machine, its lock expires after "
            f"{SILENT_SECONDS:.0f} s"
        )


def _beat(lock: str, driver: Driver, stop: threading.Event) -> None:
    data = _bytes(driver)
    while not stop.wait(BEAT_SECONDS):
        with contextlib.suppress(StorageError):  # failing storage also fails the writes of the run, which report it
            try:
                storage.replace_bytes(lock, data, expected=_sha256(data))
            except ConflictError:
                other = _read(lock)
                if other is None:
                    storage.write_bytes(lock, data, if_absent=True)
                elif other != driver:
                    _give_way(lock, other)
                    return


def _give_way(lock: str, other: Driver) -> None:
    print(f"stopping: process {other.pid} on {other.host} has taken the lock of {lock.rpartition('/')[0]}", flush=True)
    _thread.interrupt_main(signal.SIGTERM)


def _age(lock: str) -> float:
    """Seconds since a file was written."""
    written = storage.modified(lock)
    return max(0.0, (datetime.now(UTC) - written).total_seconds()) if written else 0.0


def _read(lock: str) -> Driver | None:
    stored = _stored(lock)
    return None if stored is None else _parsed(stored)


def _stored(lock: str) -> bytes | None:
    try:
        return storage.read_bytes(lock) if storage.exists(lock) else None
    except StorageError:
        if storage.exists(lock):
            raise
        return None  # the lock has just been released


def _parsed(data: bytes) -> Driver | None:
    try:
        return Driver.model_validate_json(data)
    except ValueError:
        return None


def _bytes(driver: Driver) -> bytes:
    return driver.model_dump_json().encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_alive(other: Driver, age: float) -> bool:
    """Whether a driver is alive: on this machine by its process, on another machine by its last heartbeat."""
    if other.machine != _machine():
        return age < SILENT_SECONDS
    try:
        process = psutil.Process(other.pid)
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - other.began) < 2.0)
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    """An id of host, boot and PID namespace, within which a process id is unique."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
