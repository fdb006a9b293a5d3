"""Notation of locations: a path, `file://`, `s3://` or `gs://`; ambiguous notation is refused.

| written as                   | means                                                                              |
|------------------------------|------------------------------------------------------------------------------------|
| a path                       | that file, character by character; `.`, `..` and `//` are resolved by name          |
| `file:///a/b`                | the path after decoding `%XX` (RFC 8089); no host, no `#`, no `?`                   |
| `s3://bucket/a`, `gs://…`    | the key, character by character: `#`, `?`, `%`, `+` and spaces stand for themselves |

Unicode is not normalised: as on Linux and in object stores, `é` as one code point and as two are different names.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, NamedTuple
from urllib.parse import quote, unquote_to_bytes

from pydantic import AfterValidator

from crystalign.errors import StorageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_ONE_SLASH = re.compile(r"(file|s3|gs):")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNQUOTED = "/~!$&'()*+,;=:@"
"""Characters that are not encoded in the path of a `file://` URI, besides letters, digits and `-._~`."""
ANONYMOUS = "anonymous@"
"""Prefix of the bucket of a `gs://` URI for access without credentials."""


class Place(NamedTuple):
    """The location that a path or URI names."""

    scheme: str
    """`file`, `s3` or `gs`."""
    bucket: str
    """Bucket of an object store; empty for files on disk. `anonymous@` before a `gs` bucket: no credentials."""
    path: str
    """Absolute path on disk, or key in a bucket; empty for the bucket itself."""


def parse(uri: str) -> Place:
    """The location that a path or URI names.

    Raises:
        StorageError: the notation is invalid or ambiguous, or a part of it would be ignored.
    """
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"{uri!r} is not UTF-8; rename the file or folder") from error
    if "\0" in uri:
        raise StorageError(f"{uri!r} contains a null character, which is not allowed in names")
    scheme = _SCHEME.match(uri)
    if scheme is None:
        return Place("file", "", _local(uri))
    rest = uri[scheme.end() :]
    if scheme[1] == "file":
        return Place("file", "", _decoded(uri, rest))
    if scheme[1] in {"s3", "gs"}:
        return _in_bucket(uri, scheme[1], rest)
    small = scheme[1].lower()
    if small in {"file", "s3", "gs"}:
        raise StorageError(f"{uri!r}: write {small}:// in lower case")
    raise StorageError(f"{uri!r}: the scheme {scheme[1]!r} is not supported; use a path, file://, s3:// or gs://")


def absolute(uri: str) -> str:
    """Convert a path or `file://` URI to an absolute path; remove the trailing slash of other URIs.

    Workers have other working directories, so relative paths must not be passed to them.

    Raises:
        StorageError: the notation is invalid; see `parse`.
    """
    location = parse(uri)
    if location.scheme == "file":
        return location.path
    return "/".join(filter(None, (f"{location.scheme}:/", *location[1:])))


Uri = Annotated[str, AfterValidator(absolute)]
"""Type of configuration fields that hold a location: a path, `file://`, `s3://` or `gs://`."""


def join(uri: str, *parts: str) -> str:
    """Append names to a path or URI: `join("s3://bucket/a", "b", "c#1")` → `s3://bucket/a/b/c#1`.

    Args:
        uri: a path or URI.
        parts: names, not encoded; in a `file://` URI they are encoded here (`c%231`).
    """
    scheme, mark, rest = uri.partition("://") if _SCHEME.match(uri) else ("", "", uri)
    names = [part.strip("/") for part in parts]
    if scheme == "file":
        names = [quote(name, safe=_UNQUOTED) for name in names]
    return scheme + mark + ("/".join([rest.rstrip("/"), *names]) or "/")


def name_of(uri: str) -> str:
    """The last part of a path or URI, decoded."""
    return parse(uri).path.rpartition("/")[2]


def _local(path: str) -> str:
    if not path:
        raise StorageError("the path is empty; write . for this folder")
    if path.startswith("~"):
        raise StorageError(f"{path!r}: only a shell expands ~; write the full path, or ./{path} for that name")
    if _DRIVE.match(path):
        raise StorageError(f"{path!r} is a Windows path, but this is not Windows; write a path of this machine")
    if scheme := _ONE_SLASH.match(path):
        after = "///path" if scheme[1] == "file" else "//bucket"
        raise StorageError(f"{path!r} is not a URI; write {scheme[1]}:{after}, or ./{path} for a file of that name")
    return _resolved(path)


def _resolved(path: str) -> str:
    path = os.path.abspath(path)
    return path[1:] if path.startswith("//") else path  # POSIX keeps two slashes; Linux gives them no meaning


def _decoded(uri: str, rest: str) -> str:
    """The path of a `file://` URI."""
    host, slash, path = rest.partition("/")
    if host not in {"", "localhost"} or not slash:
        raise StorageError(f"{uri!r} names the host {host!r}, not a file on this machine; write file:///{rest}")
    if "#" in path or "?" in path:
        raise StorageError(
            f"{uri!r}: # and ? end the path of a file:// URI; write %23 for # and %3F for ?, or a plain path: /{path}"
        )
    if "%2f" in path.lower():
        raise StorageError(f"{uri!r}: %2F is a slash within a name, which is not allowed; write / between folders")
    if _BAD_ESCAPE.search(path) or "%00" in path:
        raise StorageError(f"{uri!r} contains an invalid escape sequence; write %25 for %, or a plain path")
    try:
        return _resolved(f"/{unquote_to_bytes(path).decode()}")
    except UnicodeDecodeError as error:
        raise StorageError(f"{uri!r} does not decode to UTF-8; rename the file or folder") from error


def _in_bucket(uri: str, scheme: str, rest: str) -> Place:
    bucket, _, key = rest.partition("/")
    name = bucket.removeprefix(ANONYMOUS) if scheme == "gs" else bucket
    if not name:
        raise StorageError(f"{uri!r} names no bucket; write {scheme}://bucket/folder")
    if not _BUCKET.fullmatch(name):
        raise StorageError(
            f"{uri!r}: {name!r} is not a valid bucket name; write {scheme}://bucket/folder, and set endpoint, region "
            "and keys by environment variables"
        )
    key = key.rstrip("/")
    if _CONTROL.search(key):
        raise StorageError(f"{uri!r} contains a control character, which object stores cannot list")
    if key and any(part in {"", ".", ".."} for part in key.split("/")):
        raise StorageError(f"{uri!r}: object stores have no empty, . or .. folders; write the full key")
    return Place(scheme, bucket, key)
