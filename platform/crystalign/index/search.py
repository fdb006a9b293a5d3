r"""Exact nearest-neighbour search in a segment, with filters applied before the search, and merging of results.

The score of a stored vector c for a query q is

    s(q, c) = round(Σ_d q_d c_d, 7)

in float64 over the stored half-precision values. A vector store finds candidates by approximate scores, with a
margin that accounts for their rounding errors. The candidates are then ranked by s, and rows of equal score by id.
Results therefore depend neither on the number of segments nor on the vector instructions of the machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crystalign.errors import QueryError
from crystalign.index.columns import FilterColumns, bitmap
from crystalign.index.embeddings import with_remarks
from crystalign.index.facets import Facets, count_facets
from crystalign.index.filters import Fields, make_fields, searched_rows
from crystalign.index.lexical import LexicalIndex, WordCounts
from crystalign.index.local_cache import LocalCache
from crystalign.index.manifest import IndexManifest, SegmentEntry
from crystalign.index.mixed_store import open_store
from crystalign.index.predicates import Compare, Constant, Predicate
from crystalign.index.recall import RecallPoint, effort_for
from crystalign.index.segment_files import layout, read_segments, removed_rows, verified, word_counts
from crystalign.index.vector_store import DEFAULT_KIND, EXTRA, VECTOR_STORES, Allowed, Ask, Candidates, OpenStore
from crystalign.material import HYPOTHETICAL
from crystalign.properties import PredictedProperty, PropertySpec

DECIMALS = 7
"""Scores are rounded to this many decimals, far below the resolution of half precision, so that equal scores are equal
on every machine."""

MAX_TIES = 20_000
"""Number of rows of equal score that are compared further in a search by words."""
LONGEST = 1e6
"""Largest component of a query; products of larger ones could overflow in single precision."""
_FILTERS_KEPT = 64


class Search(NamedTuple):
    """One search."""

    query: NDArray[np.floating[Any]]
    """(D,) the query, finite."""
    k: int
    """Number of rows, at least 1."""
    filter_text: str | None = None
    """OPTIMADE filter; evaluated before the search."""
    modalities: tuple[str, ...] = ()
    """The modalities of which the query is made, if known. An approximate index searches others exactly."""


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


class Recall(NamedTuple):
    """What was measured about an index of an approximate kind."""

    rows: int
    """Number of rows of the index that are of the approximate kind, of which the segment may hold a part."""
    points: Sequence[RecallPoint]
    """The measurements."""
    target: float
    """The recall that searches are to reach."""


class Segment:
    """Vectors and metadata of one or several segment files, held in memory as one.

    Args:
        table: metadata columns, one row per vector; `id` is unique.
        vectors: (n, D) half-precision vectors, as stored.
        properties: the property columns of `table`.
        kind: name of the vector store.
        kinds: for each segment file, the name of its vector store and its number of rows; None if all are of `kind`.
        saved: for each segment file, the files that its vector store saved.
        words: for each segment file, its word counts and number of rows; None if the index has no texts.
        has_facts: whether the table has the columns that follow from captions with facts.
        removed: (⌈n / 8⌉,) bitmap of rows that were deleted after the segment was written; no search returns them.
        trained: the files that the segments' vector stores share.
        recall: what was measured for the index; without it, an approximate kind searches exactly.
        columns: the prepared columns of `table`; computed if they are not given.
        predictions: the predicted properties of `table`.
    """

    def __init__(
        self,
        table: pa.Table,
        vectors: NDArray[np.float16],
        properties: Sequence[PropertySpec],
        *,
        kind: str = DEFAULT_KIND,
        kinds: Sequence[tuple[str, int]] | None = None,
        saved: Sequence[Mapping[str, bytes]] = (),
        words: Sequence[tuple[WordCounts, int]] | None = None,
        has_facts: bool = False,
        removed: NDArray[np.uint8] | None = None,
        trained: Mapping[str, bytes] = MappingProxyType({}),
        recall: Recall | None = None,
        columns: FilterColumns | None = None,
        predictions: Sequence[PredictedProperty] = (),
    ) -> None:
        assert len(table) == len(vectors), (len(table), vectors.shape)
        self.table = with_remarks(table).combine_chunks()
        has_hypothetical = HYPOTHETICAL in self.table.column_names
        self.fields: Fields = make_fields(
            properties, has_facts=has_facts, has_hypothetical=has_hypothetical, predictions=predictions
        )
        self._real: Predicate = Compare(HYPOTHETICAL, "=", pa.scalar(False)) if has_hypothetical else Constant(True)
        self.words = None if words is None else LexicalIndex(words)
        self.dimension = int(vectors.shape[1])
        if kinds is None:
            self.store: OpenStore = VECTOR_STORES[kind].load(vectors, trained, saved)
        else:
            self.store = open_store(vectors, kinds, trained, saved)
        self._measured = sum(rows for name, rows in kinds or [(kind, len(table))] if name == kind)
        self.recall = recall or Recall(self._measured, (), 1.0)
        self.columns = columns or FilterColumns.of(self.table)
        self._vectors, self._removed = vectors, removed
        self.live = len(self) - (0 if removed is None else int(np.bitwise_count(removed).sum()))
        self._in_use: IO[bytes] | None = None
        self.allowed = functools.lru_cache(_FILTERS_KEPT)(self._allowed)
        self._predicate = functools.lru_cache(_FILTERS_KEPT)(self._compiled)

    def __len__(self) -> int:
        """The number of rows, removed ones included; `live` is the number of those that are searched."""
        return len(self.table)

    @classmethod
    def load(
        cls,
        uri: str,
        manifest: IndexManifest,
        entries: Sequence[SegmentEntry] | None = None,
    ) -> Self:
        """Read segment files of the index at `uri` and check them against its manifest.

        If the environment variable CRYSTALIGN_INDEX_CACHE names a folder, they are prepared there once and mapped into
        memory (`local_cache`).

        Args:
            uri: URI of the index.
            manifest: manifest of the index.
            entries: the segments to read; None means all.

        Raises:
            VerificationError: a file is missing or differs from the manifest.
            ConfigError: there is no vector store of this kind.
        """
        entries = manifest.segments if entries is None else entries
        cache, make = LocalCache.from_environment(), functools.partial(read_segments, uri, manifest, entries)
        parts = [*layout(manifest, entries), *(entry.sha256 for entry in entries)]
        prepared = make() if cache is None else cache.open(parts, make)
        saved = [{file.path.rpartition("/")[2]: verified(uri, file) for file in entry.store} for entry in entries]
        words = None if manifest.lexicon is None else [(word_counts(uri, entry), entry.rows) for entry in entries]
        segment = cls(
            prepared.table,
            prepared.vectors,
            manifest.properties,
            columns=prepared.columns,
            kind=manifest.kind,
            kinds=[(manifest.kind_of(entry), entry.rows) for entry in entries],
            saved=saved,
            words=words,
            has_facts=manifest.has_facts,
            removed=removed_rows(uri, entries),
            trained={file.path.rpartition("/")[2]: verified(uri, file) for file in manifest.store},
            recall=Recall(manifest.measured_rows, manifest.recall, manifest.target_recall),
            predictions=manifest.predictions,
        )
        segment._in_use = prepared.lock
        return segment

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
        if np.ndim(queries) != 2:
            raise self._bad_query(queries, k)
        return self.search_many([Search(query, k, filter_text) for query in queries])

    def search_many(self, searches: Sequence[Search]) -> list[Found]:
        """The result of each search; those that are passed together share the passes through the vectors.

        Raises:
            QueryError: a filter cannot be read, or a query has a wrong shape or is not finite.
        """
        results = self.answer([self.plan(search) for search in searches], [search.k for search in searches])
        for result, search in zip(results, searches, strict=True):
            self._check(result, search.filter_text)
        return results

    def answer(self, asks: Sequence[Ask], ks: Sequence[int]) -> list[Found]:
        """The k best rows of each request. More candidates are fetched until none can be missing.

        Args:
            asks: planned requests.
            ks: the number of rows of each result; there may be more of them than requests.
        """
        pending = list(asks)
        found: list[Found | None] = [None] * len(asks)
        while left := [i for i, result in enumerate(found) if result is None]:
            for i, candidates in zip(left, self._candidates([pending[i] for i in left]), strict=True):
                found[i] = self._ranked(pending[i], candidates, ks[i])
                pending[i] = pending[i]._replace(fetch=min(self._n(pending[i]), pending[i].fetch * 8))
        return [result for result in found if result is not None]

    def count(self, filter_text: str | None = None) -> int:
        """Number of rows that satisfy a filter, without a search.

        Raises:
            QueryError: the filter cannot be read.
        """
        return self.allowed(filter_text).n

    def facets(self, filter_text: str | None = None) -> Facets:
        """How many of the rows that satisfy a filter have each element, crystal system, number of elements and source.

        Raises:
            QueryError: the filter cannot be read.
        """
        return count_facets(self.columns, self.allowed(filter_text).bits)

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

    def _compiled(self, filter_text: str | None) -> Predicate:
        """The condition on a row; a filter that does not name `hypothetical` leaves hypothetical rows out."""
        return self._real if filter_text is None else searched_rows(filter_text, self.fields)

    def _allowed(self, filter_text: str | None) -> Allowed:
        bits, n = bitmap(self._predicate(filter_text).evaluate(self.columns))
        if self._removed is not None:
            bits &= ~self._removed
            n = int(np.bitwise_count(bits).sum())
        return Allowed(bits, n)

    def plan(self, search: Search) -> Ask:
        """Check a search, evaluate its filter, and return the first request for candidates. Filters are remembered.

        Raises:
            QueryError: the filter cannot be read, or the query has a wrong shape or is not finite.
        """
        query = np.ascontiguousarray(search.query, dtype=np.float32)
        if query.shape != (self.dimension,) or not (np.abs(query) < LONGEST).all() or search.k < 1:
            raise self._bad_query(search.query, search.k)
        allowed = self.allowed(search.filter_text)
        effort = None if self.store.is_exact else self._effort(search, allowed.n / max(1, self.live))
        return Ask(query, min(allowed.n, search.k + EXTRA), allowed if allowed.n < len(self) else None, effort)

    def _effort(self, search: Search, fraction: float) -> int | None:
        effort = effort_for(self.recall.points, self.recall.target, search.modalities, search.k, fraction)
        return None if effort is None else math.ceil(effort * self._measured / self.recall.rows)

    def _bad_query(self, query: NDArray[Any], k: int) -> QueryError:
        return QueryError(
            f"a query of shape {np.shape(query)} and k = {k}; expected finite numbers of shape ({self.dimension},), or "
            f"(q, {self.dimension}) for several, and k >= 1",
            reason="bad-query",
        )

    def _n(self, ask: Ask) -> int:
        return len(self) if ask.allowed is None else ask.allowed.n

    def _candidates(self, asks: Sequence[Ask]) -> list[Candidates]:
        real = [ask for ask in asks if ask.fetch > 0]
        answers = iter(self.store.candidates(real))
        none = Candidates(np.empty(0, np.float32), np.empty(0, np.int64), 0.0)
        found = [next(answers) if ask.fetch > 0 else none for ask in asks]
        for ask, one in zip(asks, found, strict=True):
            if (one.rows < 0).any() or not (ask.allowed is None or ask.allowed.holds(one.rows)):
                kind = type(self.store).__name__
                raise AssertionError(f"the vector store {kind} returned a row that the filter forbids")
        return found

    def _ranked(self, ask: Ask, candidates: Candidates, k: int) -> Found | None:
        """The k best rows; None if a row that is not among the candidates may be one of them.

        A row that was not fetched scores at most the last candidate's approximate score plus the margin.
        """
        n, (rough, rows, margin) = self._n(ask), candidates
        scores = self._scores(ask.query, rows)
        k = min(k, len(rows))
        least = np.partition(scores, -k)[-k] if k else 0.0
        if ask.fetch < n and margin is not None and not rough[-1] < least - margin - 10.0**-DECIMALS:
            return None  # the last term is the final rounding
        possible = np.flatnonzero(scores >= least)
        possible = possible[np.argsort(-scores[possible], kind="stable")]
        ids = self.table["id"].take(pa.array(rows[possible])).to_pylist()
        if (np.diff(scores[possible]) == 0).any():
            best = sorted(range(len(possible)), key=lambda i: (-scores[possible[i]], ids[i]))
            possible, ids = possible[best], [ids[i] for i in best]
        chosen = possible[:k]
        return Found(ids[:k], scores[chosen], rows[chosen], n, np.zeros(k, dtype=np.int64))

    def _scores(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        products = self.vectors(rows).astype(np.float64) * query.astype(np.float64)  # (n, D)
        scores: NDArray[np.float64] = np.round(products.sum(axis=1), DECIMALS) + 0.0  # + 0.0: no negative zero
        return scores

    def _check(self, result: Found, filter_text: str | None) -> None:
        """Evaluate the filter again on the rows of the result."""
        if not result.ids or isinstance(self._predicate(filter_text), Constant):
            return
        rows = self.table.take(pa.array(result.rows))
        if rows["id"].to_pylist() != result.ids or not evaluate(rows, self._predicate(filter_text).expression()).all():
            raise AssertionError(f"a result does not satisfy {filter_text!r}")

    def live_mask(self) -> NDArray[np.bool_]:
        """(n,) which rows were not removed, hypothetical ones included."""
        removed = np.zeros(-(-len(self) // 8), np.uint8) if self._removed is None else self._removed
        return np.unpackbits(~removed, bitorder="little", count=len(self)).view(bool)

    # --- rows -------------------------------------------------------------------------------------------------------

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(n, D) the stored vectors of these rows."""
        return self._vectors[rows]

    def row_of(self, material_id: str) -> int | None:
        """The row of an id; None if it is not in this segment."""
        rows = self.columns.rows_of(material_id)  # an id that was removed may have been added again
        if self._removed is not None:
            rows = rows[(self._removed[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 0]
        return int(rows[0]) if len(rows) else None

    def records(self, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The metadata of rows: column → value."""
        records: list[dict[str, Any]] = self.table.take(pa.array(rows)).to_pylist()
        return records


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
