"""`crystalign index describe`: what an index is, and the recall that was measured."""

from __future__ import annotations

from tyro.conf import Positional

from crystalign.config import Config
from crystalign.index.manifest import IndexManifest
from crystalign.storage import Uri


class Describe(Config):
    """Print the content of an index: rows, model, vector store, size, and the recall that was measured.

    Example: crystalign index describe s3://bucket/index
    """

    index: Positional[Uri]
    """URI of the index."""


def main(config: Describe) -> IndexManifest:
    """Print what an index is, and return its manifest.

    Raises:
        DatasetError: there is no index.
    """
    from crystalign.index.approximate import recall_table
    from crystalign.index.vector_store import VECTOR_STORES

    manifest = IndexManifest.read(config.index)
    entries = list(manifest.files())
    print(
        f"index {manifest.version[:12]}, version {manifest.number}, made {manifest.created}\n"
        f"  {manifest.rows:,} {manifest.modality} vectors of {manifest.dimension} dimensions, kind {manifest.kind}\n"
        f"  {len(manifest.segments)} segments, {len(entries)} files, {sum(e.bytes for e in entries) / 1e6:,.1f} MB\n"
        f"  model {manifest.model_sha256[:12]} ({manifest.model_uri})\n"
        f"  dataset {manifest.dataset_sha256[:12]} ({manifest.dataset_uri})\n"
        f"  licences: {', '.join(manifest.licences)}\n"
        f"  properties: {', '.join(spec.column for spec in manifest.properties) or 'none'}"
    )
    if manifest.predictions:
        print(f"  predictions: {', '.join(f'{spec.column} by {spec.model}' for spec in manifest.predictions)}")
    if manifest.has_hypothetical:
        print("  some rows are hypothetical; a search finds them if its filter names _crystalign_hypothetical")
    print("\n".join(f"  {line}" for line in changes(manifest)), end="\n" if manifest.number > 1 else "")
    if manifest.recall:
        print(f"  recall, for searches that are to find {manifest.target_recall:.1%} of the best rows:")
        print("\n".join(f"    {line}" for line in recall_table(manifest)))
    else:
        print(
            "  every search is exact"
            if VECTOR_STORES[manifest.kind].is_exact
            else "  no recall was measured: searches are exact"
        )
    return manifest


def changes(manifest: IndexManifest) -> list[str]:
    """What has changed since the index was built; empty if it is as it was built."""
    if manifest.change is None:
        return []
    lines = [f"last change: {manifest.change.note}"]
    removed = sum(entry.removed_rows for entry in manifest.segments)
    exact = sum(entry.live_rows for entry in manifest.segments if manifest.kind_of(entry) != manifest.kind)
    if removed:
        lines.append(f"{removed:,} rows were removed and are left out of searches until `index compact`")
    if exact:
        lines.append(f"{exact:,} rows were added and are searched exactly until `index compact`")
    lines += [f"added materials of dataset {d.sha256[:12]} ({d.uri})" for d in manifest.added_datasets]
    return lines
