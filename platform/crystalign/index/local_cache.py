"""A local cache of prepared segments, mapped into memory instead of read into it.

    cache/
    └── <key>/              one for each set of segment files
        ├── vectors.npy     (n, D) half-precision vectors
        ├── table.arrow     the plain columns
        ├── *.arrow, *.npy  the columns prepared for filters
        └── manifest.json   sizes and SHA-256 of all files; written last

An entry is made once from the files of the index, which are checked against its manifest, and every file of the entry
is checked again whenever it is opened. Processes on one machine share its memory. The least recently used entries are
deleted when the cache exceeds its limit; entries that a process has open are kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crystalign.checksums import Fingerprint
from crystalign.errors import StorageError
from crystalign.index.columns import FilterColumns, TextColumn, whole

FOLDER_VARIABLE, LIMIT_VARIABLE = "CRYSTALIGN_INDEX_CACHE", "CRYSTALIGN_INDEX_CACHE_GB"
"""Environment variables: the folder of the cache, without which there is none, and its limit in GB."""
DEFAULT_GB = 64.0
_FORMAT = "1"
_MANIFEST, _LOCK = "manifest.json", "lock"
_CHUNK = 4 * 2**20
_LEFT_SECONDS = 24 * 3600.0


class Prepared(NamedTuple):
    """The content of an entry."""

    table: pa.Table
    """The plain columns."""
    vectors: NDArray[np.float16]
    """(n, D) the vectors."""
    columns: FilterColumns
    """The columns prepared for filters."""
    lock: IO[bytes] | None = None
    """Keeps the entry from being deleted while it is open."""


class LocalCache:
    """The cache in a folder.

    Args:
        folder: where it is; only its owner may read it.
        limit: size in bytes beyond which entries are deleted.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_uid != os.getuid():
            raise StorageError(
                f"the cache {folder} belongs to another user; set {FOLDER_VARIABLE} to a folder of yours"
            )
        self._folder, self._limit = folder, limit

    @classmethod
    def from_environment(cls) -> LocalCache | None:
        """The cache that the environment names; None if it names none."""
        folder = os.environ.get(FOLDER_VARIABLE)
        gigabytes = float(os.environ.get(LIMIT_VARIABLE, DEFAULT_GB))
        return cls(Path(folder), int(gigabytes * 1e9)) if folder else None

    def open(self, parts: Sequence[str], make: Callable[[], Prepared]) -> Prepared:
        """Map the entry of some segment files; make it if there is none, or if a file of it is not what it was.

        Args:
            parts: SHA-256 of each segment file.
            make: reads the segment files.

        Raises:
            StorageError: the disk is full.
        """
        entry = self._folder / hashlib.sha256("\n".join((_FORMAT, *parts)).encode()).hexdigest()[:32]
        for _ in range(2):
            if entry.exists() and (found := _open(entry)) is not None:
                return found
            shutil.rmtree(entry, ignore_errors=True)
            self._write(entry, make())
            self._shrink(entry)
        raise StorageError(f"the cache entry {entry} does not read back as it was written; check the disk")

    def _write(self, entry: Path, prepared: Prepared) -> None:
        """Write an entry beside the others, and then give it its name."""
        with tempfile.TemporaryDirectory(prefix="new-", dir=self._folder) as new:
            folder = Path(new) / "entry"
            folder.mkdir()
            try:
                _write_files(folder, prepared)
            except OSError as error:
                raise StorageError(f"cannot write to the cache {self._folder}: {error}") from error
            (folder / _LOCK).touch()
            files = {path.name: _fingerprint(path) for path in sorted(folder.iterdir()) if path.name != _LOCK}
            (folder / _MANIFEST).write_text(json.dumps(files))
            with contextlib.suppress(OSError):  # another process was faster
                folder.rename(entry)

    def _shrink(self, kept: Path) -> None:
        """Delete the entries that were not used for longest, until the cache is within its limit."""
        for left in self._folder.glob("new-*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        entries = [path for path in self._folder.iterdir() if (path / _MANIFEST).exists()]
        entries.sort(key=lambda path: (path / _MANIFEST).stat().st_mtime)
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for path in entries}
        total = sum(sizes.values())
        for path in entries:
            if total > self._limit and path != kept and _delete_unused(path):
                total -= sizes[path]


def _open(entry: Path) -> Prepared | None:
    """Map an entry; None if a file is missing or altered."""
    try:
        lock = (entry / _LOCK).open("rb")
        fcntl.flock(lock, fcntl.LOCK_SH)
        files: dict[str, Any] = json.loads((entry / _MANIFEST).read_text())
        if any(_fingerprint(entry / name) != stated for name, stated in files.items()):
            return None
        (entry / _MANIFEST).touch()
        return _map_files(entry)._replace(lock=lock)
    except (OSError, ValueError):
        return None


def _delete_unused(entry: Path) -> bool:
    """Delete an entry unless a process has it open."""
    with (entry / _LOCK).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(entry, ignore_errors=True)
        return True


def _write_files(folder: Path, prepared: Prepared) -> None:
    columns = prepared.columns
    np.save(folder / "vectors.npy", prepared.vectors)
    np.save(folder / "elements.npy", columns.elements)
    np.save(folder / "by_id.npy", columns.by_id)
    _write_arrow(folder / "table.arrow", prepared.table)
    for name, text in columns.texts.items():
        np.save(folder / f"codes-{_safe(name)}.npy", text.codes)
        _write_arrow(folder / f"values-{_safe(name)}.arrow", pa.table({name: text.values}))


def _map_files(folder: Path) -> Prepared:
    table = _map_arrow(folder / "table.arrow")
    texts = {}
    for path in folder.glob("values-*.arrow"):
        values = _map_arrow(path)
        codes = _map_array(folder / path.name.replace("values-", "codes-").replace(".arrow", ".npy"))
        texts[values.column_names[0]] = TextColumn(whole(values.column(0)), codes)
    columns = FilterColumns(table, texts, _map_array(folder / "elements.npy"), _map_array(folder / "by_id.npy"))
    return Prepared(table, _map_array(folder / "vectors.npy"), columns)


def _map_array(path: Path) -> NDArray[Any]:
    """Mode `c`: the array counts as writable, which PyTorch asks for, but nothing is ever written to the file."""
    mapped: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    return mapped.view(np.ndarray)


def _write_arrow(path: Path, table: pa.Table) -> None:
    one = table.combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, one.schema) as writer:
        writer.write_table(one)


def _map_arrow(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _safe(name: str) -> str:
    """A file name for a column name."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _fingerprint(path: Path) -> list[Any]:
    fingerprint = Fingerprint.of(_chunks(path))
    return [fingerprint.size, fingerprint.sha256]


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
