"""Synthetic crystal-like vectors, rows and queries for benchmarks: clusters on the unit sphere of long-tailed size.

They stand in for the vectors of a trained model, of which none is stored. Queries of the same kind are stored vectors
with a little noise; queries of other modalities have more noise and an offset that is common to all of them, like the
gap between modalities of contrastive models (Liang et al., NeurIPS 2022, arXiv:2203.02053).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS
from crystalign.index.embeddings import (
    EmbeddingManifest,
    EmbeddingProvenance,
    embedding_table,
    write_embeddings,
)
from crystalign.properties import PropertySpec, Quantity

HULL = PropertySpec(quantity=Quantity.ENERGY_ABOVE_HULL, method="pbe", source="mp", vintage="2026")
CENTRES, SPREAD = 20_000, 0.6
COMPOSITIONS = 300_000
NOISE = {"crystal": (0.3, 0.0), "xrd": (0.8, 0.3), "text": (1.0, 0.6)}
"""Modality of queries → size of the noise, and of the common offset."""


class Corpus(NamedTuple):
    """A collection of n rows, computed in pieces."""

    rows: int
    """Number of rows n."""
    dimension: int = 192
    """Dimension D."""
    seed: int = 0
    """Seed."""

    def pieces(self, size: int = 100_000) -> Iterator[tuple[pa.Table, NDArray[np.float16]]]:
        """Rows with their vectors (m, D), piece by piece."""
        centres, weights = self._centres()
        sets = _compositions(np.random.default_rng(self.seed + 1))
        for number, start in enumerate(range(0, self.rows, size)):
            rng = np.random.default_rng((self.seed, number))
            n = min(size, self.rows - start)
            chosen = rng.choice(len(centres), n, p=weights)
            noise = rng.standard_normal((n, self.dimension), np.float32) * SPREAD / np.sqrt(self.dimension)
            vectors = unit(centres[chosen] + noise).astype(np.float16)
            yield _table(rng, start, n, sets), vectors

    def queries(self, modality: str, vectors: NDArray[np.float16], n: int) -> NDArray[np.float32]:
        """(n, D) unit queries near n of the vectors.

        Args:
            modality: key of `NOISE`.
            vectors: (m, D) stored vectors.
            n: number of queries.
        """
        rng = np.random.default_rng((self.seed, *modality.encode()))
        noise, offset = NOISE[modality]
        common = unit(rng.standard_normal((1, self.dimension), np.float32))
        near = vectors[rng.choice(len(vectors), n)].astype(np.float32)
        random = rng.standard_normal((n, self.dimension), np.float32) / np.sqrt(self.dimension)
        return unit(near + noise * random + offset * common)

    def _centres(self) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        rng = np.random.default_rng(self.seed)
        centres = unit(rng.standard_normal((min(CENTRES, self.rows // 10 + 1), self.dimension), np.float32))
        weights = 1.0 / np.arange(1, len(centres) + 1) ** 0.8
        return centres, weights / weights.sum()


def write_corpus(uri: str, corpus: Corpus, model: str = "a" * 64) -> str:
    """Write a corpus as the embeddings that `crystalign embed` would write."""
    making = EmbeddingProvenance(model_sha256=model, dataset_sha256="d" * 64, modality="crystal")
    files = []
    for number, (table, vectors) in enumerate(corpus.pieces()):
        written = embedding_table(
            table, vectors.astype(np.float32), shard=number, positions=range(len(table)), properties=[HULL]
        )
        files.append(write_embeddings(uri, f"part-{number:03d}", written, making))
    write_manifest(uri, making, corpus.rows, corpus.dimension, files)
    return uri


def write_queries(uri: str, modality: str, queries: NDArray[np.float32], model: str = "a" * 64) -> str:
    """Write queries of a modality as the embeddings that `crystalign embed --modality` would write."""
    making = EmbeddingProvenance(model_sha256=model, dataset_sha256="e" * 64, modality=modality)
    table = _table(np.random.default_rng(5), 0, len(queries), _compositions(np.random.default_rng(6), 100))
    written = embedding_table(table, queries, shard=0, positions=range(len(queries)), properties=[HULL])
    entry = write_embeddings(uri, "queries", written, making)
    write_manifest(uri, making, len(queries), queries.shape[1], [entry])
    return uri


def write_manifest(uri: str, making: EmbeddingProvenance, rows: int, dimension: int, files: list[Any]) -> None:
    """Write the manifest of embeddings."""
    EmbeddingManifest(
        model_uri="runs/model",
        model_sha256=making.model_sha256,
        modality=making.modality,
        dimension=dimension,
        dataset_uri="data",
        dataset_sha256=making.dataset_sha256,
        rows=rows,
        properties=(HULL,),
        licences=("CC-BY-4.0",),
        files=tuple(files),
    ).write(uri)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors with length 1."""
    scaled: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled


def _compositions(rng: np.random.Generator, n: int = COMPOSITIONS) -> pa.Table:
    """Different sets of elements with a formula each."""
    weights = 1.0 / np.arange(1, 95) ** 0.7
    order = rng.permutation(np.arange(1, 95))
    numbers = order[rng.choice(94, (n, 4), p=weights / weights.sum())]
    count = rng.integers(1, 5, n)
    lists = [sorted({SYMBOLS[z] for z in row[:c]}) for row, c in zip(numbers.tolist(), count.tolist(), strict=True)]
    amounts = rng.integers(1, 13, (n, 4)).tolist()
    pairs = [zip(symbols, numbers, strict=False) for symbols, numbers in zip(lists, amounts, strict=True)]
    formulas = ["".join(f"{symbol}{x if x > 1 else ''}" for symbol, x in row) for row in pairs]
    return pa.table({"formula": formulas, "chemsys": ["-".join(e) for e in lists], "elements": lists})


def _table(rng: np.random.Generator, start: int, n: int, sets: pa.Table) -> pa.Table:
    chosen = sets.take(pa.array(rng.integers(0, len(sets), n)))
    columns: dict[str, Any] = {name: chosen[name].combine_chunks() for name in chosen.column_names}
    groups = rng.integers(1, 231, n)
    return pa.table(
        {
            "id": pa.array([f"syn-{i}" for i in range(start, start + n)]),
            **columns,
            "n_sites": pa.array(rng.integers(1, 100, n), pa.int32()),
            "spacegroup_number": pa.array(groups, pa.int16()),
            "prototype": pa.array([f"AB_{g}_a_b" for g in groups.tolist()]),
            "split_formula": pa.array(rng.random(n)),
            "source": pa.array(np.array(["gnome", "mp", "alexandria"])[rng.integers(0, 3, n)]),
            "licence": pa.repeat("CC-BY-4.0", n),
            "remarks": pa.nulls(n, pa.string()),
            HULL.column: pa.array(rng.random(n)),
        }
    )
