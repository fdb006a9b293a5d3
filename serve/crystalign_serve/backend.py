"""What the HTTP API needs of the machinery behind it, and the machinery in one process.

The API knows `Backend` only: in a service its calls go to Ray Serve deployments, in a test or a
notebook `LocalBackend` answers them here.
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
    """What one shard found."""

    found: Found
    records: list[Record]
    """Metadata of the rows of `found`, in its order."""


class Answer(NamedTuple):
    """What the whole index found."""

    scores: list[float]
    records: list[Record]
    """Best first."""
    allowed: int
    """Rows that the filter lets through, in the shards that answered."""
    shards_ok: int
    shards_total: int


class Stored(NamedTuple):
    """One row of the index."""

    record: Record
    vector: NDArray[np.float32]
    """(D,) as stored."""


class Backend(Protocol):
    """Encoders and shards, wherever they run."""

    async def encode(self, modality: str, features: Features) -> NDArray[np.float32]:
        """(D,) unit vector of one sample."""

    async def search(self, vector: NDArray[np.float32], k: int, filter_text: str | None) -> Answer:
        """The k best rows of the index that the filter allows."""

    async def find(self, material_id: str) -> Stored | None:
        """The row of an id."""

    async def shards(self) -> tuple[int, int]:
        """How many shards answer, of how many."""


class LocalBackend:
    """Encoders and shards in this process."""

    def __init__(self, model: Model, segments: Sequence[Segment]) -> None:
        self._model = model
        self._segments = segments

    async def encode(self, modality: str, features: Features) -> NDArray[np.float32]:
        """(D,) unit vector of one sample."""
        vector: NDArray[np.float32] = (await asyncio.to_thread(encode_batch, self._model, modality, [features]))[0]
        return vector

    async def search(self, vector: NDArray[np.float32], k: int, filter_text: str | None) -> Answer:
        """The k best rows of the index that the filter allows."""
        calls = (asyncio.to_thread(search_shard, s, vector, k, filter_text) for s in self._segments)
        return merge_shards(await asyncio.gather(*calls), k, len(self._segments))

    async def find(self, material_id: str) -> Stored | None:
        """The row of an id."""
        return next((s for s in (find_in_shard(x, material_id) for x in self._segments) if s is not None), None)

    async def shards(self) -> tuple[int, int]:
        """All of them, always."""
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
    """The answer of one shard, with the metadata of its rows."""
    found = segment.search(vector[None], k, filter_text)[0]
    return ShardAnswer(found, segment.records(found.rows))


def find_in_shard(segment: Segment, material_id: str) -> Stored | None:
    """The row of an id, if it is in this shard."""
    row = segment.row_of(material_id)
    if row is None:
        return None
    rows = np.array([row])
    return Stored(segment.records(rows)[0], segment.vectors(rows)[0].astype(np.float32))


def merge_shards(answers: Sequence[ShardAnswer], k: int, total: int) -> Answer:
    """One answer from those of the shards that gave one."""
    best = merge([answer.found for answer in answers], k)
    places = zip(best.source.tolist(), best.rows.tolist(), strict=True)
    records = [answers[shard].records[position] for shard, position in places]
    return Answer(best.scores.tolist(), records, best.allowed, len(answers), total)


def spread(manifest: IndexManifest, shards: int) -> list[list[SegmentEntry]]:
    """Which segments each shard holds: dealt out in turn, so that every shard has some.

    There are never more shards than segments.
    """
    count = max(1, min(shards, len(manifest.segments)))
    return [list(manifest.segments[number::count]) for number in range(count)]
