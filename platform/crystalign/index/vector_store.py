"""`VectorStore`: how the vectors of an index are searched, and the registry of its kinds.

Each kind is one class. The manifest of an index names the kind, so that every process opens the index with the same
class. Other packages can register kinds with the entry-point group `crystalign.vector_stores`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from crystalign.registry import Registry

DEFAULT_KIND = "exact-fp16"
"""Kind of an index whose manifest does not name one."""


@dataclass(frozen=True, eq=False)
class Allowed:
    """The rows that satisfy a filter."""

    bits: NDArray[np.uint8]
    """(⌈rows / 8⌉,) bitmap of all rows: row r is bit r % 8 of byte r // 8."""
    n: int
    """Number of rows that satisfy the filter."""

    def holds(self, rows: NDArray[np.int64]) -> bool:
        """Whether all of these rows are allowed."""
        return bool(((self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1).all())

    @functools.cached_property
    def rows(self) -> NDArray[np.int32]:
        """(n,) the rows, ascending."""
        return np.flatnonzero(np.unpackbits(self.bits, bitorder="little").view(bool)).astype(np.int32)


class Ask(NamedTuple):
    """A request for candidates."""

    query: NDArray[np.float32]
    """(D,) the query."""
    fetch: int
    """Number of candidates, at most the number of allowed rows."""
    allowed: Allowed | None = None
    """The rows that may be returned; None means all."""
    effort: int | None = None
    """Number of allowed rows that an approximate kind scores, from the measured recall; None: search exactly."""


class Candidates(NamedTuple):
    """The rows that probably score best for a query."""

    scores: NDArray[np.float32]
    """(m,) approximate inner products, descending."""
    rows: NDArray[np.int64]
    """(m,) their rows."""
    margin: float | None
    """The largest error of the approximate scores; None if rows may be missing whatever their score."""


class OpenStore(Protocol):
    """Finds candidates among n half-precision vectors of dimension D: those of one or several segment files.

    A search asks for candidates with approximate scores and computes the final scores itself, from the vectors. It asks
    for more candidates until their margin proves that none is missing. Without a margin, the search takes the first
    candidates, `EXTRA` more than needed.
    """

    is_exact: bool
    """Whether every answer is exact; if not, the recall of the index is measured when it is built."""

    def candidates(self, asks: Sequence[Ask]) -> list[Candidates]:
        """The candidates of each request; requests that are passed together may share a scan.

        A result with a margin has at least `fetch` rows. A result without one may have fewer.
        """


class VectorStore(OpenStore, Protocol):
    """A kind of vector store: how its files are made, and how they are opened."""

    @classmethod
    def train(cls, sample: NDArray[np.float16], rows: int) -> Mapping[str, bytes]:
        """Data structures that all segments of an index share: name → content of files; none for most kinds.

        Args:
            sample: (m, D) random vectors of the index.
            rows: number of rows of the index.
        """

    @classmethod
    def encode(cls, vectors: NDArray[np.float16], trained: Mapping[str, bytes]) -> Mapping[str, bytes]:
        """Data structures of a segment that are slow to build: name → content of files to store beside the segment.

        Args:
            vectors: (m, D) the vectors of one segment file.
            trained: the files from `train`.
        """

    @classmethod
    def load(
        cls, vectors: NDArray[np.float16], trained: Mapping[str, bytes], encoded: Sequence[Mapping[str, bytes]]
    ) -> Self:
        """Create the store of the segment files that one process holds.

        Args:
            vectors: (n, D) the vectors of all segment files, in order; possibly mapped from a file, so not to be copied
                without need.
            trained: the files from `train`, already checked against the manifest.
            encoded: for each segment file, the files from `encode`, likewise.
        """


VECTOR_STORES: Registry[type[VectorStore]] = Registry(
    "vector store",
    "crystalign.vector_stores",
    {
        DEFAULT_KIND: "crystalign.index.exact_fp16:ExactFp16",
        "ivf-fp16": "crystalign.index.ivf:IvfFp16",
        "ivf-sq8": "crystalign.index.ivf:IvfSq8",
        "ivf-rabitq": "crystalign.index.ivf:IvfRabitq",
    },
    accepts=lambda entry: isinstance(entry, type) and hasattr(entry, "candidates"),
)
"""Kind → class."""
EXTRA = 64
"""Number of candidates fetched in addition to those needed."""
