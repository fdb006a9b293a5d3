"""`crystalign index compact`: rewrite what changes have left behind."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri


class Compact(Config):
    """Rewrite the segments that have removed or added rows, as a new version: fewer files, and faster searches.

    Example: crystalign index compact s3://bucket/index --queries s3://bucket/queries/text
    """

    index: Positional[Uri]
    """URI of the index."""
    everything: bool = False
    """Rewrite all segments, and train an approximate kind again; worth it if the index has grown much."""
    rows_per_segment: int | None = Field(default=None, ge=1)
    """Rows of each new segment file; default: as many as the largest segment has."""
    queries: tuple[Uri, ...] = ()
    """Embeddings of other modalities by the same model, on which the recall of an approximate kind is measured again.
    Queries of modalities that are not measured are searched exactly."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, or this machine."""


def main(config: Compact) -> IndexManifest:
    """Compact the index, and print the new version.

    Raises:
        ConfigError: another job is changing the index.
        ConflictError: another job has changed the index meanwhile.
    """
    from crystalign.index.approximate import recall_table
    from crystalign.index.compaction import compact
    from crystalign_jobs.index.changing import changing, report

    size = sum(entry.bytes for entry in IndexManifest.read(config.index).segments)
    with changing(config.index, "compact", config.address, new_bytes=size) as work:
        changed = compact(
            config.index,
            everything=config.everything,
            rows_per_segment=config.rows_per_segment,
            queries=config.queries,
            run=work.run,
            on_rows=work.on_rows,
        )
    manifest = report(config.index, changed)
    if manifest.recall and changed.made:
        print("\n".join(recall_table(manifest)))
    lost = {point.modality for point in work.manifest.recall} - {point.modality for point in manifest.recall}
    if lost and changed.made:
        names = ", ".join(sorted(lost))
        print(f"note: recall was not measured again for {names}, so their queries are searched exactly; give --queries")
    return manifest
