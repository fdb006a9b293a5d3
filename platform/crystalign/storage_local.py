"""Files on disk: replaced atomically, and under a lock if the old content must be a certain one.

The lock is `flock` on `.<name>.lock` beside the file. The kernel releases it when the process that holds it ends, even
if it is killed. The holder deletes the lock file; one that a killed process left behind is reused. The lock works
between processes of one machine, and between machines on file systems that support it (NFS, GPFS, Lustre mounted with
`flock`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crystalign.checksums import Fingerprint
from crystalign.errors import ConflictError, StorageError, VerificationError

LOCK_SECONDS = 60.0
"""Longest time to wait for the lock, which is held only while a file is written."""
LOCK_POLL = 0.005
"""Seconds between two attempts to get the lock."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def replacing(path: Path, *, if_absent: bool = False) -> Iterator[Path]:
    """Provide a temporary file beside `path`, which is flushed to disk and renamed to `path` when the block succeeds.

    Args:
        path: the file to write; its folder is made if it is missing.
        if_absent: do not replace an existing file; atomic.

    Raises:
        ConflictError: the file exists and `if_absent` is set.
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
        folder = os.open(path.parent, os.O_RDONLY)  # flush the folder, too: the new name must survive a power cut
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        Path(name).unlink(missing_ok=True)


def create_local(path: Path, data: bytes) -> None:
    """Write a new file atomically.

    Raises:
        ConflictError: the file exists.
    """
    with replacing(path, if_absent=True) as temporary:
        _write(temporary, data)


def replace_local(path: Path, data: bytes, *, expected: str) -> None:
    """Replace a file whose content has the SHA-256 `expected`, atomically.

    Raises:
        ConflictError: the file has other content, or does not exist.
        StorageError: the file system has no locks, or another process does not release its lock.
    """
    if not path.parent.is_dir():
        raise gone(str(path))
    with _locked(path):
        try:
            actual = Fingerprint.of(path.read_bytes()).sha256
        except FileNotFoundError:
            raise gone(str(path)) from None
        if actual != expected:
            raise changed(str(path), actual, expected)
        with replacing(path) as temporary:
            _write(temporary, data)


def gone(uri: str) -> ConflictError:
    """The error if a file to replace does not exist."""
    return ConflictError(f"{uri} is not replaced: it is gone, another process deleted it")


def changed(uri: str, actual: str, expected: str) -> ConflictError:
    """The error if a file to replace has other content than expected."""
    return ConflictError(
        f"{uri} is not replaced: another process changed it meanwhile (its sha256 was {expected[:12]}…, now it is "
        f"{actual[:12]}…); read it again and repeat"
    )


def _write(temporary: Path, data: bytes) -> None:
    """Write and verify the temporary file; after it is renamed, another process may replace it."""
    temporary.write_bytes(data)
    if temporary.read_bytes() != data:
        raise VerificationError(f"{temporary} does not hold the {len(data)} bytes that were written")


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name if there is no other file of that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if temporary.stat().st_nlink == 2:  # NFS: the link was made, but the reply was lost and the retry failed
            return
        raise ConflictError(f"{path} exists and is not replaced") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock, deadline = path.with_name(f".{path.name}.lock"), time.monotonic() + LOCK_SECONDS
    while (handle := _try_lock(lock)) is None:
        if time.monotonic() > deadline:
            raise StorageError(
                f"{path} is not written: another process has held {lock} for {LOCK_SECONDS:.0f} s; check whether "
                "it hangs"
            )
        time.sleep(LOCK_POLL)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _try_lock(lock: Path) -> int | None:
    """The descriptor of the locked lock file; None if another process holds the lock."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), lock.stat()):
            return handle  # otherwise the last holder deleted the file after it was opened here
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError as error:
        os.close(handle)
        if error.errno in _NO_LOCKS:
            raise StorageError(
                f"{lock.parent} is on a file system without locks, where a change by another job would go unnoticed; "
                "write to another file system, or mount this one with locks (Lustre: -o flock)"
            ) from error
        raise
    os.close(handle)
    return None
