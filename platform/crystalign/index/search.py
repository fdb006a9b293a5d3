r"""Exact nearest-neighbour search in a segment, with filters applied before the search, and merging of results.

The score of a stored vector c for a query q is

    s(q, c) = round(Σ_d q_d c_d, 7)

in float64 over the stored half-precision values. A vector store finds candidates by approximate scores, with a
margin that accounts for their rounding errors. The candidates are then ranked by s, and rows of equal score by id.
Results therefore depend neither on the number of segments nor on the vector instructions of the machine.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crystalign import storage
from crystalign.errors import QueryError, VerificationError
from crystalign.index.embeddings import EMBEDDING, embedding_matrix, with_fact_columns, with_remarks
from crystalign.index.filters import Fields, make_fields, parse_filter
from crystalign.index.lexical import LexicalIndex, WordCounts
from crystalign.index.manifest import IndexManifest, SegmentEntry
from crystalign.index.vector_store import DEFAULT_KIND, EXTRA, VECTOR_STORES, Allowed, VectorStore
from crystalign.properties import PropertySpec

DECIMALS = 7
"""Scores are rounded to this many decimals, far below the resolution of half precision, so that equal scores are equal
on every machine."""

MAX_TIES = 20_000
"""Number of rows of equal score that are compared further in a search by words."""
_FILTERS_KEPT = 64


class Found(NamedTuple):
    """The best rows for one query, best first."""

    ids: list[str]
    """(n,) ids of the materials."""
    scores: NDArray[np.float64]
    """(n,) scores, descending; equal scores are ordered by id."""
    rows: NDArray[np.int64]
    """(n,) positions in the segment; after a merge, positions in the result that `source` names."""
    allowed: int
    """Number of rows that satisfy the filter. If it is less than k, the result contains all of them."""
    source: NDArray[np.int64]
    """(n,) index of the merged result that a row came from; zeros before a merge."""
    similarities: NDArray[np.float64] | None = None
    """(n,) for a search by words: cosine similarities, which order rows of equal score. None where the scores are the
    similarities."""


class Segment:
    """Vectors and metadata of one or several segment files, held in memory as one.

    Args:
        table: metadata columns, one row per vector; `id` is unique.
        vectors: (n, D) half-precision vectors, as stored.
        properties: the property columns of `table`.
        kind: name of the vector store.
        saved: for each segment file, the files that its vector store saved.
        words: for each segment file, its word counts and number of rows; None if the index has no texts.
        has_facts: whether the table has the columns that follow from captions with facts.
    """

    def __init__(
        self,
        table: pa.Table,
        vectors: NDArray[np.float16],
        properties: Sequence[PropertySpec],
        *,
        kind: str = DEFAULT_KIND,
        saved: Sequence[Mapping[str, bytes]] = (),
        words: Sequence[tuple[WordCounts, int]] | None = None,
        has_facts: bool = False,
    ) -> None:
        assert len(table) == len(vectors), (len(table), vectors.shape)
        self.table = with_remarks(table).combine_chunks()
        self.fields: Fields = make_fields(properties, has_facts=has_facts)
        self.words = None if words is None else LexicalIndex(words)
        self.dimension = int(vectors.shape[1])
        self.store: VectorStore = VECTOR_STORES[kind].load(vectors, saved)
        self.allowed = functools.lru_cache(_FILTERS_KEPT)(self._allowed)
        self._expression = functools.lru_cache(_FILTERS_KEPT)(functools.partial(parse_filter, fields=self.fields))

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.table)

    @classmethod
    def load(
        cls,
        uri: str,
        manifest: IndexManifest,
        entries: Sequence[SegmentEntry] | None = None,
    ) -> Self:
        """Read segment files of the index at `uri` and check them against its manifest.

        Args:
            uri: URI of the index.
            manifest: manifest of the index.
            entries: the segments to read; None means all.

        Raises:
            VerificationError: a file is missing or differs from the manifest.
            ConfigError: there is no vector store of this kind.
        """
        entries = manifest.segments if entries is None else entries
        tables = [pq.read_table(io.BytesIO(_verified(uri, entry))) for entry in entries]
        saved = [{file.path.rpartition("/")[2]: _verified(uri, file) for file in entry.store} for entry in entries]
        if manifest.has_facts:
            tables = [with_fact_columns(one) for one in tables]
        table = pa.concat_tables(tables, promote_options="default")  # where a segment lacked them, they come last
        vectors = embedding_matrix(table)
        words = None if manifest.lexicon is None else [(_word_counts(uri, entry), entry.rows) for entry in entries]
        return cls(
            table.drop_columns([EMBEDDING]),
            vectors,
            manifest.properties,
            kind=manifest.kind,
            saved=saved,
            words=words,
            has_facts=manifest.has_facts,
        )

    # --- searching --------------------------------------------------------------------------------------------------

    def search(self, queries: NDArray[np.floating[Any]], k: int, filter_text: str | None = None) -> list[Found]:
        """The k best rows for each query, among those that satisfy the filter.

        Args:
            queries: (q, D), finite.
            k: number of rows, at least 1.
            filter_text: OPTIMADE filter; evaluated before the search.

        Returns:
            One result per query, with min(k, allowed) rows.

        Raises:
            QueryError: the filter cannot be read, or the queries have a wrong shape or are not finite.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension or not np.isfinite(queries).all() or k < 1:
            raise QueryError(
                f"queries of shape {queries.shape} and k = {k}; expected finite (q, {self.dimension}) and k >= 1",
                reason="bad-query",
            )
        allowed = self.allowed(filter_text)
        results = [self._search_one(query, min(k, allowed.n), allowed) for query in queries]
        for result in results:
            self._check(result, filter_text)
        return results

    def search_words(
        self, weights: Mapping[str, float], query: NDArray[np.floating[Any]], k: int, filter_text: str | None = None
    ) -> Found:
        """The k best rows by the words of their texts, among those that satisfy the filter.

        Rows of equal score are ordered by the similarity of their vectors to a query. If more than `MAX_TIES` rows
        share the last place, only the first of them, by position, compete for it.

        Args:
            weights: word → weight, from `Lexicon.weights`.
            query: (D,), finite.
            k: number of rows, at least 1.
            filter_text: OPTIMADE filter; evaluated before the search.

        Returns:
            At most k rows, each of which holds at least one of the words.

        Raises:
            QueryError: the filter cannot be read.
        """
        allowed = self.allowed(filter_text)
        scores = np.zeros(len(self)) if self.words is None else np.round(self.words.scores(weights), DECIMALS)
        mask = np.unpackbits(allowed.bits, bitorder="little", count=len(self)).astype(bool)
        rows = np.flatnonzero(mask & (scores > 0.0))
        if len(rows) > k:
            least = np.partition(scores[rows], -k)[-k]
            tied = rows[scores[rows] == least]
            rows = np.concatenate([rows[scores[rows] > least], tied[:MAX_TIES]])
        similarities = self._scores(np.asarray(query, np.float32), rows)
        ids = self.table["id"].take(pa.array(rows)).to_pylist()
        order = sorted(range(len(rows)), key=lambda i: (-scores[rows[i]], -similarities[i], ids[i]))[:k]
        best = rows[order]
        hits = Found(
            [ids[i] for i in order], scores[best], best, allowed.n, np.zeros(len(best), np.int64), similarities[order]
        )
        self._check(hits, filter_text)
        return hits

    def _allowed(self, filter_text: str | None) -> Allowed:
        mask = np.ones(len(self), dtype=bool)
        if filter_text is not None:
            mask = evaluate(self.table, self._expression(filter_text))
        return Allowed(np.packbits(mask, bitorder="little"), int(mask.sum()))

    def _search_one(self, query: NDArray[np.float32], k: int, allowed: Allowed) -> Found:
        """Fetch candidates until no other row can be among the k best, even with the largest rounding error."""
        none = np.empty(0, dtype=np.int64)
        if k == 0:
            return Found([], np.empty(0), none, allowed.n, none)
        margin = self.store.margin(query)
        fetch = min(allowed.n, k + EXTRA)
        while True:
            rough, rows = self._candidates(query, fetch, allowed)
            scores = self._scores(query, rows)
            if fetch == allowed.n or margin is None:
                break
            if rough[-1] < np.partition(scores, -k)[-k] - margin - 10.0**-DECIMALS:  # includes the final rounding
                break
            fetch = min(allowed.n, fetch * 8)
        k = min(k, len(rows))
        possible = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        ids = self.table["id"].take(pa.array(rows[possible])).to_pylist()
        best = sorted(range(len(possible)), key=lambda i: (-scores[possible[i]], ids[i]))[:k]
        chosen = possible[best]
        return Found([ids[i] for i in best], scores[chosen], rows[chosen], allowed.n, np.zeros(k, dtype=np.int64))

    def _candidates(
        self, query: NDArray[np.float32], fetch: int, allowed: Allowed
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rough, rows = self.store.candidates(query, fetch, allowed if allowed.n < len(self) else None)
        if (rows < 0).any() or not allowed.holds(rows):
            raise AssertionError(f"the vector store {type(self.store).__name__} returned a row that the filter forbids")
        return rough, rows

    def _scores(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        products = self.vectors(rows).astype(np.float64) * query.astype(np.float64)  # (n, D)
        scores: NDArray[np.float64] = np.round(products.sum(axis=1), DECIMALS) + 0.0  # + 0.0: no negative zero
        return scores

    def _check(self, result: Found, filter_text: str | None) -> None:
        """Evaluate the filter again on the rows of the result."""
        if filter_text is None or not result.ids:
            return
        rows = self.table.take(pa.array(result.rows))
        if rows["id"].to_pylist() != result.ids or not evaluate(rows, self._expression(filter_text)).all():
            raise AssertionError(f"a result does not satisfy {filter_text!r}")

    # --- rows -------------------------------------------------------------------------------------------------------

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, D) the stored vectors of these rows."""
        return self.store.vectors(rows)

    def row_of(self, material_id: str) -> int | None:
        """The row of an id; None if it is not in this segment."""
        import pyarrow.compute as pc

        row = pc.index(self.table["id"], material_id).as_py()
        return None if row < 0 else int(row)

    def records(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The metadata of rows: column → value."""
        records: list[dict[str, Any]] = self.table.take(pa.array(rows)).to_pylist()
        return records


def _word_counts(uri: str, entry: SegmentEntry) -> WordCounts:
    return WordCounts.of([]) if entry.words is None else WordCounts.load(_verified(uri, entry.words))


def _verified(uri: str, entry: storage.FileEntry) -> bytes:
    try:
        return storage.read_verified(uri, entry)
    except VerificationError as error:
        raise VerificationError(f"{error}: rebuild the index") from error


def evaluate(table: pa.Table, expression: Any) -> NDArray[np.bool_]:
    """(n,) which rows satisfy an expression; rows for which it is null do not."""
    from pyarrow import acero

    steps = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
        acero.Declaration("project", acero.ProjectNodeOptions([expression], ["allowed"])),
    ]
    column = acero.Declaration.from_sequence(steps).to_table(use_threads=False)["allowed"]  # one thread keeps the order
    mask: NDArray[np.bool_] = column.fill_null(False).to_numpy().astype(bool)
    return mask


def merge(answers: Sequence[Found], k: int) -> Found:
    """Merge several results of one query: the k best, by descending score, then similarity, then ascending id.

    `rows` of the merged result are positions in the result that `source` names.
    """
    entries = sorted(_entries(answers))[:k]
    scores = np.array([-entry[0] for entry in entries], dtype=np.float64)
    similarities = np.array([-entry[1] for entry in entries], dtype=np.float64)
    source = np.array([entry[3] for entry in entries], dtype=np.int64)
    rows = np.array([entry[4] for entry in entries], dtype=np.int64)
    by_words = any(answer.similarities is not None for answer in answers)
    allowed = sum(answer.allowed for answer in answers)
    return Found([entry[2] for entry in entries], scores, rows, allowed, source, similarities if by_words else None)


def _entries(answers: Sequence[Found]) -> Iterator[tuple[float, float, str, int, int]]:
    for number, result in enumerate(answers):
        similarities = result.scores if result.similarities is None else result.similarities
        ranked = zip(result.ids, result.scores.tolist(), similarities.tolist(), strict=True)
        for position, (name, score, similarity) in enumerate(ranked):
            yield (-score, -similarity, name, number, position)
