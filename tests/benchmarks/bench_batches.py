"""How an exact search scales with the number of queries that are passed together, beside bare batched FAISS.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_batches.py --rows 200000

The vectors are synthetic: clusters on the sphere with a long-tailed size (`tests/support/clustered_vectors.py`). Times
are of the processor, all threads together, so that other work on the machine counts little. Bare FAISS finds the same
number of rows with the same queries: `fp16` is a flat index of the same half-precision vectors, `fp32` one of vectors
in single precision, twice the memory. The rate is queries per second for a million rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tyro
from rich.console import Console
from rich.table import Table

from crystalign.config import Config
from crystalign.crystal import SYMBOLS
from crystalign.index.filter_fields import ELEMENT_COLUMNS, element_bits
from crystalign.index.search import Search, Segment

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from clustered_vectors import HULL, Corpus


class BenchBatches(Config):
    """Measure batches of searches."""

    rows: int = 200_000
    """Rows of the segment."""
    dimension: int = 192
    """Dimension of the vectors."""
    batches: tuple[int, ...] = (1, 16, 64, 1000)
    """Queries that are passed together."""
    k: int = 200
    """Results of each query, as of a powder pattern before it is reranked."""
    filter: str | None = None
    """Filter of all queries, such as _crystalign_energy_above_hull<0.05; bare FAISS has none."""
    repeats: int = 3
    """Each batch is timed this often, and the fastest counts."""


def main(config: BenchBatches) -> None:
    """Print the table."""
    import faiss

    corpus = Corpus(config.rows, config.dimension)
    pieces = list(corpus.pieces())
    vectors = np.concatenate([piece for _, piece in pieces])
    segment = Segment(with_bitmap(pa.concat_tables([table for table, _ in pieces])), vectors, [HULL])
    del pieces
    queries = corpus.queries("xrd", vectors[:100_000], max(config.batches))
    half: Any = faiss.IndexScalarQuantizer(config.dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    flat: Any = faiss.IndexFlatIP(config.dimension)
    for start in range(0, config.rows, 100_000):
        half.add(vectors[start : start + 100_000].astype(np.float32))
        flat.add(vectors[start : start + 100_000].astype(np.float32))
    table = Table("queries", "ours, rate", "FAISS fp16, rate", "FAISS fp32, rate", "ours / best FAISS", "ours / alone")
    alone = 0.0
    for size in config.batches:
        some = queries[:size]
        searches = [Search(query, config.k, config.filter) for query in some]
        segment.search_many(searches[:1])
        work = (
            lambda: segment.search_many(searches),  # noqa: B023
            lambda: half.search(some, config.k + 64),  # noqa: B023
            lambda: flat.search(some, config.k + 64),  # noqa: B023
        )
        ours, *bare = [size / best(one, config.repeats) * config.rows / 1e6 for one in work]
        alone = alone or ours
        cells = (f"{size:,}", f"{ours:,.1f}", *(f"{rate:,.1f}" for rate in bare))
        table.add_row(*cells, f"{ours / max(bare):.2f}", f"{ours / alone:.1f}")
    Console(width=110).print(f"{config.rows:,} × {config.dimension}, k = {config.k}, filter {config.filter}", table)


def with_bitmap(table: pa.Table) -> pa.Table:
    """The table with the elements as a bitmap, as an index stores them."""
    numbers = {symbol: z for z, symbol in enumerate(SYMBOLS)}
    bits = [element_bits(numbers[symbol] for symbol in row) for row in table["elements"].to_pylist()]
    for name, words in zip(ELEMENT_COLUMNS, zip(*bits, strict=True), strict=True):
        table = table.append_column(name, pa.array(words, type=pa.uint64()))
    return table


def best(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds of the fastest of several calls."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


if __name__ == "__main__":
    main(tyro.cli(BenchBatches))
