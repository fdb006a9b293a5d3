"""One driver per folder: a job that writes to a run, a dataset or an index says so in a file of that folder.

Another job is refused while the first one lives. The file changes hands by conditional writes alone, so of two that
find the driver dead one takes its place. A driver that was taken for dead and lives is stopped at its next sign of
life; until then manifests, which are swapped by conditional writes too, keep it from undoing what its successor did.
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
"""Between two signs of life."""
_TRIES = 5
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
def driving(run: str) -> Iterator[Callable[[], bool]]:
    """Drive a run, or write to another folder, for the length of a `with` block.

    Args:
        run: URI of its folder.

    Yields:
        A function that says whether it is still driven from here.

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
        yield lambda: _read(place) == mine
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
    for _ in range(_TRIES):
        found = _stored(place)
        if found is not None:
            _refuse_living(place, found)
        try:
            storage.replace_bytes(place, _bytes(mine), expected=None if found is None else _sha256(found))
        except ConflictError:
            continue  # another one was quicker, or has just ended
        return
    raise ConfigError(f"the driver of {place.rpartition('/')[0]} changes all the time; see what else is started there")


def _refuse_living(place: str, found: bytes) -> None:
    """Raise where the driver that left a file lives."""
    folder, other, age = place.rpartition("/")[0], _parsed(found), _age(place)
    if other is None:
        raise ConfigError(f"{place} does not say who drives {folder}; delete it if nothing does")
    if _lives(other, age):
        raise ConfigError(
            f"{folder} is driven by process {other.pid} on {other.host}, which gave a sign of life {age:.0f} s ago; "
            "wait for its end or stop it. One that died silently on another machine is forgotten after "
            f"{SILENT_SECONDS:.0f} s"
        )


def _beat(place: str, mine: Driver, stop: threading.Event) -> None:
    data = _bytes(mine)
    while not stop.wait(BEAT_SECONDS):
        with contextlib.suppress(StorageError):  # a store that fails here fails what the run writes, and that tells
            try:
                storage.replace_bytes(place, data, expected=_sha256(data))
            except ConflictError:
                other = _read(place)
                if other is None:
                    storage.write_bytes(place, data, if_absent=True)
                elif other != mine:
                    _give_way(place, other)
                    return


def _give_way(place: str, other: Driver) -> None:
    print(f"process {other.pid} on {other.host} drives {place.rpartition('/')[0]} now: stopping", flush=True)
    _thread.interrupt_main(signal.SIGTERM)


def _age(place: str) -> float:
    """Seconds since a file was written."""
    written = storage.modified(place)
    return max(0.0, (datetime.now(UTC) - written).total_seconds()) if written else 0.0


def _read(place: str) -> Driver | None:
    found = _stored(place)
    return None if found is None else _parsed(found)


def _stored(place: str) -> bytes | None:
    try:
        return storage.read_bytes(place) if storage.exists(place) else None
    except StorageError:
        if storage.exists(place):
            raise
        return None  # its driver has just ended


def _parsed(data: bytes) -> Driver | None:
    try:
        return Driver.model_validate_json(data)
    except ValueError:
        return None


def _bytes(driver: Driver) -> bytes:
    return driver.model_dump_json().encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
