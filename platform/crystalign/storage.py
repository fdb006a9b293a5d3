"""Read and write files on disk and in object stores by URI; every write is verified by reading it back.

Paths, `file://`, `s3://` and `gs://` are accessed with `pyarrow.fs`; see `crystalign.storage_uri` for the notation.
Some object stores accept an upload and lose it silently (several do so with trailing checksums). Every write
therefore ends with reading back the size and SHA-256 of the file.

`replace_bytes` writes only if the file has the expected content:

| on       | two writers at the same time                                                                          |
|----------|-------------------------------------------------------------------------------------------------------|
| disk     | one succeeds, by a lock file (`crystalign.storage_local`)                                             |
| `s3://`  | one succeeds, by a conditional write (`crystalign.storage_s3`); servers without these are refused     |
| `gs://`  | compared before the write and read back after it; two writes within milliseconds can both succeed     |
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pyarrow import fs
from pydantic import Field, field_validator

from crystalign.checksums import Fingerprint
from crystalign.config import Config
from crystalign.errors import ConflictError, StorageError, VerificationError
from crystalign.storage_local import changed, create_local, gone, replace_local, replacing
from crystalign.storage_s3 import S3_ENVIRONMENT, environment, put_if, s3_filesystem, unconditional
from crystalign.storage_uri import ANONYMOUS, Uri, absolute, join, name_of, parse

__all__ = [
    "S3_ENVIRONMENT",
    "FileEntry",
    "Uri",
    "absolute",
    "delete",
    "download",
    "entry_of",
    "exists",
    "filesystem",
    "fingerprint",
    "join",
    "list_files",
    "list_folders",
    "list_names",
    "modified",
    "name_of",
    "open_input",
    "read_bytes",
    "read_verified",
    "replace_bytes",
    "sha256_of",
    "upload",
    "upload_directory",
    "verify",
    "write_bytes",
]

CHUNK = 4 * 2**20


class FileEntry(Config):
    """A file as recorded in a manifest."""

    path: str
    """Path relative to the folder of the manifest, and below it."""
    bytes: int = Field(ge=0)
    """Size in bytes."""
    sha256: str
    """SHA-256 of the content."""

    @field_validator("path")
    @classmethod
    def _below(cls, path: str) -> str:
        if not {"", ".", ".."}.isdisjoint(path.split("/")):
            raise ValueError(f"{path!r} is not a path below the manifest's folder")
        return path

    def difference(self, actual: Fingerprint) -> str:
        """How a content differs from this entry, as text for a message; empty if it does not."""
        return actual.difference(self.sha256, self.bytes)


def entry_of(path: str, content: bytes | Fingerprint) -> FileEntry:
    """The entry of a file with this content."""
    content_fingerprint = Fingerprint.of(content) if isinstance(content, bytes) else content
    return FileEntry(path=path, bytes=content_fingerprint.size, sha256=content_fingerprint.sha256)


# --- places -----------------------------------------------------------------------------------------------------------


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a URI, and the path on it.

    Raises:
        StorageError: the scheme is not supported, or a part of the URI would be ignored.
    """
    location = parse(uri)
    if location.scheme == "file":
        return fs.LocalFileSystem(), location.path
    path = "/".join(filter(None, (location.bucket.removeprefix(ANONYMOUS), location.path)))
    if location.scheme == "s3":
        return s3_filesystem(environment()), path
    # the key is not passed to from_uri, which would decode it
    return fs.FileSystem.from_uri(f"gs://{location.bucket}")[0], path


def _is_local(uri: str) -> bool:
    return parse(uri).scheme == "file"


