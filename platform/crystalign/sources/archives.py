"""Read files inside a folder, a zip or a tar one by one, without unpacking to disk.

Archives are untrusted. Names outside the archive, members that are not plain files, nested archives, implausible
compression and declared sizes above the limits are refused before reading. No read returns more bytes than its limit,
whatever a header declares.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pyarrow.fs import FileType

from crystalign import storage
from crystalign.errors import FileFormatError, StorageError
from crystalign.limits import MIB, Limits

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar")
Rejection = tuple[str, str]
_OF_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}


class Entry(NamedTuple):
    """One file of a tree."""

    name: str
    rejected: Rejection | None = None


class Tree(ABC):
    """Files by name. The open file handle is not pickled."""

    def __init__(self, location: str, limits: Limits) -> None:
        self.location = location
        self.limits = limits
        self._handle: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    @abstractmethod
    def entries(self) -> list[Entry]:
        """List every file in a fixed order, with a reason for those that will not be read."""

    @abstractmethod
    def read(self, name: str, limit: int) -> bytes:
        """The bytes of one file.

        Raises:
            FileFormatError: damaged, or longer than `limit`.
        """


def open_tree(location: str, limits: Limits) -> Tree:
    """Open the tree at a path or URI: an archive by its ending, otherwise a folder or a single file."""
    lower = location.lower()
    if lower.endswith(".zip"):
        return ZipTree(location, limits)
    if lower.endswith(ARCHIVES[1:-2]):
        return TarTree(location, limits)
    return FolderTree(location, limits)


class FolderTree(Tree):
    """A folder, with its sub-folders, on any storage; or one file of it."""

    def entries(self) -> list[Entry]:
        """Every file below the folder.

        Raises:
            StorageError: nothing there.
        """
        system, path = storage.filesystem(self.location)
        kind = system.get_file_info(path).type
        if kind == FileType.NotFound:
            raise StorageError(f"nothing at {self.location}; give a folder, an archive or a file")
        if kind == FileType.File:
            leaf, self.location = storage.name_of(self.location), self.location.rpartition("/")[0]
            return [Entry(leaf, refuse_name(leaf))]
        names = storage.list_names(self.location)
        if len(names) > self.limits.max_members:
            message = f"{self.location} holds {len(names)} files; the limit is {self.limits.max_members}"
            raise FileFormatError(message, reason="too-many-files")
        return [Entry(name, refuse_name(name)) for name in names]

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of one file."""
        uri = storage.join(self.location, name) if self.location else name
        with storage.open_input(uri) as stream:
            if stream.size() > limit:
                raise _too_large(name, stream.size(), limit)
            data: bytes = stream.read()
        return data


