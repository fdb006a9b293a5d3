"""What the steps of a screening store between them: encoded queries, and the answers of groups of segments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from crystalign.index.search import Found, Segment
from crystalign.text_query.chips import Understanding
from crystalign_serve.backend import IndexAnswer, IndexSearch, Record, ShardAnswer, merge_shards
from crystalign_serve.queries import QueryPart
from crystalign_serve.query_fields import carried_of, restored, spec_of
from crystalign_serve.sandbox.wire import Message, pack, unpack
from crystalign_serve.searching import EncodedQuery

_UNDERSTANDING = TypeAdapter(Understanding)
_WORDS = "word_"


class Encoded(NamedTuple):
    """A query after the first step: encoded, or refused."""

    name: str
    """Name of the query."""
    query: EncodedQuery | None = None
    """The encoded query."""
    reason: str | None = None
    """Short word for why it was refused."""
    problem: str | None = None
    """Why it was refused."""


# --- encoded queries --------------------------------------------------------------------------------------------------


def encoded_table(queries: Sequence[Encoded]) -> pa.Table:
    """A table with one row per query: name, vector, searches, the rest of the query, or why it was refused."""
    vectors = [None if one.query is None else one.query.searches[0].vector for one in queries]
    columns = {
        "name": pa.array([one.name for one in queries], pa.string()),
        "reason": pa.array([one.reason for one in queries], pa.string()),
        "problem": pa.array([one.problem for one in queries], pa.string()),
        "vector": pa.array(vectors, pa.list_(pa.float32())),
        "searches": pa.array(
            [None if one.query is None else _searches_json(one.query) for one in queries], pa.string()
        ),
        "query": pa.array([None if one.query is None else _packed(one.query) for one in queries], pa.large_binary()),
    }
    return pa.table(columns)


def searches_of(table: pa.Table) -> list[tuple[IndexSearch, ...]]:
    """The searches of each query of `encoded_table`; none for refused ones."""
    vectors, texts = table.column("vector").to_pylist(), table.column("searches").to_pylist()
    return [() if text is None else _searches(text, vector) for text, vector in zip(texts, vectors, strict=True)]


def encoded_queries(table: pa.Table) -> list[Encoded]:
    """The queries of `encoded_table`. Features and curves are not stored."""
    names, reasons, problems, packed = (table.column(n).to_pylist() for n in ("name", "reason", "problem", "query"))
    rows = zip(names, reasons, problems, packed, searches_of(table), strict=True)
    return [
        Encoded(name, None if data is None else _unpacked(data, searches), reason, problem)
        for name, reason, problem, data, searches in rows
    ]


def _searches_json(query: EncodedQuery) -> str:
    return json.dumps([[s.k, s.filter_text, s.words, s.modalities] for s in query.searches])


def _searches(text: str, vector: list[float]) -> tuple[IndexSearch, ...]:
    array = np.asarray(vector, np.float32)
    return tuple(
        IndexSearch(array, k, filter_text, words, tuple(modalities))
        for k, filter_text, words, modalities in json.loads(text)
    )


def _packed(query: EncodedQuery) -> bytes:
    """Everything of a query but its searches, as bytes.

    Raises:
        TypeError: a modality has a matcher, but its `QuerySpec` does not say what of a value the matcher needs.
    """
    arrays: dict[str, NDArray[Any]] = {}
    parts = []
    for number, part in enumerate(query.parts):
        spec = spec_of(part.modality)
        if spec is not None and spec.matcher is not None and spec.carried is None:
            raise TypeError(f"the QuerySpec of {part.modality!r} has a `matcher`, but not `carried`")
        own, numbers = carried_of(spec, part.value)
        arrays |= {f"{number}.{name}": array for name, array in own.items()}
        fields = {"name": part.name, "modality": part.modality, "is_id": part.features is None, "numbers": numbers}
        parts.append({**fields, "notices": part.notices, "typed": part.typed, "has_value": bool(own or numbers)})
    understood = None if query.understood is None else _UNDERSTANDING.dump_python(query.understood, mode="json")
    rest = {"parts": parts, "understood": understood, "typed": query.typed, "notices": query.notices}
    return b"".join(pack(Message(rest, arrays)))


def _unpacked(data: bytes, searches: tuple[IndexSearch, ...]) -> EncodedQuery:
    fields, arrays = unpack(data)
    parts = []
    for number, part in enumerate(fields["parts"]):
        own = {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{number}.")}
        value = restored(spec_of(part["modality"]), own, part["numbers"]) if part["has_value"] else None
        parts.append(
            QueryPart(
                part["name"],
                part["modality"],
                None if part["is_id"] else {},
                None,
                value,
                tuple(part["notices"]),
                typed=part["typed"],
            )
        )
    understood = None if fields["understood"] is None else _UNDERSTANDING.validate_python(fields["understood"])
    return EncodedQuery(parts, understood, fields["typed"], searches, list(fields["notices"]))


# --- answers of segments ----------------------------------------------------------------------------------------------


class GroupAnswer(NamedTuple):
    """The answer of a group of segments to one search."""

    query: int
    """Number of the query in its block."""
    tier: int
    """Number of the tier."""
    hits: Found
    """Results by vector."""
    by_words: Found | None
    """Results by words; None for a search without words."""


def answer_tables(segment: Segment, answers: Sequence[GroupAnswer]) -> tuple[pa.Table, pa.Table]:
    """The answers of a group of segments to some searches, as two tables.

    Returns:
        One row per search, whose lists `rows` point into the second table; and the metadata of all rows that were
        found.
    """
    every = [hits.rows for one in answers for hits in (one.hits, one.by_words) if hits is not None]
    rows = np.unique(np.concatenate([np.empty(0, np.int64), *every]))
    columns: dict[str, list[Any]] = {
        "query": [one.query for one in answers],
        "tier": [one.tier for one in answers],
        "allowed": [one.hits.allowed for one in answers],
    }
    for prefix, chosen in (("", [one.hits for one in answers]), (_WORDS, [one.by_words for one in answers])):
        columns[f"{prefix}rows"] = [None if hits is None else np.searchsorted(rows, hits.rows) for hits in chosen]
        columns[f"{prefix}scores"] = [None if hits is None else hits.scores for hits in chosen]
        columns[f"{prefix}similarities"] = [None if hits is None else hits.similarities for hits in chosen]
    types = {"rows": pa.list_(pa.int64()), "scores": pa.list_(pa.float64()), "similarities": pa.list_(pa.float64())}
    arrays = {
        name: pa.array(values, types.get(name.removeprefix(_WORDS), pa.int64())) for name, values in columns.items()
    }
    return pa.table(arrays), segment.table.take(pa.array(rows))


class _Hits(NamedTuple):
    """Results of one search in one group, without metadata."""

    scores: NDArray[np.float64]
    rows: NDArray[np.int64]
    similarities: NDArray[np.float64] | None


class Group:
    """The stored answers of one group of segments to a block of queries.

    Args:
        searches: as `answer_tables` returns it.
        rows: likewise.
    """

    def __init__(self, searches: pa.Table, rows: pa.Table) -> None:
        self._rows = rows
        self._place = dict(
            zip(
                zip(*(searches.column(n).to_pylist() for n in ("query", "tier")), strict=True),
                range(len(searches)),
                strict=True,
            )
        )
        self._allowed = searches.column("allowed").to_pylist()
        self._columns = {name: searches.column(name).combine_chunks() for name in searches.column_names[3:]}
        self._records: dict[int, Record] = {}

    def hits(self, key: tuple[int, int], prefix: str = "") -> _Hits | None:
        """The results of a search by vector or, with the prefix `word_`, by words."""
        place = self._place[key]
        scores, rows, similarities = (self._columns[prefix + n][place] for n in ("scores", "rows", "similarities"))
        if not scores.is_valid:
            return None
        values = similarities.values.to_numpy() if similarities.is_valid else None
        return _Hits(scores.values.to_numpy(), rows.values.to_numpy(), values)

    def keep(self, rows: NDArray[np.int64]) -> None:
        """Convert the metadata of some rows, which `answer` will need."""
        new = np.array(sorted(set(rows.tolist()) - self._records.keys()), np.int64)
        self._records |= zip(new.tolist(), self._rows.take(pa.array(new)).to_pylist(), strict=True)

    def answer(self, key: tuple[int, int], least: float, least_words: float) -> ShardAnswer:
        """The answer to a search, without the results below the given scores."""
        hits, by_words = self._found(key, "", least), self._found(key, _WORDS, least_words)
        assert hits is not None
        words = [] if by_words is None else by_words[1]
        return ShardAnswer(hits[0], hits[1], None if by_words is None else by_words[0], words)

    def _found(self, key: tuple[int, int], prefix: str, least: float) -> tuple[Found, list[Record]] | None:
        hits = self.hits(key, prefix)
        if hits is None:
            return None
        n = int((hits.scores >= least).sum())  # they descend
        scores, rows = hits.scores[:n], hits.rows[:n]
        self.keep(rows)
        records = [self._records[row] for row in rows.tolist()]
        similarities = None if hits.similarities is None else hits.similarities[:n]
        ids, zeros = [record["id"] for record in records], np.zeros(n, np.int64)
        return Found(ids, scores, rows, self._allowed[self._place[key]], zeros, similarities), records


def merged(groups: Sequence[Group], number: int, searches: Sequence[IndexSearch]) -> list[IndexAnswer]:
    """The answers of the index to the searches of a query, merged over all groups of segments."""
    return list(_merged(groups, number, searches))


def _merged(groups: Sequence[Group], number: int, searches: Sequence[IndexSearch]) -> Iterator[IndexAnswer]:
    for tier, search in enumerate(searches):
        key = (number, tier)
        least, least_words = (_least(groups, key, prefix, search.depth) for prefix in ("", _WORDS))
        yield merge_shards([group.answer(key, least, least_words) for group in groups], search, len(groups))


def _least(groups: Sequence[Group], key: tuple[int, int], prefix: str, depth: int) -> float:
    """The score of the last of the best `depth` results of all groups: results below it are not among them."""
    found = [hits.scores for group in groups if (hits := group.hits(key, prefix)) is not None]
    scores = np.concatenate([np.empty(0), *found])
    return float(np.partition(scores, -depth)[-depth]) if len(scores) > depth else -np.inf