@contextmanager
def _reporting(action: str, uri: str) -> Iterator[None]:
    """Convert any error of a filesystem to a `StorageError` that names the URI."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot {action} {uri}: {str(error)[:300]}") from error


# --- reading ----------------------------------------------------------------------------------------------------------


def open_input(uri: str) -> pa.NativeFile:
    """Open a file for random access.

    Raises:
        StorageError: there is no such file, or the store does not answer.
    """
    system, path = filesystem(uri)
    with _reporting("open", uri):
        return system.open_input_file(path)


def read_bytes(uri: str, *, limit: int | None = None) -> bytes:
    """Read the whole content of a file.

    Args:
        uri: URI of the file.
        limit: largest accepted size in bytes.

    Raises:
        StorageError: there is no such file, the store does not answer, or the file is larger than `limit`.
    """
    with open_input(uri) as source, _reporting("read", uri):
        if limit is not None and source.size() > limit:
            raise StorageError(f"{uri} has {source.size()} bytes; at most {limit} are read")
        return bytes(source.read())


def read_verified(uri: str, entry: FileEntry) -> bytes:
    """Read the whole content of a file and compare it with its manifest entry.

    Args:
        uri: URI of the manifest's folder.
        entry: entry of the file.

    Raises:
        StorageError: the store does not answer.
        VerificationError: the file is missing or differs from the manifest.
    """
    target = join(uri, *entry.path.split("/"))
    try:
        data = read_bytes(target)
    except StorageError as error:
        if exists(target):  # raises if the store does not answer
            raise
        raise VerificationError(f"{entry.path} of {uri} is missing") from error
    if problem := entry.difference(Fingerprint.of(data)):
        raise VerificationError(f"{entry.path} of {uri} is not what its manifest says: it {problem}")
    return data


def exists(uri: str) -> bool:
    """Whether there is a file or a folder at a URI."""
    system, path = filesystem(uri)
    with _reporting("look at", uri):
        return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def list_files(uri: str) -> list[str]:
    """URIs of all files below a folder, sorted; empty if there is no such folder. Each URI opens its file."""
    start = uri if "://" in uri else absolute(uri)
    return sorted(join(start, name) for name in list_names(uri))


def list_names(uri: str) -> list[str]:
    """Paths of all files below a folder, relative to it and not encoded, sorted; empty if there is no such folder.

    Raises:
        StorageError: the store does not answer, or the name of a file is not UTF-8.
    """
    system, path = filesystem(uri)
    start = len(path.rstrip("/")) + 1
    try:
        with _reporting("list", uri):
            entries = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
            return sorted(info.path[start:] for info in entries if info.type == fs.FileType.File)
    except UnicodeDecodeError as error:
        name = bytes(error.object)[start:].decode("utf-8", "backslashreplace")
        raise StorageError(f"{uri} holds a file whose name is not UTF-8, {name!r}: rename it") from error


def list_folders(uri: str) -> list[str]:
    """URIs of the folders directly below a folder, sorted; empty if there are none."""
    system, path = filesystem(uri)
    with _reporting("list", uri):
        entries = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(join(uri, info.base_name) for info in entries if info.type == fs.FileType.Directory)


def modified(uri: str) -> datetime | None:
    """When a file was last written, by the store's clock; None if there is no such file."""
    system, path = filesystem(uri)
    with _reporting("look at", uri):
        time: datetime | None = system.get_file_info(path).mtime
    return time


def download(uri: str, local_path: str | Path, *, expect: FileEntry | None = None) -> None:
    """Copy a file to this machine.

    Raises:
        VerificationError: the content differs from `expect`.
    """
    with open_input(uri) as source, Path(local_path).open("wb") as target, _reporting("download", uri):
        downloaded = Fingerprint.of(_written(source, target))
    if expect is not None and (problem := expect.difference(downloaded)):
        raise VerificationError(f"{uri} is not what its manifest says: it {problem}; it was altered or truncated")


def _chunks(source: pa.NativeFile) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def _written(source: pa.NativeFile, target: BinaryIO) -> Iterator[bytes]:
    """Copy a file in chunks and yield each chunk."""
    for chunk in _chunks(source):
        target.write(chunk)
        yield chunk


def fingerprint(uri: str) -> Fingerprint:
    """Read a file and return its size and SHA-256."""
    with open_input(uri) as source, _reporting("read back", uri):
        return Fingerprint.of(_chunks(source))


def sha256_of(uri: str) -> str | None:
    """SHA-256 of a file, as `replace_bytes` expects it; None if there is no such file.

    Raises:
        StorageError: the store does not answer.
    """
    if not exists(uri):
        return None
    try:
        return fingerprint(uri).sha256
    except StorageError:
        if exists(uri):
            raise
        return None  # it was deleted meanwhile


def verify(uri: str, entry: FileEntry) -> None:
    """Check a file against its manifest entry.

    Raises:
        VerificationError: the file is missing, or its size or checksum differs.
    """
    try:
        stored = fingerprint(uri)
    except StorageError as error:
        raise VerificationError(f"{uri} cannot be read back: {error}") from error
    if problem := entry.difference(stored):
        raise VerificationError(f"{uri} {problem}")


