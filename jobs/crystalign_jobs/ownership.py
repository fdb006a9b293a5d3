"""One driver per run: whoever drives it says so in its folder, and another is refused while that one lives."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import psutil

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import ConfigError, StorageError

FILE = "driver.json"
BEAT_SECONDS = 30.0
"""Between two signs of life."""
SILENT_SECONDS = 4 * BEAT_SECONDS
"""A driver on another machine that has given none for so long is taken for dead."""


class Driver(Config):
    """The content of `driver.json`."""

    machine: str
    """Where its process number means something: host, boot and namespace."""
    host: str
    """For people."""
    pid: int
    """Its process."""
    began: float
    """When that process began, by its machine's clock: numbers are used again."""
    token: str
    """Of this driver alone."""


@contextmanager
def driving(run: str) -> Iterator[None]:
    """Drive a run for the length of a `with` block.

    Args:
        run: URI of its folder.

    Raises:
        ConfigError: another driver lives.
    """
    mine = Driver(
        machine=_machine(),
        host=socket.gethostname(),
        pid=os.getpid(),
        began=psutil.Process().create_time(),
        token=uuid.uuid4().hex,
    )
    place, stop = storage.join(run, FILE), threading.Event()
    _claim(place, mine)
    thread = threading.Thread(target=_beat, args=(place, mine, stop), daemon=True, name="driver")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=BEAT_SECONDS)
        with contextlib.suppress(StorageError):  # the next driver will find it silent
            if _read(place) == mine:
                storage.delete(place)


def is_driven(run: str) -> bool:
    """Whether a driver of a run lives."""
    place = storage.join(run, FILE)
    other = _read(place)
    return other is not None and _lives(other, _age(place))


def _claim(place: str, mine: Driver) -> None:
    data = mine.model_dump_json().encode()
    try:
        storage.write_bytes(place, data, if_absent=True)
    except StorageError:
        other = _read(place)
        if other is None:
            raise  # nobody is there: the store itself refuses
        age = _age(place)
        if _lives(other, age):
            raise ConfigError(
                f"{place.rpartition('/')[0]} is driven by process {other.pid} on {other.host}, which gave a sign of "
                f"life {age:.0f} s ago; wait for its end or stop it. One that died silently on another "
                f"machine is forgotten after {SILENT_SECONDS:.0f} s"
            ) from None
        storage.delete(place)
        storage.write_bytes(place, data, if_absent=True)  # of two that find a dead one, one is refused


def _beat(place: str, mine: Driver, stop: threading.Event) -> None:
    while not stop.wait(BEAT_SECONDS):
        with contextlib.suppress(StorageError):  # a store that fails here fails what the run writes, and that tells
            other = _read(place)
            if other is not None and other != mine:
                print(
                    f"process {other.pid} on {other.host} drives {place.rpartition('/')[0]} now: stopping", flush=True
                )
                _thread.interrupt_main(signal.SIGTERM)
                return
            storage.write_bytes(place, mine.model_dump_json().encode())


def _age(place: str) -> float:
    """Seconds since a file was written."""
    written = storage.modified(place)
    return max(0.0, (datetime.now(UTC) - written).total_seconds()) if written else 0.0


def _read(place: str) -> Driver | None:
    if not storage.exists(place):
        return None
    try:
        return Driver.model_validate_json(storage.read_bytes(place))
    except ValueError:
        return None


def _lives(other: Driver, age: float) -> bool:
    """On this machine its process tells; on another one the signs of life that it gave."""
    if other.machine != _machine():
        return age < SILENT_SECONDS
    try:
        process = psutil.Process(other.pid)
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - other.began) < 2.0
    except psutil.NoSuchProcess:
        return False


def _machine() -> str:
    """A process number of this machine means the same process wherever this is equal."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
