r"""Exact nearest-neighbour search in a segment, filtered before the search, and the merge of several.

The score of a stored vector c for a query q is

    s(q, c) = round(Σ_d q_d c_d, 7)

in float64 over the stored half-precision values. FAISS finds candidates in single precision, with
enough of a margin that its rounding cannot hide one; the scores above then order them, and rows of
equal score are ordered by id. An answer therefore depends neither on the number of segments nor on
the vector instructions of the machine that found it.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.errors import DatasetError, QueryError, VerificationError
from crystalign.index.embeddings import with_remarks
from crystalign.index.filters import Fields, make_fields, parse_filter
from crystalign.index.manifest import SegmentEntry
from crystalign.properties import PropertySpec

EMBEDDING = "embedding"
DECIMALS = 7
"""Scores are rounded here, far below what half precision resolves: equal means equal on any machine."""

_FILTERS_KEPT = 64
_EXTRA = 64


class Found(NamedTuple):
    """The best rows for one query, best first."""

    ids: list[str]
    scores: NDArray[np.float64]
    """(n,), descending; equal scores are ordered by id."""
    rows: NDArray[np.int64]
    """(n,) positions in the segment; after a merge, (n,) positions in the answer they came from."""
    allowed: int
    """How many rows the filter lets through: with fewer than k of them, the answer holds them all."""
    source: NDArray[np.int64]
    """(n,) which of the merged answers a row came from; zeros before a merge."""


class Allowed(NamedTuple):
    """The rows that a filter lets through."""

    bits: NDArray[np.uint8]
    """(⌈n / 8⌉,) row r is bit r % 8 of byte r // 8."""
    n: int
    """How many they are."""

    def holds(self, rows: NDArray[np.int64]) -> bool:
        """Whether all of these rows are allowed."""
        return bool(((self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1).all())


class Segment:
    """Vectors and metadata of one or several segment files, held in memory as one.

    Args:
        table: metadata columns, one row per vector; `id` is unique.
        vectors: (n, D) half-precision vectors, as stored.
        properties: which columns of `table` are properties.
    """

    def __init__(self, table: pa.Table, vectors: NDArray[np.float16], properties: Sequence[PropertySpec]) -> None:
        import faiss

        assert len(table) == len(vectors), (len(table), vectors.shape)
        self.table = with_remarks(table).combine_chunks()
        self.fields: Fields = make_fields(properties)
        self.dimension = int(vectors.shape[1])
        self._index = faiss.IndexScalarQuantizer(
            self.dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        for start in range(0, len(vectors), 65_536):
            self._index.add(np.ascontiguousarray(vectors[start : start + 65_536], dtype=np.float32))
        self._largest = float(np.sqrt((vectors.astype(np.float32) ** 2).sum(1).max())) if len(vectors) else 0.0
        self.allowed = functools.lru_cache(_FILTERS_KEPT)(self._allowed)
        self._expression = functools.lru_cache(_FILTERS_KEPT)(functools.partial(parse_filter, fields=self.fields))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.table)

    @classmethod
    def load(cls, uri: str, entries: Sequence[SegmentEntry], properties: Sequence[PropertySpec]) -> Self:
        """Read segment files of the index at `uri` and check them against its manifest.

        Raises:
            VerificationError: a file is not the one the manifest names.
        """
        import hashlib

        tables = []
        for entry in entries:
            data = storage.read_bytes(storage.join(uri, entry.path))
            digest = hashlib.sha256(data).hexdigest()
            if digest != entry.sha256:
                message = (
                    f"{entry.path} of {uri} has sha256 {digest}, the manifest says {entry.sha256}: rebuild the index"
                )
                raise VerificationError(message)
            tables.append(pq.read_table(io.BytesIO(data)))
        table = pa.concat_tables(tables)
        return cls(table.drop_columns([EMBEDDING]), embedding_matrix(table), properties)

    # --- searching --------------------------------------------------------------------------------------------------

    def search(self, queries: NDArray[np.floating[Any]], k: int, filter_text: str | None = None) -> list[Found]:
        """The k best rows for each query, among those that the filter allows.

        Args:
            queries: (q, D), finite.
            k: at least 1.
            filter_text: OPTIMADE; evaluated before the search.

        Returns:
            One answer per query, with min(k, allowed) rows.

        Raises:
            QueryError: a filter or a query that cannot be used.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension or not np.isfinite(queries).all() or k < 1:
            message = f"queries of shape {queries.shape} and k = {k}; expected finite (q, {self.dimension}) and k >= 1"
            raise QueryError(message, reason="bad-query")
        allowed = self.allowed(filter_text)
        found = [self._search_one(query, min(k, allowed.n), allowed) for query in queries]
        for answer in found:
            self._check(answer, filter_text)
        return found

    def _allowed(self, filter_text: str | None) -> Allowed:
        mask = np.ones(len(self), dtype=bool)
        if filter_text is not None:
            mask = evaluate(self.table, self._expression(filter_text))
        return Allowed(np.packbits(mask, bitorder="little"), int(mask.sum()))

    def _search_one(self, query: NDArray[np.float32], k: int, allowed: Allowed) -> Found:
        """Fetch more candidates until no row left out could belong to the k best, its rounding included."""
        none = np.empty(0, dtype=np.int64)
        if k == 0:
            return Found([], np.empty(0), none, allowed.n, none)
        # Two sums of D products in single precision, each wrong by at most D·2⁻²⁴·|q||c|, and the final rounding.
        margin = self.dimension * 2.0**-23 * float(np.linalg.norm(query)) * self._largest + 10.0**-DECIMALS
        fetch = min(allowed.n, k + _EXTRA)
        while True:
            rough, rows = self._candidates(query, fetch, allowed)
            scores = self._scores(query, rows)
            if fetch == allowed.n or rough[-1] < np.partition(scores, -k)[-k] - margin:
                break
            fetch = min(allowed.n, fetch * 8)
        possible = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        ids = self.table["id"].take(pa.array(rows[possible])).to_pylist()
        best = sorted(range(len(possible)), key=lambda i: (-scores[possible[i]], ids[i]))[:k]
        chosen = possible[best]
        return Found([ids[i] for i in best], scores[chosen], rows[chosen], allowed.n, np.zeros(k, dtype=np.int64))

    def _candidates(
        self, query: NDArray[np.float32], fetch: int, allowed: Allowed
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        import faiss

        params = None
        if allowed.n < len(self):
            selector = faiss.IDSelectorBitmap(allowed.bits)  # type: ignore[call-arg, arg-type]
            params = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        rough, rows = self._index.search(query[None], fetch, params=params)
        if (rows[0] < 0).any() or not allowed.holds(rows[0]):
            message = "the vector library returned a row that the filter forbids"
            raise AssertionError(message)
        return rough[0], rows[0]

    def _scores(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        products = self.vectors(rows).astype(np.float64) * query.astype(np.float64)  # (n, D)
        scores: NDArray[np.float64] = np.round(products.sum(axis=1), DECIMALS) + 0.0  # + 0.0: no negative zero
        return scores

    def _check(self, found: Found, filter_text: str | None) -> None:
        """The predicate once more, on the rows of the answer themselves."""
        if filter_text is None or not found.ids:
            return
        rows = self.table.take(pa.array(found.rows))
        if rows["id"].to_pylist() != found.ids or not evaluate(rows, self._expression(filter_text)).all():
            message = f"a result does not satisfy {filter_text!r}"
            raise AssertionError(message)

    # --- rows -------------------------------------------------------------------------------------------------------

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, D) stored vectors."""
        import faiss

        codes = faiss.rev_swig_ptr(self._index.codes.data(), len(self) * 2 * self.dimension)
        stored: NDArray[np.float16] = codes.view(np.float16).reshape(len(self), self.dimension)[rows]
        return stored

    def row_of(self, material_id: str) -> int | None:
        """Where an id stands; None if it is not here."""
        import pyarrow.compute as pc

        row = pc.index(self.table["id"], material_id).as_py()
        return None if row < 0 else int(row)

    def records(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The metadata of rows, as the segment's columns."""
        records: list[dict[str, Any]] = self.table.take(pa.array(rows)).to_pylist()
        return records


def evaluate(table: pa.Table, expression: Any) -> NDArray[np.bool_]:
    """(n,) which rows satisfy an expression; those for which it cannot be decided do not."""
    from pyarrow import acero

    steps = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
        acero.Declaration("project", acero.ProjectNodeOptions([expression], ["allowed"])),
    ]
    column = acero.Declaration.from_sequence(steps).to_table(use_threads=False)["allowed"]  # one thread keeps the order
    mask: NDArray[np.bool_] = column.fill_null(False).to_numpy().astype(bool)
    return mask


def embedding_matrix(table: pa.Table) -> NDArray[np.float16]:
    """(n, D) vectors of the `embedding` column.

    Raises:
        DatasetError: a vector is missing or not finite.
    """
    column = table[EMBEDDING].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], type=column.type)
    values = column.flatten().to_numpy(zero_copy_only=False)
    if column.null_count or len(values) != len(column) * column.type.list_size or not np.isfinite(values).all():
        message = "an embedding is missing or not finite: embed the dataset again"
        raise DatasetError(message)
    matrix: NDArray[np.float16] = values.astype(np.float16).reshape(len(column), column.type.list_size)
    return matrix


def merge(answers: Sequence[Found], k: int) -> Found:
    """The k best of several answers to one query: score descending, then id ascending.

    `rows` of the result are positions inside the answer that `source` names.
    """
    entries = sorted(_entries(answers))[:k]
    scores = np.array([-entry[0] for entry in entries], dtype=np.float64)
    source = np.array([entry[2] for entry in entries], dtype=np.int64)
    rows = np.array([entry[3] for entry in entries], dtype=np.int64)
    return Found([entry[1] for entry in entries], scores, rows, sum(a.allowed for a in answers), source)


def _entries(answers: Sequence[Found]) -> Iterator[tuple[float, str, int, int]]:
    for number, answer in enumerate(answers):
        for position, (name, score) in enumerate(zip(answer.ids, answer.scores.tolist(), strict=True)):
            yield (-score, name, number, position)
