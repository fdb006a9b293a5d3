"""The default vector store: half-precision vectors in memory, searched exhaustively with FAISS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from crystalign.index.vector_store import Allowed

_ROWS_AT_ONCE = 65_536


class ExactFp16:
    """Exhaustive search by inner products in single precision, with a bound on their rounding error."""

    def __init__(self, dimension: int) -> None:
        import faiss

        self._dimension = dimension
        self._index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._largest = 0.0

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, vectors: NDArray[np.float16]) -> None:
        """Append rows (m, D)."""
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            piece = np.ascontiguousarray(vectors[start : start + _ROWS_AT_ONCE], dtype=np.float32)
            self._index.add(piece)
            self._largest = max(self._largest, float(np.sqrt((piece**2).sum(1).max())))

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(m, D) the vectors of these rows."""
        import faiss

        codes = faiss.rev_swig_ptr(self._index.codes.data(), len(self) * 2 * self._dimension)
        stored: NDArray[np.float16] = codes.view(np.float16).reshape(len(self), self._dimension)[rows]
        return stored

    def candidates(
        self, query: NDArray[np.float32], fetch: int, allowed: Allowed | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best rows, by inner products in single precision."""
        import faiss

        params = None
        if allowed is not None:
            selector = faiss.IDSelectorBitmap(allowed.bits)  # type: ignore[call-arg, arg-type]
            params = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        rough, rows = self._index.search(query[None], fetch, params=params)
        return rough[0], rows[0]

    def margin(self, query: NDArray[np.float32]) -> float:
        """2 · D · 2⁻²⁴ · |q| max|c|: twice the rounding error of a sum of D products in single precision."""
        return self._dimension * 2.0**-23 * float(np.linalg.norm(query)) * self._largest

    def save(self) -> Mapping[str, bytes]:
        """No files: the vectors in the Parquet file suffice."""
        return {}

    @classmethod
    def load(cls, vectors: NDArray[np.float16], saved: Sequence[Mapping[str, bytes]]) -> Self:  # noqa: ARG003
        """Build the store from the vectors."""
        store = cls(int(vectors.shape[1]))
        store.add(vectors)
        return store
