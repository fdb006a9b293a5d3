"""`crystalign index`: build a search index from embeddings."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.index.vector_store import DEFAULT_KIND
from crystalign.storage import Uri

ROWS_PER_SEGMENT = 16_384
SECONDS = 0.0001
"""Typical time of one row, for the estimate."""


class BuildIndex(Config):
    """Build a search index from embeddings: immutable segments, and a manifest with their checksums.

    Example: crystalign index s3://bucket/embeddings --out s3://bucket/index
    """

    embeddings: Positional[Uri]
    """URI of the embeddings, as written by `crystalign embed`."""
    out: Uri
    """URI of the new index; an existing index is never changed."""
    rows_per_segment: int = Field(default=ROWS_PER_SEGMENT, ge=1)
    """Rows of each segment file; a service can have at most as many shards as there are segments."""
    kind: str = DEFAULT_KIND
    """Vector store: how vectors are stored and searched. `exact-fp16` compares every vector with the query."""


def main(config: BuildIndex) -> IndexManifest:
    """Build the index, and print the command that serves it.

    Raises:
        ConfigError: another job is writing there, or the folder already holds another index.
    """
    from crystalign.index.build import build_index
    from crystalign.index.embeddings import EmbeddingManifest
    from crystalign_jobs.runtime.driver_lock import driving
    from crystalign_jobs.runtime.estimates import Estimate, announce
    from crystalign_jobs.runtime.progress import Meter

    source = EmbeddingManifest.read(config.embeddings)
    print(f"writing to {config.out}/\n├─ segments/\n└─ manifest.json  written last")
    announce(Estimate(source.rows, sum(file.bytes for file in source.files), SECONDS), config.out)
    with driving(config.out), Meter("index", total=source.rows, unit="rows") as meter:
        manifest = build_index(
            config.embeddings,
            config.out,
            rows_per_segment=config.rows_per_segment,
            kind=config.kind,
            on_rows=meter.advance,
        )
    print(
        f"index {manifest.version[:12]} at {config.out}: {manifest.rows:,} {manifest.modality} vectors of "
        f"{manifest.dimension} dimensions in {len(manifest.segments)} segments"
    )
    print(f"next: crystalign calibrate {config.out}   so that searches say how sure they are")
    print(f"  or: crystalign serve --index {config.out} --model {manifest.model_uri}")
    return manifest
