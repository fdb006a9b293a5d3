"""Vector stores that somebody could use instead: LanceDB, Qdrant Edge and USearch, in this process, on the same rows.

Each is optional: `pip install lancedb qdrant-edge-py usearch`. All get one vector and one number per row, and an index
on the number where they have one. A search asks for the nearest rows whose number is below a limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

BLOCK = 10_000
"""Rows that are inserted together."""
K = 10


class Peer(Protocol):
    """A vector store that holds the rows 0 … n − 1."""

    efforts: Sequence[int]
    """Settings of a search, from the fastest to the one that finds most."""

    @classmethod
    def build(cls, folder: Path, vectors: NDArray[np.float32], numbers: NDArray[np.float64]) -> Self:
        """Build it in an empty folder from (n, D) vectors of length 1 and (n,) numbers."""

    def search(self, query: NDArray[np.float32], below: float | None, effort: int) -> list[int]:
        """At most `K` rows with a number below the limit, nearest first."""


class LanceDB:
    """IVF with full vectors, 4 √n lists, and a B-tree; an effort is a number of lists. Filters come first."""

    efforts = (8, 16, 32, 64, 128, 256, 1024)

    def __init__(self, table: Any) -> None:
        self._table = table

    @classmethod
    def build(cls, folder: Path, vectors: NDArray[np.float32], numbers: NDArray[np.float64]) -> Self:
        """Build a table of half-precision vectors and its two indexes."""
        import lancedb
        import pyarrow as pa

        width = vectors.shape[1]
        kind = pa.list_(pa.float16(), width)
        schema = pa.schema([("row", pa.int64()), ("number", pa.float64()), ("vector", kind)])
        table = lancedb.connect(str(folder)).create_table("rows", schema=schema)
        for start in range(0, len(vectors), 10 * BLOCK):
            block = vectors[start : start + 10 * BLOCK].astype(np.float16)
            column = pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), width)
            rows = pa.array(np.arange(start, start + len(block)))
            values = pa.array(numbers[start : start + len(block)])
            table.add(pa.table([rows, values, column], schema=schema))
        lists = 4 * int(np.sqrt(len(vectors)))
        table.create_index(metric="dot", vector_column_name="vector", index_type="IVF_FLAT", num_partitions=lists)
        table.create_scalar_index("number", index_type="BTREE")
        return cls(table)

    def search(self, query: NDArray[np.float32], below: float | None, effort: int) -> list[int]:
        """Search `effort` lists."""
        asked = self._table.search(query).distance_type("dot").nprobes(effort).select(["row"]).limit(K)
        if below is not None:
            asked = asked.where(f"number < {below}", prefilter=True)
        return asked.to_arrow()["row"].to_pylist()


class QdrantEdge:
    """HNSW with 16 links and half-precision vectors, and an index on the number; an effort is `hnsw_ef`.

    Behind filters its planner chooses between the graph with ACORN and a scan of the rows that pass.
    """

    efforts = (32, 64, 128, 256, 512, 1024)

    def __init__(self, shard: Any) -> None:
        self._shard = shard

    @classmethod
    def build(cls, folder: Path, vectors: NDArray[np.float32], numbers: NDArray[np.float64]) -> Self:
        """Insert the rows, build the graph and the index."""
        import qdrant_edge as qdrant

        params = qdrant.EdgeVectorParams(
            size=vectors.shape[1], distance=qdrant.Distance.Dot, datatype=qdrant.VectorStorageDatatype.Float16
        )
        graph = qdrant.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=10_000)
        folder.mkdir(parents=True, exist_ok=True)
        optimizers = qdrant.EdgeOptimizersConfig(default_segment_number=1, max_segment_size=100_000_000)
        config = qdrant.EdgeConfig(vectors=params, hnsw_config=graph, optimizers=optimizers)
        shard = qdrant.EdgeShard.create(str(folder), config)
        kind = qdrant.PayloadSchemaType.Float
        shard.update(qdrant.UpdateOperation.create_field_index("number", kind))
        for start in range(0, len(vectors), BLOCK):
            block = vectors[start : start + BLOCK]
            points = [
                qdrant.Point(start + i, vector.tolist(), {"number": float(numbers[start + i])})
                for i, vector in enumerate(block)
            ]
            shard.update(qdrant.UpdateOperation.upsert_points(points))
        shard.flush()
        shard.optimize()
        return cls(shard)

    def search(self, query: NDArray[np.float32], below: float | None, effort: int) -> list[int]:
        """Search the graph with `effort` candidates."""
        import qdrant_edge as qdrant

        chosen = None
        if below is not None:
            chosen = qdrant.Filter(must=[qdrant.FieldCondition(key="number", range=qdrant.RangeFloat(lt=below))])
        params = qdrant.SearchParams(hnsw_ef=effort, acorn=qdrant.AcornSearchParams(enable=True))
        nearest = qdrant.Query.Nearest(query.tolist())
        asked = qdrant.SearchRequest(query=nearest, limit=K, filter=chosen, params=params, with_payload=False)
        return [int(point.id) for point in self._shard.search(asked)]


class USearch:
    """HNSW with 16 links and half-precision vectors; an effort is the number of candidates.

    It has no filters in Python. Searches behind a filter ask for more rows until enough of them pass.
    """

    efforts = (32, 64, 128, 256, 512, 1024)

    def __init__(self, index: Any, numbers: NDArray[np.float64]) -> None:
        self._index, self._numbers = index, numbers

    @classmethod
    def build(cls, folder: Path, vectors: NDArray[np.float32], numbers: NDArray[np.float64]) -> Self:
        """Build the graph, in memory."""
        from usearch.index import Index

        index = Index(ndim=vectors.shape[1], metric="ip", dtype="f16", connectivity=16, expansion_add=128)
        index.add(np.arange(len(vectors)), vectors)
        return cls(index, numbers)

    def search(self, query: NDArray[np.float32], below: float | None, effort: int) -> list[int]:
        """Ask for more and more rows until `K` of them pass the filter."""
        self._index.expansion_search = effort
        count = K
        while True:
            rows = self._index.search(query, count).keys.astype(np.int64)
            passed = rows if below is None else rows[self._numbers[rows] < below]
            if len(passed) >= K or count >= len(self._numbers):
                return passed[:K].tolist()
            count = min(4 * count, len(self._numbers))


PEERS: dict[str, type[Peer]] = {"lancedb": LanceDB, "qdrant-edge": QdrantEdge, "usearch": USearch}
"""Name → class."""
