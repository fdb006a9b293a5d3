"""The result of a screening: the hits of all queries, what became of each query, and a summary for people."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from crystalign import storage
from crystalign.index.manifest import IndexManifest
from crystalign.properties import PredictedProperty
from crystalign_serve.searching import Outcome

OUTCOMES = pa.schema(
    {
        "query_number": pa.int64(),
        "query": pa.string(),
        "refused": pa.string(),
        "problem": pa.string(),
        "hits": pa.int64(),
        "allowed": pa.int64(),
        "exhausted": pa.bool_(),
        "ordered_by": pa.string(),
        "probability": pa.float64(),
        "level": pa.string(),
        "confidence": pa.string(),
        "understood": pa.list_(pa.string()),
        "compared": pa.string(),
        "notices": pa.list_(pa.string()),
    }
)
"""Columns of the outcomes: `refused` is the reason of a query that could not be used, null for the others; `allowed`
is the number of rows of the index that pass the filters; the confidence is that of the service."""
_FIXED = {
    "query_number": pa.int64(),
    "query": pa.string(),
    "rank": pa.int64(),
    "id": pa.string(),
    "score": pa.float64(),
    "formula": pa.string(),
    "spacegroup_number": pa.int64(),
    "n_sites": pa.int64(),
    "source": pa.string(),
    "licence": pa.string(),
    "remarks": pa.string(),
    "hypothetical": pa.bool_(),
    "tier": pa.int64(),
    "strain": pa.float64(),
    "embedding_score": pa.float64(),
    "probability": pa.float64(),
    "level": pa.string(),
}


class Concluded(NamedTuple):
    """A query at the end of a screening."""

    name: str
    """Name of the query."""
    found: Outcome | None = None
    """Its outcome; None if it was refused."""
    results: Sequence[dict[str, Any]] = ()
    """Its results, as in the response of a service."""
    confidence: dict[str, Any] | None = None
    """How sure they are, likewise."""
    reason: str | None = None
    """Short word for why it was refused."""
    problem: str | None = None
    """Why it was refused."""


def hit_schema(manifest: IndexManifest) -> pa.Schema:
    """Columns of the hits: those of a result of the service, with those of known and predicted properties."""
    return pa.schema({**_FIXED, **dict.fromkeys(manifest.number_columns, pa.float64())})


def hit_table(concluded: Sequence[Concluded], start: int, manifest: IndexManifest) -> pa.Table:
    """The hits of a block of queries, whose first has the number `start`, in an index with this manifest."""
    predictions = {spec.column: spec for spec in manifest.predictions}
    rows = [row for number, one in enumerate(concluded, start) for row in _hits(number, one, predictions)]
    return pa.Table.from_pylist(rows, hit_schema(manifest))


def outcome_table(concluded: Sequence[Concluded], start: int) -> pa.Table:
    """One row per query of a block, whose first has the number `start`."""
    return pa.Table.from_pylist([_outcome(n, one) for n, one in enumerate(concluded, start)], OUTCOMES)


def _hits(number: int, one: Concluded, predictions: Mapping[str, PredictedProperty]) -> Iterator[dict[str, Any]]:
    sure = one.confidence or {}
    for result in one.results:
        fixed = {name: result.get(name) for name in _FIXED}
        match = result["match"] or {}
        own = {"query_number": number, "query": one.name, "strain": match.get("strain")}
        own |= {"embedding_score": match.get("embedding_score")}
        own |= {"probability": sure.get("probability"), "level": sure.get("level")}
        known = {entry["key"]: entry["value"] for entry in result["properties"]}
        predicted = {
            column: entry[part]
            for entry in result["predictions"]
            for part, column in predictions[entry["key"]].columns.items()
        }
        yield {**fixed, **own, **known, **predicted}


def _outcome(number: int, one: Concluded) -> dict[str, Any]:
    fixed = {"query_number": number, "query": one.name, "refused": one.reason, "problem": one.problem}
    found = one.found
    if found is None:
        return {**fixed, "hits": 0}
    sure, understood = one.confidence or {}, found.understood
    return {
        **fixed,
        "hits": len(one.results),
        "allowed": found.best.allowed,
        "exhausted": found.exhausted,
        "ordered_by": found.ordered_by,
        "probability": sure.get("probability"),
        "level": sure.get("level"),
        "confidence": sure.get("text"),
        "understood": None if understood is None else [chip.label for chip in understood.chips],
        "compared": None if understood is None else understood.rest,
        "notices": [*(notice for part in found.parts for notice in part.notices), *found.notices],
    }


def write_all(tables: Iterable[pa.Table], schema: pa.Schema, uri: str) -> tuple[storage.FileEntry, int]:
    """Write tables as one Parquet file and verify it; one table is in memory at a time.

    Returns:
        The entry of the file, with its name as path, and its number of rows.

    Raises:
        VerificationError: the data read back differ from what was written.
    """
    rows = 0
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder, "all.parquet")
        with pq.ParquetWriter(local, schema, compression="zstd", write_page_checksum=True) as writer:
            for table in tables:
                writer.write_table(table.cast(schema))
                rows += len(table)
        return storage.upload(local, uri), rows