class ZipTree(Tree):
    """A zip archive."""

    def __init__(self, location: str, limits: Limits) -> None:
        super().__init__(location, limits)
        self._members: dict[str, zipfile.ZipInfo] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_members": None}

    def entries(self) -> list[Entry]:
        """Every member.

        Raises:
            FileFormatError: not a zip, or truncated.
        """
        result: list[Entry] = []
        total = 0
        for info in self._open().infolist():
            if info.is_dir():
                continue
            total += info.file_size
            result.append(Entry(info.filename, self._refuse(info) or self._refuse_total(len(result), total)))
        return result

    def _refuse_total(self, count: int, total: int) -> Rejection | None:
        if total > self.limits.max_total_bytes or count >= self.limits.max_members:
            return "archive-too-large", f"with this member {self.location} holds {count + 1} files of {total} bytes"
        return None

    def _refuse(self, info: zipfile.ZipInfo) -> Rejection | None:
        if info.flag_bits & 1:
            return "encrypted", "the member is encrypted; unpack it first"
        ratio = info.file_size / max(info.compress_size, 1)
        if info.file_size > MIB and ratio > self.limits.max_compression_ratio:
            said = f"{info.compress_size} bytes claim to hold {info.file_size}, {ratio:.0f} times as many"
            return "compression-bomb", f"{said}; the limit is {self.limits.max_compression_ratio:g}"
        return refuse_name(info.filename)

    def _open(self) -> zipfile.ZipFile:
        if self._handle is None:
            stream = storage.open_input(self.location)
            if stream.size() <= MIB:
                stream = io.BytesIO(stream.read())  # zipfile seeks before the start of short files
            try:
                self._handle = zipfile.ZipFile(stream)
            except (zipfile.BadZipFile, OSError, ValueError) as error:
                message = f"{self.location} is not a complete zip archive{_instead(stream)}: {error}"
                raise FileFormatError(message, reason="unreadable-archive") from error
        handle: zipfile.ZipFile = self._handle
        return handle

    def _member(self, name: str) -> zipfile.ZipInfo:
        """Return the first member of a name; `zipfile` would open the last."""
        if self._members is None:
            self._members = {}
            for info in self._open().infolist():
                self._members.setdefault(info.filename, info)
        return self._members[name]

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of one member."""
        try:
            with self._open().open(self._member(name)) as stream:
                data = stream.read(limit + 1)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, KeyError, RuntimeError) as error:
            message = f"member {name} is damaged: {type(error).__name__}: {error}"
            raise FileFormatError(message, reason="damaged-member") from error
        if len(data) > limit:
            raise _too_large(name, len(data), limit)
        return data


class TarTree(Tree):
    """A tar archive, plain or compressed; members are read forward, so a compressed one is unpacked once per task."""

    def __init__(self, location: str, limits: Limits) -> None:
        super().__init__(location, limits)
        self._passed: dict[str, tarfile.TarInfo] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_passed": {}}

    def entries(self) -> list[Entry]:
        """List every member up to the first damage, and an entry for what follows it.

        Raises:
            FileFormatError: not a tar at all.
        """
        with storage.open_input(self.location) as stream:
            allowed = max(stream.size() * self.limits.max_compression_ratio, float(MIB))
        allowed = min(allowed, float(self.limits.max_total_bytes))
        result: list[Entry] = []
        total = 0
        members = self._members()
        while True:
            try:
                member = next(members, None)
            except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                self._close()
                damage = f"the archive ends or breaks here, what follows is lost: {type(error).__name__}: {error}"
                return [*result, Entry(f"(after member {len(result)})", ("truncated", damage))]
            if member is None:
                return result
            total += member.size
            if total > allowed or len(result) >= self.limits.max_members:
                self._close()
                said = f"{total} bytes in {len(result) + 1} members are implausible or too many; reading stops here"
                return [*result, Entry(member.name, ("compression-bomb", said))]
            if not member.isdir():
                plain = None if member.isreg() else ("not-a-file", "links and devices are not followed")
                result.append(Entry(member.name, plain or refuse_name(member.name)))

    def _members(self) -> Iterator[tarfile.TarInfo]:
        handle = self._open()
        while (member := handle.next()) is not None:
            yield member
        self._close()

    def _find(self, name: str) -> tarfile.TarInfo:
        """Find the first member of a name by scanning forward, so that later damage does not matter."""
        handle = self._open()
        while name not in self._passed:
            member = handle.next()
            if member is None:
                raise KeyError(name)
            self._passed.setdefault(member.name, member)
        return self._passed[name]

    def _close(self) -> None:
        if self._handle is not None:
            with suppress(OSError):
                self._handle.close()
        self._handle = None
        self._passed = {}

    def _open(self) -> tarfile.TarFile:
        if self._handle is None:
            try:
                self._handle = tarfile.open(fileobj=storage.open_input(self.location), mode="r:*")  # noqa: SIM115
            except (tarfile.TarError, OSError, EOFError, lzma.LZMAError) as error:
                message = f"{self.location} is not a tar archive: {error}"
                raise FileFormatError(message, reason="unreadable-archive") from error
        handle: tarfile.TarFile = self._handle
        return handle

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of one member."""
        try:
            stream = self._open().extractfile(self._find(name))
            data = stream.read(limit + 1) if stream else b""
        except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, KeyError) as error:
            self._close()
            message = f"member {name} is damaged: {type(error).__name__}: {error}"
            raise FileFormatError(message, reason="damaged-member") from error
        if len(data) > limit:
            raise _too_large(name, len(data), limit)
        return data


def refuse_name(name: str) -> Rejection | None:
    """Return the reason why a file of this name is not read, or None."""
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0].endswith(":")):
        return "unsafe-path", f"the name {name[:120]!r} leads out of the archive"
    if parts[0] == "__MACOSX" or parts[-1].startswith("._") or parts[-1] in _OF_SYSTEMS:
        return "not-data", "written by an operating system beside the data"
    if name.lower().endswith(ARCHIVES):
        return "nested-archive", "an archive within; ingest it on its own"
    return None


def _instead(stream: Any) -> str:
    """Describe what a file that is not a zip seems to be."""
    try:
        stream.seek(0)
        start = bytes(stream.read(6))
    except OSError:
        return ""
    kinds = {b"\x1f\x8b": "gzip, as of a .tar.gz", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"Rar!": "rar", b"7z": "7z"}
    format_name = next((kind for magic, kind in kinds.items() if start.startswith(magic)), None)
    if format_name is None:
        return " (it begins like one and is cut short)" if start.startswith(b"PK") else f" (it begins with {start!r})"
    return f" (it begins like {format_name}: give it the ending of what it is)"


def _too_large(name: str, size: int, limit: int) -> FileFormatError:
    message = f"{name} has {size} bytes or more; the limit for its kind is {limit}"
    return FileFormatError(message, reason="too-large")
