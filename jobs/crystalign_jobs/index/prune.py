"""`crystalign index prune`: delete what only old versions of an index need."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri

KEEP = 3
SHOWN = 20
"""Number of files that are listed."""


class Prune(Config):
    """Delete old versions of an index, and files that no kept version names. Without `--yes`, only list them.

    A service that serves a deleted version must be restarted before.

    Example: crystalign index prune s3://bucket/index --keep 3 --yes
    """

    index: Positional[Uri]
    """URI of the index."""
    keep: int = Field(default=KEEP, ge=1)
    """Number of versions to keep, the newest."""
    yes: bool = False
    """Delete the files, instead of listing them."""


def main(config: Prune) -> tuple[str, ...]:
    """List or delete the files, and return their paths.

    Raises:
        DatasetError: there is no index.
        ConfigError: another job is changing the index.
    """
    from crystalign.index.prune import delete_superfluous, superfluous
    from crystalign_ray.driver_lock import driving

    IndexManifest.read(config.index)
    with driving(config.index):
        found = superfluous(config.index, config.keep)
        if config.yes:
            delete_superfluous(config.index, found)
    verb = "deleted" if config.yes else "would delete"
    numbers = ", ".join(map(str, found.versions)) or "none"
    print(f"{verb} {len(found.paths)} files of {config.index}; versions: {numbers}")
    print("\n".join(f"  {path}" for path in found.paths[:SHOWN]))
    if len(found.paths) > SHOWN:
        print(f"  and {len(found.paths) - SHOWN} more")
    if found.paths and not config.yes:
        print(f"next: crystalign index prune {config.index} --keep {config.keep} --yes")
    return found.paths
