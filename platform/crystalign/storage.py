"""Any URI in, one filesystem out; every write is read back before it counts.

`file://`, a plain path, `s3://` and `gs://` go through `pyarrow.fs`; a conditional write on S3 goes
through boto3, which pyarrow cannot do. An object store may accept an upload and lose it (some
servers do so with trailing checksums, silently), so a write ends with reading size and SHA-256 back.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs
from pydantic import AfterValidator

from crystalign.config import Config
from crystalign.errors import StorageError, VerificationError

S3_ENVIRONMENT = {
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
"""Without these, several S3 servers drop an upload while the client reports success."""

CHUNK = 4 * 2**20
CONNECT_TIMEOUT, REQUEST_TIMEOUT, ATTEMPTS = 10.0, 60.0, 4
REMOTE = ("s3", "gs")


class FileEntry(Config):
    """One file, as its manifest knows it."""

    path: str
    """Relative to the manifest."""
    bytes: int
    """Size."""
    sha256: str
    """Of the content."""


# --- names ------------------------------------------------------------------------------------------------------------


def join(uri: str, *parts: str) -> str:
    """`join("s3://bucket/a", "b", "c")` → `s3://bucket/a/b/c`."""
    return "/".join([uri.rstrip("/") or "/", *(part.strip("/") for part in parts)])


def absolute(uri: str) -> str:
    """A plain path as an absolute one; a URI as it is. Workers have a working directory of their own."""
    return uri if "://" in uri else os.path.abspath(uri)


Uri = Annotated[str, AfterValidator(absolute)]
"""A field of a configuration that names a place: a path, `file://`, `s3://` or `gs://`."""


def filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of a URI, and the path on it.

    Raises:
        StorageError: a scheme that is not spoken, or an S3 URI without a bucket.
    """
    scheme, _, rest = uri.partition("://")
    if not rest:
        return fs.LocalFileSystem(), os.path.abspath(uri)
    if scheme == "file":
        return fs.LocalFileSystem(), os.path.abspath(unquote(urlsplit(uri).path))
    if scheme == "s3":
        if not rest.strip("/"):
            raise StorageError(f"{uri!r} names no bucket; write s3://bucket/folder")
        names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        return _s3(tuple(os.environ.get(name, "") for name in (*names, *keys))), rest.strip("/")
    if scheme == "gs":
        found, path = fs.FileSystem.from_uri(uri)
        return found, path
    raise StorageError(f"{uri!r}: no storage speaks {scheme!r}; use a path, file://, s3:// or gs://")


@functools.lru_cache(maxsize=8)
def _s3(environment: tuple[str, ...]) -> fs.S3FileSystem:
    for name, value in S3_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    endpoint = environment[0] or environment[1]
    options: dict[str, Any] = {
        "region": environment[2] or environment[3] or "us-east-1",
        "connect_timeout": CONNECT_TIMEOUT,
        "request_timeout": REQUEST_TIMEOUT,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        "allow_delayed_open": True,  # a small file is one request, not a multipart upload
    }
    if endpoint:
        parts = urlsplit(endpoint)
        options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme, "force_virtual_addressing": False}
    return fs.S3FileSystem(**options)


def _is_local(uri: str) -> bool:
    return uri.partition("://")[0] not in REMOTE


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
    """URIs of every file below a folder, sorted; empty where there is none."""
    system, path = filesystem(uri)
    with _reporting("list", uri):
        found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    prefix = f"{uri.partition('://')[0]}://" if "://" in uri else ""
    return sorted(prefix + info.path for info in found if info.type == fs.FileType.File)


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
        if_absent: refuse to replace a file that is there; atomic on disk and on s3://, not on gs://.

    Raises:
        StorageError: the store refuses, or the file exists and `if_absent` is set.
        VerificationError: what is read back is not `data`.
    """
    entry = FileEntry(path=uri.rpartition("/")[2], bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    if _is_local(uri):
        _write_local(uri, data, if_absent=if_absent)
    elif if_absent and uri.startswith("s3://"):
        _put_if_absent(uri, data)
    else:
        if if_absent and exists(uri):
            raise StorageError(f"{uri} exists and is not replaced")
        system, path = filesystem(uri)
        with _reporting("write", uri), system.open_output_stream(path) as sink:
            sink.write(data)
    verify(uri, entry)
    return entry


def upload(local_path: str | Path, uri: str) -> FileEntry:
    """Copy a file of this machine, and read it back.

    Raises:
        StorageError: the store refuses.
        VerificationError: what is read back is not what was sent.
    """
    size, digest = fingerprint(str(local_path))
    entry = FileEntry(path=uri.rpartition("/")[2], bytes=size, sha256=digest)
    system, path = filesystem(uri)
    with _reporting("write", uri), Path(local_path).open("rb") as source:
        if _is_local(uri):
            with _replacing(Path(path)) as temporary, temporary.open("wb") as target:
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


def _write_local(uri: str, data: bytes, *, if_absent: bool) -> None:
    path = Path(filesystem(uri)[1])
    with _reporting("write", uri), _replacing(path, if_absent=if_absent) as temporary:
        temporary.write_bytes(data)


@contextmanager
def _replacing(path: Path, *, if_absent: bool = False) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place, flushed to disk, when the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        with Path(name).open("rb+") as written:
            os.fsync(written.fileno())
        Path(name).chmod(0o644)
        if if_absent:
            os.link(name, path)  # fails where there is a file, atomically
        else:
            os.replace(name, path)
        folder = os.open(path.parent, os.O_RDONLY)  # the name itself must survive a power cut
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise StorageError(f"{path} exists and is not replaced") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _put_if_absent(uri: str, data: bytes) -> None:
    import boto3
    from botocore.config import Config as BotoConfig
    from botocore.exceptions import BotoCoreError, ClientError

    for name, value in S3_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    settings = BotoConfig(
        connect_timeout=CONNECT_TIMEOUT, read_timeout=REQUEST_TIMEOUT, retries={"max_attempts": ATTEMPTS}
    )
    try:
        boto3.client("s3", config=settings).put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
            raise StorageError(f"{uri} exists and is not replaced") from error
        raise StorageError(f"cannot write {uri}: {error}") from error
    except BotoCoreError as error:
        raise StorageError(f"cannot write {uri}: {error}") from error
