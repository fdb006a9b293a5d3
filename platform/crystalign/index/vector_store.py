"""`VectorStore`: how the vectors of an index are stored in memory and searched, and the registry of its kinds.

Each kind is one class. The manifest of an index names the kind, so that every process opens the index with the same
class. Other packages can register kinds with the entry-point group `crystalign.vector_stores`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from crystalign.registry import Registry

DEFAULT_KIND = "exact-fp16"
"""Kind of an index whose manifest does not name one."""


class Allowed(NamedTuple):
    """The rows that satisfy a filter."""

    bits: NDArray[np.uint8]
    """Bitmap of all rows: row r is bit r % 8 of byte r // 8."""
    n: int
    """Number of rows that satisfy the filter."""

    def holds(self, rows: NDArray[np.int64]) -> bool:
        """Whether all of these rows are allowed."""
        return bool(((self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1).all())


class VectorStore(Protocol):
    """The vectors of one or several segment files: n rows of dimension D.

    A search asks for candidates with approximate scores and computes the final scores itself, from `vectors`. It asks
    for more candidates until `margin` proves that none is missing. A kind without such a bound returns the margin
    None; the search then takes the first candidates, `EXTRA` more than needed.
    """

    def __init__(self, dimension: int) -> None:
        """Create an empty store.

        Args:
            dimension: dimension D of the vectors.
        """

    def __len__(self) -> int:
        """The number of rows n."""

    def add(self, vectors: NDArray[np.float16]) -> None:
        """Append rows (m, D), as they are stored in the segment files."""

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """(m, D) vectors of these rows, exactly as they were added."""

    def candidates(
        self, query: NDArray[np.float32], fetch: int, allowed: Allowed | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The rows that probably score best.

        Args:
            query: (D,).
            fetch: number of candidates, at most the number of allowed rows.
            allowed: the rows that may be returned; None means all.

        Returns:
            Approximate inner products, descending, and their rows. There are `fetch` of them; a kind whose margin is
            None may return fewer.
        """

    def margin(self, query: NDArray[np.float32]) -> float | None:
        """The largest error of an approximate score; None if there is no bound."""

    def save(self) -> Mapping[str, bytes]:
        """Data structures that are slow to build again: name → content of files to store beside the segment.

        The vectors themselves are in the segment's Parquet file.
        """

    @classmethod
    def load(cls, vectors: NDArray[np.float16], saved: Sequence[Mapping[str, bytes]]) -> Self:
        """Create the store of the segment files that one process holds.

        Args:
            vectors: (n, D) the vectors of all segment files, in order.
            saved: for each segment file, the files from `save`, already checked against the manifest.
        """


VECTOR_STORES: Registry[type[VectorStore]] = Registry(
    "vector store",
    "crystalign.vector_stores",
    {DEFAULT_KIND: "crystalign.index.exact_fp16:ExactFp16"},
    accepts=lambda entry: isinstance(entry, type) and hasattr(entry, "candidates"),
)
"""Kind → class."""
EXTRA = 64
"""Number of candidates fetched in addition to those needed."""
