"""The interface between the HTTP API and the encoders and shards, and its implementation in one process.

The API depends on the protocol `Backend` only. In a service the calls go to Ray Serve deployments; in a
test or a notebook `LocalBackend` runs them in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from crystalign.index.facets import Facets, add_facets
from crystalign.index.fusion import reciprocal_rank_fusion
from crystalign.index.manifest import IndexManifest, SegmentEntry
from crystalign.index.search import Found, Search, Segment, merge

if TYPE_CHECKING:
    from crystalign.modalities import Features
    from crystalign.model import Model

FUSED = 100
"""Number of rows of each ranking that are fused, by vector and by words; k if more are asked for."""
WORDS_WEIGHT = 1.0
"""Weight of the ranking by words; that of the ranking by vector is 1."""
Record = dict[str, Any]
"""The metadata of one row of the index, by column."""


class IndexSearch(NamedTuple):
    """One search of the index, by a vector and, if given, by words."""

    vector: NDArray[np.float32]
    """(D,) unit vector of the query."""
    k: int
    """Number of rows, at least 1."""
    filter_text: str | None = None
    """OPTIMADE filter, evaluated before the search; None for no filter."""
    words: Mapping[str, float] | None = None
    """Word → weight for the search by words; None for none."""
    modalities: tuple[str, ...] = ()
    """The modalities of which the query is made; an approximate index searches exactly if it is empty."""

    @property
    def depth(self) -> int:
        """Number of rows of each ranking: k, or at least `FUSED` where rankings by vector and by words are fused."""
        return max(self.k, FUSED) if self.words else self.k

    @property
    def by_vector(self) -> Search:
        """The search by vector alone."""
        return Search(self.vector, self.depth, self.filter_text, self.modalities)


class ShardAnswer(NamedTuple):
    """Search result of one shard."""

    hits: Found
    """Scores and row numbers."""
    records: list[Record]
    """Metadata of the rows in `hits`, in the same order."""
    by_words: Found | None = None
    """Result of the search by words; None if there was none."""
    records_by_words: list[Record] = []
    """Metadata of the rows in `by_words`, in the same order."""


class IndexAnswer(NamedTuple):
    """Merged search result of all shards that answered."""

    scores: list[float]
    """Cosine similarities of the rows. They descend unless the rows are also ranked by words."""
    records: list[Record]
    """Metadata of the rows, in the same order: best first."""
    allowed: int
    """Number of rows that pass the filter, in the shards that answered."""
    shards_ok: int
    """Shards that answered."""
    shards_total: int
    """Shards of the index."""
    words_score: float = 0.0
    """Best score of the search by words; 0 if there was none, or no row that passes the filter holds a word."""


class IndexRow(NamedTuple):
    """One row of the index."""

    record: Record
    vector: NDArray[np.float32]
    """(D,) stored vector."""


class Selection(NamedTuple):
    """What the rows that pass a filter are, in the shards that answered."""

    rows: int
    """Number of rows."""
    facets: Facets
    """Number of them by value."""
    shards_ok: int
    """Shards that answered."""
    shards_total: int
    """Shards of the index."""


class Backend(Protocol):
    """Encoders and shards, wherever they run."""

    async def encode(self, modality: str, features: Features) -> NDArray[np.float32]:
        """(D,) unit vector of one sample."""

    async def search(self, search: IndexSearch) -> IndexAnswer:
        """The k best rows of the index that pass the filter, by vector and, if given, by weighted words."""

    async def count(self, filter_text: str | None) -> int:
        """Number of rows that pass a filter, in the shards that answer."""

    async def selection(self, filter_text: str | None) -> Selection:
        """The rows that pass a filter, counted by value."""

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

    async def search(self, search: IndexSearch) -> IndexAnswer:
        """The k best rows of the index that pass the filter, by vector and, if given, by weighted words."""
        calls = (asyncio.to_thread(search_shard, segment, search) for segment in self._segments)
        return merge_shards(await asyncio.gather(*calls), search, len(self._segments))

    async def count(self, filter_text: str | None) -> int:
        """Number of rows that pass a filter."""
        return sum([await asyncio.to_thread(segment.count, filter_text) for segment in self._segments])

    async def selection(self, filter_text: str | None) -> Selection:
        """The rows that pass a filter, counted by value."""
        parts = [await asyncio.to_thread(count_by_value, segment, filter_text) for segment in self._segments]
        return merge_selections(parts, len(self._segments))

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


def search_shard(segment: Segment, search: IndexSearch) -> ShardAnswer:
    """The `search.depth` best rows of one shard that pass the filter, by vector and by words, with their metadata."""
    return complete_answer(segment, search, segment.search_many([search.by_vector])[0])


def complete_answer(segment: Segment, search: IndexSearch, hits: Found) -> ShardAnswer:
    """The answer of a shard to a search whose vector part is done: adds the metadata, and the search by words."""
    records, by_words = segment.records(hits.rows), search_words(segment, search)
    return ShardAnswer(hits, records, by_words, [] if by_words is None else segment.records(by_words.rows))


def search_words(segment: Segment, search: IndexSearch) -> Found | None:
    """The `search.depth` best rows of one shard by words; None for a search without words."""
    if not search.words:
        return None
    return segment.search_words(search.words, search.vector, search.depth, search.filter_text)


def count_by_value(segment: Segment, filter_text: str | None) -> tuple[int, Facets]:
    """Number of rows of one shard that pass a filter, and their facets."""
    return segment.count(filter_text), segment.facets(filter_text)


def merge_selections(parts: Sequence[tuple[int, Facets]], total: int) -> Selection:
    """Add up the counts of the shards that answered, out of `total`."""
    return Selection(sum(rows for rows, _ in parts), add_facets(facets for _, facets in parts), len(parts), total)


def find_in_shard(segment: Segment, material_id: str) -> IndexRow | None:
    """The row of a material; None if it is not in this shard."""
    row = segment.row_of(material_id)
    if row is None:
        return None
    rows = np.array([row])
    return IndexRow(segment.records(rows)[0], segment.vectors(rows)[0].astype(np.float32))


def merge_shards(answers: Sequence[ShardAnswer], search: IndexSearch, total: int) -> IndexAnswer:
    """Merge the answers of the shards that answered in time.

    If the shards also searched by words, each of the two rankings is merged over the shards, and then both are fused by
    their reciprocal ranks.

    Args:
        answers: of the shards that answered.
        search: what they were asked.
        total: number of all shards.
    """
    searched = [(answer.by_words, answer.records_by_words) for answer in answers if answer.by_words is not None]
    depth = search.depth
    best, records = _merged([(answer.hits, answer.records) for answer in answers], depth)
    scores, words_score = best.scores.tolist(), 0.0
    if searched:
        by_words, others = _merged([(hits, rows) for hits, rows in searched if hits is not None], depth)
        assert by_words.similarities is not None
        words_score = float(max(by_words.scores, default=0.0))
        every = dict(zip(best.ids, zip(scores, records, strict=True), strict=True))
        every |= dict(zip(by_words.ids, zip(by_words.similarities.tolist(), others, strict=True), strict=True))
        fused = reciprocal_rank_fusion(
            *(_by_rank(every, ranking) for ranking in (best.ids, by_words.ids)), weights=(1.0, WORDS_WEIGHT)
        )
        ranked = sorted(zip(-fused, every, strict=True))[: search.k]
        scores = [every[name][0] for _, name in ranked]
        records = [every[name][1] for _, name in ranked]
    return IndexAnswer(scores, records, best.allowed, len(answers), total, words_score)


def _merged(answers: Sequence[tuple[Found, list[Record]]], k: int) -> tuple[Found, list[Record]]:
    best = merge([hits for hits, _ in answers], k)
    origins = zip(best.source.tolist(), best.rows.tolist(), strict=True)
    return best, [answers[shard][1][position] for shard, position in origins]


def _by_rank(ids: Iterable[str], ranking: Sequence[str]) -> NDArray[np.float64]:
    """(n,) minus the rank of each id; −∞ if it is not in the ranking."""
    ranks = {name: -float(rank) for rank, name in enumerate(ranking)}
    return np.array([ranks.get(name, -np.inf) for name in ids])


def spread(manifest: IndexManifest, shards: int) -> list[list[SegmentEntry]]:
    """Assign the segments to shards round-robin.

    Returns:
        The segments of each shard. There are never more shards than segments, so no shard is empty.
    """
    count = max(1, min(shards, len(manifest.segments)))
    return [list(manifest.segments[number::count]) for number in range(count)]
