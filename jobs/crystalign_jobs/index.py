"""`crystalign index`: from embeddings to a search index."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri

ROWS_PER_SEGMENT = 16_384


class BuildIndex(Config):
    """Build a search index from embeddings: immutable segments, and a manifest that names them by checksum.

    Example: crystalign index s3://bucket/embeddings --out s3://bucket/index
    """

    embeddings: Positional[Uri]
    """Embedding dataset that `crystalign embed` made, any URI."""
    out: Uri
    """Where the index goes, any URI; an index that is already there is never changed."""
    rows_per_segment: int = Field(default=ROWS_PER_SEGMENT, ge=1)
    """Rows of each segment file; a service can be spread over at most as many shards as there are segments."""


def main(config: BuildIndex) -> IndexManifest:
    """Build, and say what to do with it.

    Raises:
        ConfigError: another job is writing there, or the folder already holds another index.
    """
    from crystalign.index.build import build_index
    from crystalign.index.embeddings import EmbeddingManifest
    from crystalign_jobs.ownership import driving
    from crystalign_jobs.progress import Meter

    source = EmbeddingManifest.read(config.embeddings)
    print(f"writing to {config.out}/\n├─ segments/\n└─ manifest.json  (last)")
    with driving(config.out), Meter("index", total=source.rows, unit="rows") as meter:
        manifest = build_index(
            config.embeddings, config.out, rows_per_segment=config.rows_per_segment, on_rows=meter.advance
        )
    print(
        f"index {manifest.version[:12]} at {config.out}: {manifest.rows:,} {manifest.modality} vectors of "
        f"{manifest.dimension} dimensions in {len(manifest.segments)} segments"
    )
    print(f"next: crystalign serve --index {config.out} --model {manifest.model_uri}")
    return manifest
