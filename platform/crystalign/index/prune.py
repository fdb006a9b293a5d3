"""Delete what only old versions of an index need."""

from __future__ import annotations

import re
from typing import NamedTuple

from crystalign import storage
from crystalign.errors import ConfigError
from crystalign.index.manifest import MANIFEST
from crystalign.index.segment_writer import BUILDING
from crystalign.index.versions import VERSIONS, history, version_path

_OURS = re.compile(rf"(segments|store|{VERSIONS}|{BUILDING})/.+|lexicon\.[0-9a-f]+\.json")


class Superfluous(NamedTuple):
    """What can be deleted."""

    versions: tuple[int, ...]
    """Numbers of the versions that would be gone, ascending."""
    paths: tuple[str, ...]
    """Files that no kept version names, in the order in which they are deleted."""


def superfluous(uri: str, keep: int) -> Superfluous:
    """What the newest `keep` versions do not need, including files that jobs left when they failed.

    Files that are not of an index are never among them.

    Raises:
        ConfigError: `keep` is less than 1.
        DatasetError: there is no index.
    """
    if keep < 1:
        raise ConfigError(f"keep {keep} versions; the current version is always kept, so 1 is the least")
    versions = list(history(uri))
    needed = {file.path for version in versions[:keep] for file in version.files()}
    needed |= {version.parent.path for version in versions[: keep - 1] if version.parent is not None}
    needed.add(version_path(versions[0].number, storage.read_bytes(storage.join(uri, MANIFEST))))
    paths = [path for path in storage.list_names(uri) if _OURS.fullmatch(path) and path not in needed]
    # Versions go first, the newest of them before all: a version whose files are incomplete is then no longer listed.
    first = sorted((path for path in paths if path.startswith(f"{VERSIONS}/")), reverse=True)
    rest = sorted(set(paths) - set(first))
    return Superfluous(tuple(sorted(version.number for version in versions[keep:])), (*first, *rest))


def delete_superfluous(uri: str, found: Superfluous) -> None:
    """Delete these files. No other job may change the index meanwhile; the commands hold its lock."""
    for path in found.paths:
        storage.delete(storage.join(uri, *path.split("/")))
