"""`crystalign index verify`: check the files of an index against its manifest, and some of its searches."""

from __future__ import annotations

from pydantic import Field
from tyro.conf import Positional

from crystalign import storage
from crystalign.config import Config
from crystalign.errors import VerificationError
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri


class Verify(Config):
    """Check an index: every file against its checksum, and a sample of searches against an exact search.

    Example: crystalign index verify s3://bucket/index
    """

    index: Positional[Uri]
    """URI of the index."""
    searches: int = Field(default=100, ge=0, le=1000)
    """Number of stored rows that are searched for with the measured effort; 0 checks the files only."""


def main(config: Verify) -> IndexManifest:
    """Check the files of an index and some searches, and return its manifest.

    Raises:
        VerificationError: a file is missing or differs from the manifest, or searches find less than they should.
    """
    manifest = IndexManifest.read(config.index)
    entries = list(manifest.files())
    for entry in entries:
        storage.verify(storage.join(config.index, *entry.path.split("/")), entry)
    print(f"{len(entries)} files are what the manifest says")
    versions = check_versions(config.index, manifest)
    print(f"{versions} versions are what the version after them says, and the numbers of rows agree")
    if config.searches:
        found, needed = search_stored_rows(config.index, manifest, config.searches)
        print(f"recall@10 of {config.searches} stored rows: {found:.4f}, at least {needed:.4f} needed")
        if found < needed:
            raise VerificationError(
                f"{config.index} finds {found:.4f} of the best rows, less than {needed:.4f}: build the index again"
            )
    return manifest


def check_versions(uri: str, manifest: IndexManifest) -> int:
    """Check the removed rows of the current version, and the manifests of all versions; returns their number.

    Raises:
        VerificationError: a manifest was altered, a bitmap does not fit its segment, or numbers of rows differ.
    """
    from crystalign.index.segment_files import removed_bits
    from crystalign.index.versions import history

    for entry in manifest.segments:
        removed_bits(uri, entry)
    counted = 0
    for version in history(uri, manifest):
        counted += 1
        rows = sum(entry.live_rows for entry in version.segments)
        if rows != version.rows:
            raise VerificationError(f"version {version.number} of {uri} has {rows} rows, not {version.rows} as it says")
    return counted


def search_stored_rows(uri: str, manifest: IndexManifest, count: int) -> tuple[float, float]:
    """Search for stored rows as a service would, and compare with exact searches.

    Returns:
        Recall@10, and the lowest value that is accepted: three standard errors below the target.
    """
    import numpy as np

    from crystalign.index.search import Search, Segment
    from crystalign.index.vector_store import VECTOR_STORES

    segment = Segment.load(uri, manifest)
    live = np.flatnonzero(segment.live_mask())
    rows = np.random.default_rng(0).choice(live, min(count, len(live)), replace=False)
    queries = segment.vectors(rows).astype(np.float32)
    answers = [
        segment.search_many([Search(query, 10, manifest.every_row, modalities) for query in queries])
        for modalities in ((manifest.modality,), ())
    ]
    shares = [len(set(a.ids) & set(b.ids)) / len(b.ids) for a, b in zip(*answers, strict=True)]
    target = 1.0 if VECTOR_STORES[manifest.kind].is_exact else manifest.target_recall
    return float(np.mean(shares)), target - 3.0 * float(np.std(shares)) / len(shares) ** 0.5
