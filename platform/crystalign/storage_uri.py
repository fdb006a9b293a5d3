"""How a place is written: a path, `file://`, `s3://` or `gs://`; one spelling names one place, or is refused.

| written as                   | means                                                                              |
|------------------------------|------------------------------------------------------------------------------------|
| a path                       | that file, character by character; `.`, `..` and `//` are resolved by name          |
| `file:///a/b`                | the path after decoding `%XX` (RFC 8089); no host, no `#`, no `?`                   |
| `s3://bucket/a`, `gs://…`    | the key, character by character: `#`, `?`, `%`, `+` and spaces stand for themselves |

Unicode is not normalised: `é` as one code point and as two are two names, as they are on Linux and in an object store.
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
"""Characters that stand for themselves in the path of a `file://` URI, besides letters, digits and `-._~`."""
ANONYMOUS = "anonymous@"
"""Before the bucket of a `gs://` URI: without credentials."""


class Place(NamedTuple):
    """What a path or URI names."""

    scheme: str
    """`file`, `s3` or `gs`."""
    bucket: str
    """Of an object store; empty on disk. Of `gs` it may begin with `anonymous@`."""
    path: str
    """On disk the absolute path; in a bucket the key, empty for the bucket itself."""


def parse(uri: str) -> Place:
    """What a path or URI names.

    Raises:
        StorageError: it names nothing, or a part of it would be dropped or read in two ways.
    """
    try:
        uri.encode()
    except UnicodeEncodeError as error:
        raise StorageError(f"{uri!r} is not UTF-8; rename the file or folder") from error
    if "\0" in uri:
        raise StorageError(f"{uri!r} holds a zero character, which no name may")
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
        raise StorageError(f"{uri!r}: write {small}:// in small letters")
    raise StorageError(f"{uri!r}: no storage speaks {scheme[1]!r}; use a path, file://, s3:// or gs://")


def absolute(uri: str) -> str:
    """A path or `file://` URI as an absolute path, another URI without a slash at its end.

    Workers have a working directory of their own, so a relative path must not reach them.

    Raises:
        StorageError: as `parse`.
    """
    place = parse(uri)
    return place.path if place.scheme == "file" else "/".join(filter(None, (f"{place.scheme}:/", *place[1:])))


Uri = Annotated[str, AfterValidator(absolute)]
"""A field of a configuration that names a place: a path, `file://`, `s3://` or `gs://`."""


def join(uri: str, *parts: str) -> str:
    """`join("s3://bucket/a", "b", "c#1")` → `s3://bucket/a/b/c#1`.

    Args:
        uri: a path or URI.
        parts: names as they are; in a `file://` URI they are encoded: `c%231`.
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
        raise StorageError("an empty path names no place; write . for this folder")
    if path.startswith("~"):
        raise StorageError(f"{path!r}: only a shell expands ~; write the path in full, or ./{path} for that name")
    if _DRIVE.match(path):
        raise StorageError(f"{path!r} is a path of Windows, and this is not; write a path of this machine")
    if found := _ONE_SLASH.match(path):
        after = "///path" if found[1] == "file" else "//bucket"
        raise StorageError(f"{path!r} is no URI; write {found[1]}:{after}, or ./{path} for a file of that name")
    return _resolved(path)


def _resolved(path: str) -> str:
    path = os.path.abspath(path)
    return path[1:] if path.startswith("//") else path  # POSIX keeps two slashes; Linux gives them no meaning


def _decoded(uri: str, rest: str) -> str:
    """The path of a `file://` URI."""
    host, slash, path = rest.partition("/")
    if host not in {"", "localhost"} or not slash:
        raise StorageError(f"{uri!r} names the machine {host!r} and not a file here; write file:///{rest}")
    if "#" in path or "?" in path:
        raise StorageError(
            f"{uri!r}: # and ? end the path of a file:// URI; write %23 for # and %3F for ?, or a plain path: /{path}"
        )
    if "%2f" in path.lower():
        raise StorageError(f"{uri!r}: %2F is a slash within a name, which no file has; write / between folders")
    if _BAD_ESCAPE.search(path) or "%00" in path:
        raise StorageError(f"{uri!r} holds a % that is no escape of a name; write %25 for %, or a plain path")
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
            f"{uri!r}: {name!r} is no name of a bucket; write {scheme}://bucket/folder, and put endpoint, region and "
            "keys into the environment"
        )
    key = key.rstrip("/")
    if _CONTROL.search(key):
        raise StorageError(f"{uri!r} holds a control character, which object stores do not list")
    if key and any(part in {"", ".", ".."} for part in key.split("/")):
        raise StorageError(f"{uri!r}: an object store has no empty, . or .. folder; write the key in full")
    return Place(scheme, bucket, key)
