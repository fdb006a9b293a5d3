"""The interface between the HTTP API and the encoders and shards, and its implementation in one process.

The API depends on the protocol `Backend` only. In a service the calls go to Ray Serve deployments; in a
test or a notebook `LocalBackend` runs them in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from crystalign.index.manifest import IndexManifest, SegmentEntry
from crystalign.index.search import Found, Segment, merge

if TYPE_CHECKING:
    from crystalign.modalities import Features
    from crystalign.model import Model

Record = dict[str, Any]
"""The metadata of one row of the index, by column."""


class ShardAnswer(NamedTuple):
    """Search result of one shard."""

    hits: Found
    """Scores and row numbers."""
    records: list[Record]
    """Metadata of the rows in `hits`, in the same order."""


class IndexAnswer(NamedTuple):
    """Merged search result of all shards that answered."""

    scores: list[float]
    """Cosine similarities, best first."""
    records: list[Record]
    """Metadata of the rows, best first."""
    allowed: int
    """Number of rows that pass the filter, in the shards that answered."""
    shards_ok: int
    """Shards that answered."""
    shards_total: int
    """Shards of the index."""


class IndexRow(NamedTuple):
    """One row of the index."""

    record: Record
    vector: NDArray[np.float32]
    """(D,) stored vector."""


class Backend(Protocol):
    """Encoders and shards, wherever they run."""

    async def encode(self, modality: str, features: Features) -> NDArray[np.float32]:
        """(D,) unit vector of one sample."""

    async def search(self, vector: NDArray[np.float32], k: int, filter_text: str | None) -> IndexAnswer:
        """The k best rows of the index that pass the filter."""

    async def find(self, material_id: str) -> IndexRow | None:
        """The row of a material; None if the index does not contain it."""

    async def shards(self) -> tuple[int, int]:
        """Number of shards that answer, and number of all shards."""


class LocalBackend:
    """Encoders and shards in this process."""

    def __init__(self, model: Model, segments: Sequence[Segment]) -> None:
        self._model = model
        self._segments = segments

    async def encode(self, modality: str, features: Features) -> NDArray[np.float32]:
        """(D,) unit vector of one sample."""
        vector: NDArray[np.float32] = (await asyncio.to_thread(encode_batch, self._model, modality, [features]))[0]
        return vector

    async def search(self, vector: NDArray[np.float32], k: int, filter_text: str | None) -> IndexAnswer:
        """The k best rows of the index that pass the filter."""
        calls = (asyncio.to_thread(search_shard, s, vector, k, filter_text) for s in self._segments)
        return merge_shards(await asyncio.gather(*calls), k, len(self._segments))

    async def find(self, material_id: str) -> IndexRow | None:
        """The row of a material; None if the index does not contain it."""
        rows = (find_in_shard(segment, material_id) for segment in self._segments)
        return next((row for row in rows if row is not None), None)

    async def shards(self) -> tuple[int, int]:
        """Number of shards that answer, and number of all; they are equal, since all shards are in this process."""
        return len(self._segments), len(self._segments)


def encode_batch(model: Model, modality: str, samples: Sequence[Features]) -> NDArray[np.float32]:
    """(n, D) unit vectors of n samples of one modality."""
    import torch

    with torch.inference_mode():
        inputs = model.modality(modality).collate(samples)
        moved = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        vectors: NDArray[np.float32] = model.encode(modality, moved).float().cpu().numpy()
    return vectors


def search_shard(segment: Segment, vector: NDArray[np.float32], k: int, filter_text: str | None) -> ShardAnswer:
    """The k best rows of one shard that pass the filter, with their metadata."""
    hits = segment.search(vector[None], k, filter_text)[0]
    return ShardAnswer(hits, segment.records(hits.rows))


def find_in_shard(segment: Segment, material_id: str) -> IndexRow | None:
    """The row of a material; None if it is not in this shard."""
    row = segment.row_of(material_id)
    if row is None:
        return None
    rows = np.array([row])
    return IndexRow(segment.records(rows)[0], segment.vectors(rows)[0].astype(np.float32))


def merge_shards(answers: Sequence[ShardAnswer], k: int, total: int) -> IndexAnswer:
    """Merge the answers of the shards that answered in time; `total` is the number of all shards."""
    best = merge([answer.hits for answer in answers], k)
    origins = zip(best.source.tolist(), best.rows.tolist(), strict=True)
    records = [answers[shard].records[position] for shard, position in origins]
    return IndexAnswer(best.scores.tolist(), records, best.allowed, len(answers), total)


def spread(manifest: IndexManifest, shards: int) -> list[list[SegmentEntry]]:
    """Assign the segments to shards round-robin.

    Returns:
        The segments of each shard. There are never more shards than segments, so no shard is empty.
    """
    count = max(1, min(shards, len(manifest.segments)))
    return [list(manifest.segments[number::count]) for number in range(count)]
