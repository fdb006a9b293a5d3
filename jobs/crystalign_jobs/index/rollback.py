"""`crystalign index rollback`: make the content of an earlier version current again."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri


class Rollback(Config):
    """Make the content of an earlier version current again, as a new version. Nothing is deleted or rewritten.

    Example: crystalign index rollback s3://bucket/index 3
    """

    index: Positional[Uri]
    """URI of the index."""
    version: Positional[int] = Field(ge=1)
    """Number of the version, as `crystalign index versions` lists it."""


def main(config: Rollback) -> IndexManifest:
    """Go back to the version, and print the new one.

    Raises:
        ConfigError: there is no such version, or another job is changing the index.
        ConflictError: another job has changed the index meanwhile.
    """
    from crystalign.index.live import rollback
    from crystalign_jobs.index.changing import report
    from crystalign_ray.driver_lock import driving

    IndexManifest.read(config.index)
    with driving(config.index):
        changed = rollback(config.index, config.version)
    return report(config.index, changed)
