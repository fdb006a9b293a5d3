"""`crystalign index versions`: list the versions of an index."""

from __future__ import annotations

from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri


class Versions(Config):
    """List the versions of an index, the newest first: number, time, rows, and what changed.

    Example: crystalign index versions s3://bucket/index
    """

    index: Positional[Uri]
    """URI of the index."""


def main(config: Versions) -> list[IndexManifest]:
    """Print the versions, and return their manifests.

    Raises:
        DatasetError: there is no index.
        VerificationError: the file of a version was altered.
    """
    from crystalign.index.versions import history

    versions = list(history(config.index))
    print(f"{'version':>7}  {'time':<25}  {'rows':>12}  change")
    for manifest in versions:
        note = "built" if manifest.change is None else manifest.change.note
        print(f"{manifest.number:>7}  {manifest.created:<25}  {manifest.rows:>12,}  {note}")
    if versions[-1].parent is not None:
        print("earlier versions were pruned")
    if len(versions) > 1:
        print(f"next: crystalign index rollback {config.index} {versions[1].number}")
        print(f"  or: crystalign index prune {config.index}")
    return versions
