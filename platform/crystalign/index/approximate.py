"""What an index of an approximate kind needs when it is built: a sample for training, and queries to measure recall."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.errors import ConfigError
from crystalign.index.embeddings import EMBEDDING, EmbeddingManifest, embedding_matrix
from crystalign.index.manifest import IndexManifest
from crystalign.index.recall_measurement import QUERIES, measure_recall
from crystalign.index.search import Segment

SAMPLE = 1_500_000
"""Most vectors of a training sample."""
_SEED = 20_240


def random_sample(uri: str, source: EmbeddingManifest) -> NDArray[np.float16]:
    """(m, D) a random part of the vectors of an embedding dataset, in random order; all of them if there are few.

    Raises:
        VerificationError: a file differs from the manifest.
        DatasetError: a vector is missing or not finite.
    """
    files = (storage.read_verified(uri, entry) for entry in source.files)
    return sample_vectors(
        (embedding_matrix(pq.read_table(_buffer(f), columns=[EMBEDDING])) for f in files), source.rows
    )


def sample_vectors(parts: Iterable[NDArray[np.float16]], rows: int) -> NDArray[np.float16]:
    """(m, D) a random part of some vectors, in random order; all of them if there are few.

    Args:
        parts: the vectors, of which one part is held at a time.
        rows: number of rows of all parts.
    """
    rng, share = np.random.default_rng(_SEED), min(1.0, SAMPLE / max(1, rows))
    kept = [vectors[rng.random(len(vectors)) < share] if share < 1.0 else vectors for vectors in parts]
    sample = np.concatenate(kept)
    return sample[rng.permutation(len(sample))]


def read_queries(uris: Iterable[str], model_sha256: str) -> dict[str, NDArray[np.float32]]:
    """Modality → (q, D) query vectors from embedding datasets; at most `QUERIES` random ones of each.

    Raises:
        ConfigError: the embeddings are of another model than those of the index, or name a modality twice.
        VerificationError: a file differs from its manifest.
    """
    queries: dict[str, NDArray[np.float32]] = {}
    for uri in uris:
        manifest = EmbeddingManifest.read(uri)
        if manifest.model_sha256 != model_sha256:
            raise ConfigError(
                f"the queries at {uri} are of model {manifest.model_sha256[:12]}, the index is of model "
                f"{model_sha256[:12]}: embed the queries with that model"
            )
        if manifest.modality in queries:
            raise ConfigError(f"two of the query sets hold {manifest.modality} vectors, one of them at {uri}; give one")
        queries[manifest.modality] = _few(random_sample(uri, manifest))
    return queries


def measured(uri: str, manifest: IndexManifest, queries: dict[str, NDArray[np.float32]]) -> IndexManifest:
    """The manifest with the measured recall. Reads all segments back, and checks them.

    Args:
        uri: URI of the index, whose segments are written.
        manifest: its manifest.
        queries: modality → query vectors. For the modality of the index, stored rows are used if there are none.
    """
    segment = Segment.load(uri, manifest)
    if manifest.modality not in queries:
        rows = np.random.default_rng(_SEED).choice(len(segment), min(QUERIES, len(segment)), replace=False)
        queries = {manifest.modality: segment.vectors(rows).astype(np.float32), **queries}
    return manifest.model_copy(update={"recall": measure_recall(segment, queries, manifest.target_recall)})


def _few(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    return vectors[:QUERIES].astype(np.float32)


def _buffer(data: bytes) -> object:
    import pyarrow as pa

    return pa.BufferReader(data)


def recall_table(manifest: IndexManifest) -> Sequence[str]:
    """Lines of a table: the effort that searches use, by modality, number of results and filter, and its recall."""
    lines = [f"{'queries':<16}{'results':>8}{'filter':>9}{'rows scored':>14}{'recall':>9}{'±':>8}"]
    for key in dict.fromkeys((p.modality, p.k, p.selectivity) for p in manifest.recall):
        curve = [p for p in manifest.recall if (p.modality, p.k, p.selectivity) == key]
        good = [p for p in curve if p.recall - p.error >= manifest.target_recall]
        name = f"{key[0]:<16}{key[1]:>8}{key[2]:>9.0%}"
        best = min(good, key=lambda p: p.effort, default=None)
        lines.append(
            f"{name}{'all: exact':>14}{1:>9.4f}{0:>8.4f}"
            if best is None
            else f"{name}{best.effort:>14,}{best.recall:>9.4f}{best.error:>8.4f}"
        )
    return lines