# --- writing ----------------------------------------------------------------------------------------------------------


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False) -> FileEntry:
    """Write a small file atomically and verify it.

    Args:
        uri: URI of the file.
        data: the content.
        if_absent: do not replace an existing file; as safe as `replace_bytes`.

    Returns:
        The entry of the file, with its name as path.

    Raises:
        ConflictError: the file exists and `if_absent` is set.
        StorageError: the store refuses the write or does not answer.
        VerificationError: the data read back differ from `data`.
    """
    if if_absent:
        return replace_bytes(uri, data, expected=None)
    system, path = filesystem(uri)
    with _reporting("write", uri):
        if _is_local(uri):
            with replacing(Path(path)) as temporary:
                temporary.write_bytes(data)
        else:
            with system.open_output_stream(path) as sink:
                sink.write(data)
    entry = entry_of(name_of(uri), data)
    verify(uri, entry)
    return entry


def replace_bytes(uri: str, data: bytes, *, expected: str | None) -> FileEntry:
    """Write a small file if the existing one has the expected content, and verify it.

    If several processes expect the same content, one of them succeeds; see the table at the top of this module.

    Args:
        uri: URI of the file.
        data: the new content.
        expected: SHA-256 of the file to replace, from `sha256_of`; None if there must be no file.

    Returns:
        The entry of the file, with its name as path.

    Raises:
        ConflictError: the file exists, is missing or has other content, contrary to `expected`; it is left unchanged.
        StorageError: the store refuses the write, or does not support conditional writes.
        VerificationError: the data read back differ from `data`.
    """
    location, entry = parse(uri), entry_of(name_of(uri), data)
    with _reporting("write", uri):
        if location.scheme == "file" and expected is None:
            create_local(Path(location.path), data)
        elif location.scheme == "file" and expected is not None:
            replace_local(Path(location.path), data, expected=expected)
        elif location.scheme == "s3" and not unconditional():
            put_if(location.bucket, location.path, data, expected=expected)
        else:
            _compare(uri, expected)
            write_bytes(uri, data)
    return entry


def _compare(uri: str, expected: str | None) -> None:
    """Check that a file has the expected content.

    Raises:
        ConflictError: it does not.
    """
    actual = sha256_of(uri)
    if expected is None and actual is not None:
        raise ConflictError(f"{uri} exists and is not replaced")
    if expected is not None and actual != expected:
        raise gone(uri) if actual is None else changed(uri, actual, expected)


def upload(local_path: str | Path, uri: str) -> FileEntry:
    """Copy a local file to a URI and verify it.

    Returns:
        The entry of the file, with its name as path.

    Raises:
        StorageError: the store refuses the write or does not answer.
        VerificationError: the data read back differ from the local file.
    """
    entry = entry_of(name_of(uri), fingerprint(str(local_path)))
    system, path = filesystem(uri)
    with _reporting("write", uri), Path(local_path).open("rb") as source:
        if _is_local(uri):
            with replacing(Path(path)) as temporary, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK)
        else:
            with system.open_output_stream(path) as sink:
                while chunk := source.read(CHUNK):
                    sink.write(chunk)
    verify(uri, entry)
    return entry


def upload_directory(local_dir: str | Path, uri: str, *, manifest: str) -> list[FileEntry]:
    """Copy a folder and verify every file. The file named `manifest` is copied last and completes the copy.

    Returns:
        The entries of all files, with paths relative to the folder; that of the manifest is the last.

    Raises:
        StorageError: the folder has no such manifest, or the store refuses a write or does not answer.
        VerificationError: the data read back differ from a local file.
    """
    root = Path(local_dir)
    names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    if manifest not in names:
        raise StorageError(f"{local_dir} holds no {manifest}, which must be written last")
    names.sort(key=lambda name: name == manifest)
    return [upload(root / name, join(uri, name)).model_copy(update={"path": name}) for name in names]


def delete(uri: str) -> None:
    """Delete a file or a whole folder; nothing happens if it does not exist."""
    system, path = filesystem(uri)
    with _reporting("delete", uri):
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File:
            system.delete_file(path)
        elif kind == fs.FileType.Directory:
            system.delete_dir(path)
