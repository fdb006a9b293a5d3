"""The default vector store: half-precision vectors, all compared with the query in single precision.

The vectors are used where they are, in memory or mapped from a file. There are three ways through them:

- a single query goes through FAISS, in slices of rows that run in parallel;
- queries that arrive together share one pass: a block of rows is converted once and multiplied with all of them;
- behind a narrow filter, only the allowed rows are read, once for all queries with this filter.

All three sum in single precision, so that one bound on the rounding error holds for them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from crystalign.index.vector_store import Allowed, Ask, Candidates

BLOCK = 2_048
"""Most rows that are converted to single precision at once, so that they stay in the cache; a multiple of 8."""
NARROW = 8
"""For a single query, a filter that allows less than one row in so many is narrow."""
NARROW_TOGETHER = 1.5
"""The same for many queries with one filter, which share the cost of picking its rows."""
_SCORES = 2**20
"""Most scores that are computed at once (rows of a block × queries), so that they fit into the processor's cache."""
_SLICE = 65_536
_MERGE_AT = 65_536


class ExactFp16:
    """Exhaustive search by inner products in single precision, with a bound on their rounding error.

    Args:
        vectors: (n, D) the vectors.
    """

    is_exact = True

    def __init__(self, vectors: NDArray[np.float16]) -> None:
        self._vectors = vectors
        norms = [np.linalg.norm(block, axis=1).max() for _, block in _blocks(vectors)]
        self._largest = float(max(norms, default=0.0))
        self._threads = _threads()
        self._pool = functools.cache(self._make_pool)
        rows = max(_SLICE, -(-len(vectors) // self._threads // 8) * 8)
        self._slices = [(start, _faiss_view(vectors[start : start + rows])) for start in range(0, len(vectors), rows)]

    @classmethod
    def train(cls, sample: NDArray[np.float16], rows: int) -> Mapping[str, bytes]:  # noqa: ARG003
        """No files: there is nothing to train."""
        return {}

    @classmethod
    def encode(cls, vectors: NDArray[np.float16], trained: Mapping[str, bytes]) -> Mapping[str, bytes]:  # noqa: ARG003
        """No files: the vectors suffice."""
        return {}

    @classmethod
    def load(
        cls,
        vectors: NDArray[np.float16],
        trained: Mapping[str, bytes],  # noqa: ARG003
        encoded: Sequence[Mapping[str, bytes]],  # noqa: ARG003
    ) -> Self:
        """The store of these vectors."""
        return cls(vectors)

    def margin(self, query: NDArray[np.float32]) -> float:
        """2 · D · 2⁻²⁴ · |q| max|c|: twice the rounding error of a sum of D products in single precision."""
        return int(self._vectors.shape[1]) * 2.0**-23 * float(np.linalg.norm(query)) * self._largest

    def candidates(self, asks: Sequence[Ask]) -> list[Candidates]:
        """The best rows of each request, by inner products in single precision."""
        n, found = len(self._vectors), dict[int, Candidates]()
        by_filter: dict[int, list[int]] = {}
        for i, ask in enumerate(asks):
            by_filter.setdefault(id(ask.allowed), []).append(i)
        for same in by_filter.values():
            allowed = asks[same[0]].allowed
            if allowed is not None and allowed.n * max(NARROW_TOGETHER, NARROW / len(same)) < n:
                found |= zip(same, self._gathered(allowed, [asks[i] for i in same]), strict=True)
        shared = [i for i, ask in enumerate(asks) if i not in found and ask.fetch * NARROW < n]
        if len(shared) > 1:
            found |= zip(shared, scan(self._vectors, [asks[i] for i in shared]), strict=True)
        found |= {i: self._alone(ask) for i, ask in enumerate(asks) if i not in found}
        return [found[i]._replace(margin=self.margin(ask.query)) for i, ask in enumerate(asks)]

    def _alone(self, ask: Ask) -> Candidates:
        """One query through all rows, in slices that run in parallel."""
        calls = [(ask, start, view) for start, view in self._slices]
        parts = list(self._pool().map(_search_slice, calls)) if len(calls) > 1 else [_search_slice(*calls)]
        scores, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return best_rows(scores, rows, ask.fetch)

    def _gathered(self, allowed: Allowed, asks: Sequence[Ask]) -> list[Candidates]:
        """Queries with one filter through the allowed rows only."""
        queries, best, size = np.stack([ask.query for ask in asks]), _Best(asks), _block_rows(len(asks))
        for start in range(0, allowed.n, size):
            rows = allowed.rows[start : start + size]
            best.add(queries @ _single(self._vectors, rows).T, rows)
        return best.result()

    def _make_pool(self) -> ThreadPoolExecutor:
        import faiss

        return ThreadPoolExecutor(self._threads, "exact-search", lambda: faiss.omp_set_num_threads(1))


def scan(vectors: NDArray[np.float16], asks: Sequence[Ask]) -> list[Candidates]:
    """The best rows for several queries in one pass through all vectors.

    Args:
        vectors: (n, D).
        asks: the requests, each for at most n rows.
    """
    if not asks:
        return []
    queries = np.stack([ask.query for ask in asks])  # (q, D)
    filters: dict[int, tuple[Allowed, list[int]]] = {}
    for i, ask in enumerate(asks):
        if ask.allowed is not None:
            filters.setdefault(id(ask.allowed), (ask.allowed, []))[1].append(i)
    best, size = _Best(asks), _block_rows(len(asks))
    out = np.empty((len(asks), size), np.float32)
    for start, block in _blocks(vectors, size):
        scores = np.matmul(queries, block.T, out=out[:, : len(block)])  # (q, b)
        for allowed, which in filters.values():
            bits = allowed.bits[start // 8 : -(-(start + len(block)) // 8)]
            refused = ~np.unpackbits(bits, bitorder="little", count=len(block)).view(bool)
            for i in which:
                scores[i, refused] = -np.inf
        best.add(scores, np.arange(start, start + len(block)))
    return best.result()


def _block_rows(queries: int) -> int:
    """Rows of a block for so many queries; a multiple of 8, because filters are bitmaps."""
    return int(np.clip(_SCORES // queries // 8 * 8, 1024, BLOCK))


class _Best:
    """The best rows so far for several queries; what does not exceed the worst of them is skipped."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._fetch = [ask.fetch for ask in asks]
        self._kept = [Candidates(np.empty(0, np.float32), np.empty(0, np.int64), None) for _ in asks]
        self._least = np.full((len(asks), 1), -np.inf, np.float32)
        self._new: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]] = []
        self._count, self._limit = 0, 0

    def add(self, scores: NDArray[np.float32], block: NDArray[Any]) -> None:
        """Add the scores (q, b) of the rows `block` (b,)."""
        found = np.flatnonzero(scores > self._least)  # ten times faster than np.nonzero of two dimensions
        if len(found):
            which, places = np.divmod(found, scores.shape[1])
            self._new.append((which, scores[which, places], block[places].astype(np.int64)))
            self._count += len(which)
            if self._count > self._limit:
                self._merge()
                self._limit = max(8 * sum(self._fetch), 1024)

    def result(self) -> list[Candidates]:
        """The best rows of each query, descending."""
        self._merge()
        return self._kept

    def _merge(self) -> None:
        if not self._new:
            return
        which, scores, rows = (np.concatenate(arrays) for arrays in zip(*self._new, strict=True))
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(len(self._kept) + 1))
        for i, kept in enumerate(self._kept):
            mine = order[ends[i] : ends[i + 1]]
            all_scores = np.concatenate([kept.scores, scores[mine]])
            self._kept[i] = best_rows(all_scores, np.concatenate([kept.rows, rows[mine]]), self._fetch[i])
            if len(self._kept[i].rows) == self._fetch[i]:
                self._least[i] = self._kept[i].scores[-1]
        self._new, self._count = [], 0


def best_rows(scores: NDArray[np.float32], rows: NDArray[Any], fetch: int) -> Candidates:
    """The `fetch` best of some rows, descending."""
    if len(scores) > fetch:
        chosen = np.argpartition(scores, -fetch)[-fetch:]
        scores, rows = scores[chosen], rows[chosen]
    order = np.argsort(-scores, kind="stable")
    return Candidates(scores[order], rows[order].astype(np.int64), None)


def _search_slice(call: tuple[Ask, int, Any]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best rows of a slice that FAISS holds as an index of its own."""
    import faiss

    ask, start, view = call
    params = None
    if ask.allowed is not None:
        bits = ask.allowed.bits[start // 8 : -(-(start + view.ntotal) // 8)]
        params = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))  # type: ignore[call-arg, arg-type]
    scores, rows = view.search(ask.query[None], min(ask.fetch, view.ntotal), params=params)
    found = rows[0] >= 0
    return scores[0][found], rows[0][found] + start


def _faiss_view(vectors: NDArray[np.float16]) -> Any:
    """A FAISS index of vectors that stay where they are."""
    import faiss

    quantizer = faiss.ScalarQuantizer
    view: Any = faiss.IndexScalarQuantizer(vectors.shape[1], quantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    flat = np.ascontiguousarray(vectors).view(np.uint8).reshape(-1)
    codes, pointer = view.codes, faiss.swig_ptr(flat)
    codes.is_owned = False
    codes.view_data = codes.c_ptr = pointer
    codes.view_size = codes.c_size = flat.size
    view.ntotal = len(vectors)
    view.referenced_objects = [flat]
    return view


def _blocks(vectors: NDArray[np.float16], size: int = BLOCK) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The vectors in single precision, in blocks: first row, and (b, D) values that are valid until the next block."""
    import torch

    buffer = torch.empty((min(size, len(vectors)), vectors.shape[1]))
    source = _tensor(vectors)
    for start in range(0, len(vectors), size):
        block = source[start : start + size]
        yield start, buffer[: len(block)].copy_(block).numpy()


def _single(vectors: NDArray[np.float16], rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """(m, D) some vectors in single precision."""
    import torch

    chosen: NDArray[np.float32] = _tensor(vectors).index_select(0, torch.from_numpy(rows)).float().numpy()
    return chosen


def _tensor(vectors: NDArray[np.float16]) -> Any:
    """A tensor of the same memory, which PyTorch converts to single precision ten times faster than NumPy."""
    import warnings

    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # it is only read
        return torch.from_numpy(vectors)


def _threads() -> int:
    import torch

    return torch.get_num_threads()
