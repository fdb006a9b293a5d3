"""The versions of an index: each is immutable, and the next takes its place only if nothing else has meanwhile.

    index/
    ├── manifest.json                     the current version
    └── versions/000007.<sha256>.json     the same content, one file for each version that was replaced or made later

A new version is first written to `versions/`, and then replaces `manifest.json` by compare-and-swap: of two writers
that started from the same version, one succeeds, and nothing of the other is ever visible. A version names the file of
its parent with the checksum. The history is that chain; a file that a failed writer left is not in it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from crystalign import storage
from crystalign.errors import ConfigError, ConflictError, DatasetError, StorageError
from crystalign.index.manifest import MANIFEST, Change, IndexManifest

VERSIONS = "versions"
_DIGITS = 12


class Opened(NamedTuple):
    """A version that was current when it was read."""

    manifest: IndexManifest
    """Its manifest."""
    data: bytes
    """Content of `manifest.json`."""


def open_current(uri: str) -> Opened:
    """Read the current version, in order to replace it later.

    Raises:
        DatasetError: there is no index, or it has another schema version.
    """
    try:
        data = storage.read_bytes(storage.join(uri, MANIFEST))
    except StorageError as error:
        raise DatasetError(f"no index at {uri}: it has no {MANIFEST}. Make one with `crystalign index`") from error
    return Opened(IndexManifest.parse(data, origin=uri), data)


def commit(uri: str, opened: Opened, content: IndexManifest, change: Change) -> IndexManifest:
    """Make a content the current version, in place of the version that was opened.

    Args:
        uri: URI of the index.
        opened: the version that the content was made from.
        content: the new content; every file that it names must exist.
        change: how it differs.

    Raises:
        ConflictError: another job has replaced that version meanwhile; the index is left as it is.
    """
    parent = _keep(uri, opened.manifest.number, opened.data)
    manifest = content.model_copy(
        update={
            "number": opened.manifest.number + 1,
            "parent": parent,
            "earlier": (*opened.manifest.earlier, opened.manifest.version),
            "change": change,
            "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
    )
    data = manifest.to_bytes()
    _keep(uri, manifest.number, data)
    try:
        storage.replace_bytes(storage.join(uri, MANIFEST), data, expected=hashlib.sha256(opened.data).hexdigest())
    except ConflictError as error:
        now = IndexManifest.read(uri)
        by = "" if now.change is None else f": {now.change.note}"
        raise ConflictError(
            f"{uri} was changed by another job meanwhile. It has version {now.number}{by}. Nothing of this job is in "
            "the index; repeat the command"
        ) from error
    return manifest


def history(uri: str, newest: IndexManifest | None = None) -> Iterator[IndexManifest]:
    """The current version and all before it that were not pruned, the newest first.

    Args:
        uri: URI of the index.
        newest: version to begin with; None means the current one.

    Raises:
        VerificationError: the file of a version is not what the version after it says.
    """
    manifest = newest or IndexManifest.read(uri)
    yield manifest
    while manifest.parent is not None:
        path = manifest.parent.path
        if not storage.exists(storage.join(uri, *path.split("/"))):
            return  # pruned
        manifest = IndexManifest.parse(storage.read_verified(uri, manifest.parent), origin=f"{path} of {uri}")
        yield manifest


def read_version(uri: str, number: int) -> IndexManifest:
    """A version of an index by its number.

    Raises:
        ConfigError: there is no such version, or it was pruned.
    """
    known = []
    for manifest in history(uri):
        if manifest.number == number:
            return manifest
        known.append(manifest.number)
    raise ConfigError(
        f"{uri} has no version {number}; it has versions {known[-1]} to {known[0]} (`crystalign index versions {uri}`)"
    )


def version_path(number: int, data: bytes) -> str:
    """Path of the file of a version, relative to the index."""
    return f"{VERSIONS}/{number:06d}.{hashlib.sha256(data).hexdigest()[:_DIGITS]}.json"


def _keep(uri: str, number: int, data: bytes) -> storage.FileEntry:
    """Write the file of a version. Its name depends on its content, so that nobody else's file is replaced."""
    path = version_path(number, data)
    storage.write_bytes(storage.join(uri, *path.split("/")), data)
    return storage.entry_of(path, data)
