"""Any URI in, one filesystem out; every write is read back before it counts.

A path, `file://`, `s3://` and `gs://` go through `pyarrow.fs`; `crystalign.storage_uri` says what each spelling names.
An object store may accept an upload and lose it (some servers do so with trailing checksums, silently), so a write ends
with reading size and SHA-256 back.

`replace_bytes` writes only if the file is what the caller knows of it:

| on       | two writers at once                                                                                      |
|----------|----------------------------------------------------------------------------------------------------------|
| disk     | one wins: a lock beside the file (`crystalign.storage_local`)                                            |
| `s3://`  | one wins: the server decides (`crystalign.storage_s3`); a server that does not is refused                |
| `gs://`  | compared before the write and read back after it; two writes within those milliseconds are not told apart |
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from pyarrow import fs
from pydantic import Field, field_validator

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
    "replace_bytes",
    "sha256_of",
    "upload",
    "upload_directory",
    "verify",
    "write_bytes",
]

CHUNK = 4 * 2**20


class FileEntry(Config):
    """One file, as its manifest knows it."""

    path: str
    """Relative to the manifest, and below it."""
    bytes: int = Field(ge=0)
    """Size."""
    sha256: str
    """Of the content."""

    @field_validator("path")
    @classmethod
    def _below(cls, path: str) -> str:
        if not path or path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path!r} is no file below the manifest's folder")
        return path


# --- places -----------------------------------------------------------------------------------------------------------


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a URI, and the path on it.

    Raises:
        StorageError: a scheme that is not spoken, or a URI of which a part would be dropped.
    """
    place = parse(uri)
    if place.scheme == "file":
        return fs.LocalFileSystem(), place.path
    path = "/".join(filter(None, (place.bucket.removeprefix(ANONYMOUS), place.path)))
    if place.scheme == "s3":
        return s3_filesystem(environment()), path
    return fs.FileSystem.from_uri(f"gs://{place.bucket}")[0], path  # the key apart: from_uri would decode it


def _is_local(uri: str) -> bool:
    return parse(uri).scheme == "file"


@contextmanager
def _reporting(action: str, uri: str) -> Iterator[None]:
    """Whatever a filesystem raises, as one error that names the URI."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"cannot {action} {uri}: {str(error)[:300]}") from error


# --- reading ----------------------------------------------------------------------------------------------------------


def open_input(uri: str) -> pa.NativeFile:
    """A file open for random access.

    Raises:
        StorageError: there is none, or the store does not answer.
    """
    system, path = filesystem(uri)
    with _reporting("open", uri):
        return system.open_input_file(path)


def read_bytes(uri: str, *, limit: int | None = None) -> bytes:
    """The whole content of a file.

    Args:
        uri: the file.
        limit: more bytes than this are refused.

    Raises:
        StorageError: there is none, the store does not answer, or it is larger than `limit`.
    """
    with open_input(uri) as source, _reporting("read", uri):
        if limit is not None and source.size() > limit:
            raise StorageError(f"{uri} has {source.size()} bytes; at most {limit} are read")
        return bytes(source.read())


def exists(uri: str) -> bool:
    """Whether there is a file or a folder."""
    system, path = filesystem(uri)
    with _reporting("look at", uri):
        return bool(system.get_file_info(path).type != fs.FileType.NotFound)


def list_files(uri: str) -> list[str]:
    """URIs of every file below a folder, sorted, each of which opens that file; empty where there is none."""
    start = uri if "://" in uri else absolute(uri)
    return sorted(join(start, name) for name in list_names(uri))


def list_names(uri: str) -> list[str]:
    """Names of every file below a folder, relative to it and as they are, sorted; empty where there is none."""
    system, path = filesystem(uri)
    with _reporting("list", uri):
        found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    start = len(path.rstrip("/")) + 1
    return sorted(info.path[start:] for info in found if info.type == fs.FileType.File)


def list_folders(uri: str) -> list[str]:
    """URIs of the folders directly below a folder, sorted; empty where there is none."""
    system, path = filesystem(uri)
    with _reporting("list", uri):
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(join(uri, info.base_name) for info in found if info.type == fs.FileType.Directory)


def modified(uri: str) -> datetime | None:
    """When a file was last written, by the store's clock; None where there is none."""
    system, path = filesystem(uri)
    with _reporting("look at", uri):
        found: datetime | None = system.get_file_info(path).mtime
    return found


