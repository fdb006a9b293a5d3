"""Files on disk: replaced whole or not at all, and under a lock where the old content must be a certain one.

The lock is `flock` on `.<name>.lock` beside the file. The kernel releases it when its holder ends, killed or not; the
holder removes it, and one that a killed holder left behind is taken over. It holds between processes of one machine,
and between machines on file systems that pass it on (NFS, GPFS, Lustre mounted with `flock`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crystalign.errors import ConflictError, StorageError, VerificationError

LOCK_SECONDS = 60.0
"""Within these a holder has written its file; the lock is held for nothing else."""
LOCK_POLL = 0.005
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def replacing(path: Path, *, if_absent: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place, flushed to disk, when the block succeeds.

    Args:
        path: its folder is made where it is missing.
        if_absent: do not replace a file that is there; atomic.

    Raises:
        ConflictError: there is one, and `if_absent` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        with Path(name).open("rb+") as written:
            os.fsync(written.fileno())
        Path(name).chmod(0o644)
        if if_absent:
            _link(Path(name), path)
        else:
            os.replace(name, path)
        folder = os.open(path.parent, os.O_RDONLY)  # the name itself must survive a power cut
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        Path(name).unlink(missing_ok=True)


def create_local(path: Path, data: bytes) -> None:
    """Write a file where there is none, atomically.

    Raises:
        ConflictError: there is one.
    """
    with replacing(path, if_absent=True) as temporary:
        _write(temporary, data)


def replace_local(path: Path, data: bytes, *, expected: str) -> None:
    """Replace a file whose content has the SHA-256 `expected`, atomically.

    Raises:
        ConflictError: it has another one, or there is no file.
        StorageError: the file system has no locks, or another process keeps its lock.
    """
    if not path.parent.is_dir():
        raise gone(str(path))
    with _locked(path):
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            raise gone(str(path)) from None
        if found != expected:
            raise changed(str(path), found, expected)
        with replacing(path) as temporary:
            _write(temporary, data)


def gone(uri: str) -> ConflictError:
    """The error of a file that was to be replaced and is not there."""
    return ConflictError(f"{uri} is not replaced: it is gone, another process deleted it")


def changed(uri: str, found: str, expected: str) -> ConflictError:
    """The error of a file that is not the one that was read."""
    return ConflictError(
        f"{uri} is not replaced: another process changed it meanwhile (its sha256 was {expected[:12]}…, now it is "
        f"{found[:12]}…); read it again and repeat"
    )


def _write(temporary: Path, data: bytes) -> None:
    """Write and read back before the file takes its name: from then on another process may replace it."""
    temporary.write_bytes(data)
    if temporary.read_bytes() != data:
        raise VerificationError(f"{temporary} does not hold the {len(data)} bytes that were written")


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name where that is free."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if temporary.stat().st_nlink == 2:  # NFS: the link was made, its answer was lost, and the repetition failed
            return
        raise ConflictError(f"{path} exists and is not replaced") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    place, deadline = path.with_name(f".{path.name}.lock"), time.monotonic() + LOCK_SECONDS
    while (handle := _try_lock(place)) is None:
        if time.monotonic() > deadline:
            raise StorageError(
                f"{path} is not written: another process has held {place} for {LOCK_SECONDS:.0f} s; is one stopped?"
            )
        time.sleep(LOCK_POLL)
    try:
        yield
    finally:
        place.unlink(missing_ok=True)
        os.close(handle)


def _try_lock(place: Path) -> int | None:
    """The descriptor of the locked file; None where another process holds it."""
    handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), place.stat()):
            return handle  # else its last holder removed it between our opening and locking it
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(handle)
        if error.errno in _NO_LOCKS:
            raise StorageError(
                f"{place.parent} is on a file system without locks, where a change by another job would go unnoticed; "
                "write to another file system, or mount this one with locks (Lustre: -o flock)"
            ) from error
        raise
    os.close(handle)
    return None
