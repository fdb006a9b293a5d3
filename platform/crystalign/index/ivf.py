"""Approximate vector stores: inverted lists with FAISS, and exact scores from the half-precision vectors.

The vectors are divided among lists by their nearest of L centroids (Jégou, Douze & Schmid, IEEE TPAMI 33, 117 (2011)),
which are trained once per index. A search visits the lists nearest to the query until they hold as many allowed rows
as its effort says; the effort comes from the recall that was measured when the index was built. Without an effort, and
behind a narrow filter, every allowed row is compared, and the answer is exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from crystalign.index.exact_fp16 import NARROW, ExactFp16
from crystalign.index.vector_store import Allowed, Ask, Candidates

TRAINED, LISTS = "trained.faiss", "lists.i32"
LISTS_PER_ROOT = 4
"""There are about so many times √n lists (FAISS wiki, Guidelines to choose an index)."""
SAMPLE_PER_LIST = 48
"""Vectors per list that are used for training."""
_ROUNDS, _SEED, _LEAST_PER_LIST = 8, 1234, 39
_ROWS_AT_ONCE = 65_536
_FILTERS_KEPT = 64


def list_count(rows: int) -> int:
    """The number of lists for so many rows: a power of two near 4 √n, with at least 39 rows per list."""
    wanted = min(LISTS_PER_ROOT * math.sqrt(rows), rows / _LEAST_PER_LIST)
    return int(2 ** max(0, math.floor(math.log2(max(1.0, wanted)))))


class Ivf:
    """Inverted lists of codes; the subclasses say which codes.

    Args:
        vectors: (n, D) the vectors.
        index: FAISS index of the same rows.
        lists: (n,) the list of each row.
    """

    is_exact = False
    codes: ClassVar[str]
    """How FAISS stores the vectors of a list, as in its index factory."""
    oversampling: ClassVar[int]
    """How many times more candidates than asked for get exact scores, because the scores of the codes are coarse."""

    def __init__(self, vectors: NDArray[np.float16], index: Any, lists: NDArray[np.int32]) -> None:
        assert index.ntotal == len(vectors) == len(lists), (index.ntotal, len(vectors), len(lists))
        self._exact, self._index, self._lists = ExactFp16(vectors), index, lists
        self._centroids = index.quantizer.reconstruct_n(0, index.nlist)  # (L, D)
        self._sizes = np.bincount(lists, minlength=index.nlist)
        self._allowed_sizes = functools.lru_cache(_FILTERS_KEPT)(self._count_allowed)

    @classmethod
    def train(cls, sample: NDArray[np.float16], rows: int) -> Mapping[str, bytes]:
        """The centroids and the parameters of the codes, as an empty FAISS index."""
        import faiss

        lists = list_count(rows)
        index: Any = faiss.index_factory(int(sample.shape[1]), f"IVF{lists},{cls.codes}", faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.seed, index.cp.spherical = _ROUNDS, _SEED, True
        index.train(sample[: max(SAMPLE_PER_LIST * lists, 10_000)].astype(np.float32))
        return {TRAINED: faiss.serialize_index(index).tobytes()}

    @classmethod
    def encode(cls, vectors: NDArray[np.float16], trained: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """The list of each row."""
        index = _empty(trained)  # owns its quantizer
        blocks = [vectors[s : s + _ROWS_AT_ONCE].astype(np.float32) for s in range(0, len(vectors), _ROWS_AT_ONCE)]
        nearest = [index.quantizer.search(block, 1)[1][:, 0] for block in blocks]
        return {LISTS: np.concatenate(nearest).astype("<i4").tobytes()}

    @classmethod
    def load(
        cls, vectors: NDArray[np.float16], trained: Mapping[str, bytes], encoded: Sequence[Mapping[str, bytes]]
    ) -> Self:
        """Fill the lists; the assignment to lists is not computed again."""
        import faiss

        index = _empty(trained)
        lists = np.concatenate([np.frombuffer(files[LISTS], "<i4") for files in encoded]).astype(np.int32)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            block = np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE], dtype=np.float32)
            rows = np.arange(start, start + len(block), dtype=np.int64)
            chosen = lists[start : start + len(block)].astype(np.int64)
            index.add_core(len(block), *(faiss.swig_ptr(array) for array in (block, rows, chosen)))
        return cls(vectors, index, lists)

    def candidates(self, asks: Sequence[Ask]) -> list[Candidates]:
        """Candidates from the nearest lists, or from all allowed rows where the search is to be exact."""
        lists = [self._lists_to_visit(ask) for ask in asks]
        exact = iter(self._exact.candidates([ask for ask, count in zip(asks, lists, strict=True) if count is None]))
        return [
            next(exact) if count is None else self._visit(ask, count) for ask, count in zip(asks, lists, strict=True)
        ]

    def _lists_to_visit(self, ask: Ask) -> int | None:
        """The number of nearest lists that together hold enough allowed rows; None for an exact search."""
        n = len(self._lists) if ask.allowed is None else ask.allowed.n
        if ask.effort is None or n * NARROW < len(self._lists):
            return None
        sizes = self._sizes if ask.allowed is None else self._allowed_sizes(ask.allowed)
        held = np.cumsum(sizes[np.argsort(-(self._centroids @ ask.query), kind="stable")])
        return min(int(np.searchsorted(held, max(ask.effort, ask.fetch))) + 1, len(held))

    def _visit(self, ask: Ask, lists: int) -> Candidates:
        import faiss

        selector = None if ask.allowed is None else faiss.IDSelectorBitmap(ask.allowed.bits)  # type: ignore[call-arg, arg-type]
        params = faiss.SearchParametersIVF(nprobe=lists, sel=selector)  # type: ignore[call-arg]
        scores, rows = self._index.search(ask.query[None], ask.fetch * self.oversampling, params=params)
        found = rows[0] >= 0
        return Candidates(scores[0][found], rows[0][found], None)

    def _count_allowed(self, allowed: Allowed) -> NDArray[np.int64]:
        """(L,) number of allowed rows of each list."""
        return np.bincount(self._lists[allowed.rows], minlength=len(self._sizes))


class IvfFp16(Ivf):
    """Lists of half-precision vectors: 2 D bytes per row."""

    codes, oversampling = "SQfp16", 1


class IvfSq8(Ivf):
    """Lists of 8-bit numbers: D bytes per row."""

    codes, oversampling = "SQ8", 2


class IvfRabitq(Ivf):
    """Lists of one bit per dimension (RaBitQ: Gao & Long, SIGMOD 2024, arXiv:2405.12497): D / 8 + 8 bytes per row."""

    codes, oversampling = "RaBitQ", 16


def _empty(trained: Mapping[str, bytes]) -> Any:
    """The trained FAISS index without rows."""
    import faiss

    return faiss.deserialize_index(np.frombuffer(trained[TRAINED], np.uint8))
