"""`crystalign index add`: add rows to an index."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri

ROWS_PER_SEGMENT = 16_384


class Add(Config):
    """Add the rows of embeddings to an index, as a new version. They are searched exactly until `index compact`.

    Example: crystalign index add s3://bucket/index s3://bucket/new-embeddings
    """

    index: Positional[Uri]
    """URI of the index."""
    embeddings: Positional[Uri]
    """URI of embeddings by the model of the index, of the same modality."""
    replace: bool = False
    """Remove the rows that have one of the new ids, in the same version. Without it, such ids are refused."""
    rows_per_segment: int = Field(default=ROWS_PER_SEGMENT, ge=1)
    """Rows of each new segment file."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Add) -> IndexManifest:
    """Add the rows, and print the new version.

    Raises:
        ConfigError: another job is changing the index, the embeddings are of another model, or ids exist.
        ConflictError: another job has changed the index meanwhile.
    """
    from crystalign.index.embeddings import EmbeddingManifest
    from crystalign.index.live import add
    from crystalign_jobs.index.changing import changing, report

    source = EmbeddingManifest.read(config.embeddings)
    size = sum(file.bytes for file in source.files)
    with changing(config.index, "add", config.address, new_rows=source.rows, new_bytes=size) as work:
        changed = add(
            config.index,
            config.embeddings,
            replace=config.replace,
            rows_per_segment=config.rows_per_segment,
            run=work.run,
            on_rows=work.on_rows,
        )
    return report(config.index, changed)