def download(uri: str, local_path: str | Path, *, expect: FileEntry | None = None) -> None:
    """Copy a file to this machine.

    Raises:
        VerificationError: the content is not what `expect` says.
    """
    digest, size = hashlib.sha256(), 0
    with open_input(uri) as source, Path(local_path).open("wb") as target, _reporting("download", uri):
        while chunk := source.read(CHUNK):
            target.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    if expect is not None and (size, digest.hexdigest()) != (expect.bytes, expect.sha256):
        raise VerificationError(
            f"{uri} has {size} bytes with sha256 {digest.hexdigest()[:16]}…, its manifest says {expect.bytes} bytes "
            f"with {expect.sha256[:16]}…; the file was altered or truncated"
        )


def fingerprint(uri: str) -> tuple[int, str]:
    """Size and SHA-256 of what the store returns."""
    digest, size = hashlib.sha256(), 0
    with open_input(uri) as source, _reporting("read back", uri):
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def sha256_of(uri: str) -> str | None:
    """SHA-256 of a file, which `replace_bytes` takes; None where there is none.

    Raises:
        StorageError: the store does not answer.
    """
    if not exists(uri):
        return None
    try:
        return fingerprint(uri)[1]
    except StorageError:
        if exists(uri):
            raise
        return None  # it was deleted in between


def verify(uri: str, entry: FileEntry) -> None:
    """Check a file against its manifest entry.

    Raises:
        VerificationError: it is missing, or its size or checksum differ.
    """
    try:
        size, digest = fingerprint(uri)
    except StorageError as error:
        raise VerificationError(f"{uri} cannot be read back: {error}") from error
    if (size, digest) != (entry.bytes, entry.sha256):
        raise VerificationError(
            f"{uri} holds {size} bytes with sha256 {digest[:16]}…, expected {entry.bytes} with {entry.sha256[:16]}…"
        )


# --- writing ----------------------------------------------------------------------------------------------------------


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False) -> FileEntry:
    """Write a small file, atomically, and read it back.

    Args:
        uri: where to.
        data: the content.
        if_absent: do not replace a file that is there; as safe as `replace_bytes`.

    Raises:
        ConflictError: the file exists and `if_absent` is set.
        StorageError: the store refuses.
        VerificationError: what is read back is not `data`.
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
    entry = _entry(uri, data)
    verify(uri, entry)
    return entry


def replace_bytes(uri: str, data: bytes, *, expected: str | None) -> FileEntry:
    """Write a small file if what is there is what the caller knows of it, and read it back.

    Of several who know the same, one writes; see the table at the top of this module.

    Args:
        uri: where to.
        data: the content.
        expected: SHA-256 of the file that is replaced, as `sha256_of` gives it; None where there must be none.

    Raises:
        ConflictError: there is a file, another one, or none; it is left as it is.
        StorageError: the store refuses, or cannot promise this.
        VerificationError: what is read back is not `data`.
    """
    place, entry = parse(uri), _entry(uri, data)
    with _reporting("write", uri):
        if place.scheme == "file" and expected is None:
            create_local(Path(place.path), data)
        elif place.scheme == "file" and expected is not None:
            replace_local(Path(place.path), data, expected=expected)
        elif place.scheme == "s3" and not unconditional():
            put_if(place.bucket, place.path, data, expected=expected)
        else:
            _compare(uri, expected)
            write_bytes(uri, data)
    return entry


def _compare(uri: str, expected: str | None) -> None:
    """Raise where a file is not what the caller knows of it."""
    found = sha256_of(uri)
    if expected is None and found is not None:
        raise ConflictError(f"{uri} exists and is not replaced")
    if expected is not None and found != expected:
        raise gone(uri) if found is None else changed(uri, found, expected)


def _entry(uri: str, data: bytes) -> FileEntry:
    return FileEntry(path=name_of(uri), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def upload(local_path: str | Path, uri: str) -> FileEntry:
    """Copy a file of this machine, and read it back.

    Raises:
        StorageError: the store refuses.
        VerificationError: what is read back is not what was sent.
    """
    size, digest = fingerprint(str(local_path))
    entry = FileEntry(path=name_of(uri), bytes=size, sha256=digest)
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
    """Copy a folder, every file verified, the one named `manifest` last: without it the rest does not exist.

    Returns:
        The entries with paths relative to the folder, the manifest's last.
    """
    root = Path(local_dir)
    names = sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    if manifest not in names:
        raise StorageError(f"{local_dir} holds no {manifest}, which must be written last")
    names.sort(key=lambda name: name == manifest)
    return [upload(root / name, join(uri, name)).model_copy(update={"path": name}) for name in names]


def delete(uri: str) -> None:
    """Remove a file or a whole folder; nothing happens where there is none."""
    system, path = filesystem(uri)
    with _reporting("delete", uri):
        kind = system.get_file_info(path).type
        if kind == fs.FileType.File:
            system.delete_file(path)
        elif kind == fs.FileType.Directory:
            system.delete_dir(path)
