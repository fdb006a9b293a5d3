from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

from crystalign.crystal import SYMBOLS
from crystalign.index.embeddings import EmbeddingManifest, EmbeddingProvenance, embedding_table, write_embeddings
from crystalign.index.filters import element_bits
from crystalign.index.search import DECIMALS, Segment
from crystalign.modalities.text import Text, TextModality
from crystalign.properties import PropertySpec, Quantity

HULL = PropertySpec(quantity=Quantity.ENERGY_ABOVE_HULL, method="pbe", source="mp", vintage="2026")
GAP_PBE = PropertySpec(quantity=Quantity.BAND_GAP, method="pbe", source="mp", vintage="2026")
GAP_HSE = PropertySpec(quantity=Quantity.BAND_GAP, method="hse06", source="mp", vintage="2026")
PROPERTIES = (HULL, GAP_PBE, GAP_HSE)


class Rows(NamedTuple):
    """What a filter may ask, as plain Python."""

    ids: list[str]
    elements: list[set[str]]
    hull: list[float | None]
    table: pa.Table
    vectors: np.ndarray[Any, np.dtype[np.float16]]
    properties: tuple[PropertySpec, ...] = PROPERTIES

    def segment(self, rows: slice | np.ndarray[Any, Any] = slice(None)) -> Segment:
        """A segment of some of the rows."""
        places = np.arange(len(self.ids))[rows]
        return Segment(self.table.take(pa.array(places)), self.vectors[places], PROPERTIES)

    def oracle(self, query: np.ndarray[Any, Any], k: int, mask: np.ndarray[Any, Any]) -> list[tuple[str, float]]:
        """The k best rows by a full sort of every score, straight from the definition."""
        scores = np.round((self.vectors.astype(np.float64) * query.astype(np.float64)).sum(1), DECIMALS)
        pairs = [(i, float(s)) for i, s, kept in zip(self.ids, scores, mask, strict=True) if kept]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:k]


def make_rows(n: int, dimension: int = 32, *, seed: int = 0, distinct: int | None = None) -> Rows:
    """Random materials; with `distinct`, only so many different vectors, so that most scores tie."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(distinct or n, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors.astype(np.float16)[rng.integers(0, len(vectors), n) if distinct else np.arange(n)]
    elements = [set(rng.choice(SYMBOLS[1:95], int(rng.integers(1, 5)), replace=False).tolist()) for _ in range(n)]
    elements = [e | {"O"} if rng.random() < 0.4 else e for e in elements]
    bits = [element_bits(SYMBOLS.index(s) for s in e) for e in elements]
    hull = [None if rng.random() < 0.1 else float(rng.random()) for _ in range(n)]
    ids = [f"m-{i}" for i in rng.permutation(n)]
    table = pa.table(
        {
            "id": ids,
            "formula": ["FeO" if i % 3 else "O2Ti" for i in range(n)],
            "chemsys": ["-".join(sorted(e)) for e in elements],
            "elements": [sorted(e) for e in elements],
            "n_sites": pa.array(rng.integers(1, 40, n), pa.int32()),
            "spacegroup_number": pa.array([None if i % 7 == 0 else 225 for i in range(n)], pa.int16()),
            "prototype": pa.array([None] * n, pa.string()),
            "source": ["mp"] * n,
            "licence": ["CC-BY-4.0"] * n,
            HULL.column: pa.array(hull, pa.float64()),
            GAP_PBE.column: pa.array(rng.random(n), pa.float64()),
            GAP_HSE.column: pa.array(rng.random(n), pa.float64()),
            "elements_low": pa.array([b[0] for b in bits], pa.uint64()),
            "elements_high": pa.array([b[1] for b in bits], pa.uint64()),
            "nelements": pa.array([len(e) for e in elements], pa.int32()),
        }
    )
    return Rows(ids, elements, hull, table, vectors)


@pytest.fixture(scope="session")
def make() -> Callable[..., Rows]:
    return make_rows


@pytest.fixture(scope="session")
def rows() -> Rows:
    return make_rows(3000)


def write_embedding_dataset(
    uri: str,
    rows: Rows,
    *,
    model: str = "a" * 64,
    vectors: Any = None,
    texts: Sequence[Text | None] | None = None,
    with_texts: Sequence[bool] = (True, True, True),
) -> str:
    """Embeddings of `rows` in one file for each of `with_texts`, as `crystalign embed` writes them.

    A file without texts is as an earlier release wrote it.
    """
    making = EmbeddingProvenance(model_sha256=model, dataset_sha256="d" * 64, modality="crystal")
    vectors = rows.vectors.astype(np.float32) if vectors is None else vectors
    plain = rows.table.append_column("split_formula", pa.array(np.linspace(0, 0.999, len(rows.ids))))
    cells = [None if text is None else TextModality.to_column(text) for text in texts or ()]
    table = plain if texts is None else plain.append_column("text", pa.array(cells, TextModality.column_type()))
    files = []
    for number, part in enumerate(np.array_split(np.arange(len(rows.ids)), len(with_texts))):
        kept = (table if with_texts[number] else plain).take(pa.array(part))
        written = embedding_table(kept, vectors[part], shard=number, positions=part, properties=rows.properties)
        files.append(write_embeddings(uri, f"part-{number}", written, making))
    manifest = EmbeddingManifest(
        model_uri="runs/first/model",
        model_sha256=model,
        modality="crystal",
        dimension=vectors.shape[1],
        dataset_uri="data",
        dataset_sha256="d" * 64,
        rows=len(rows.ids),
        properties=rows.properties,
        licences=("CC-BY-4.0",),
        files=tuple(files),
    )
    manifest.write(uri)
    return uri


@pytest.fixture(scope="session")
def write() -> Callable[..., str]:
    return write_embedding_dataset
