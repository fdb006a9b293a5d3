"""Recall, latency, memory and build time of every kind of index, beside bare FAISS in the same process.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_index.py --rows 200000 --folder bench_index

The vectors are synthetic: clusters on the sphere with a long-tailed size, and queries with more noise and an offset for
modalities other than the indexed one (`tests/support/clustered_vectors.py`). Recall@10 is against an exact search. The
floor of a latency is bare FAISS without a filter, in half precision: all rows for the exact kind, 16 lists for the
others.

`--peers lancedb qdrant-edge usearch` adds other vector stores on the same rows and filters (`index_peers.py`). Each row
of their table is the fastest setting with a recall@10 of at least 0.99, or the one that finds most. They choose their
own number of threads.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro
from index_peers import PEERS, Peer
from rich.console import Console
from rich.table import Table

from crystalign.config import Config
from crystalign.index.build import build_index
from crystalign.index.manifest import IndexManifest
from crystalign.index.search import Search, Segment

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from clustered_vectors import NOISE, Corpus, write_corpus, write_queries

SELECTIVITIES = (1.0, 0.1, 0.01, 0.001, 0.0001)
HULL, ENOUGH = "energy_above_hull", 0.99


class BenchIndex(Config):
    """Measure kinds of index."""

    folder: Path
    """Where embeddings and indexes are kept, so that a second run does not build them again."""
    rows: int = 200_000
    """Rows of the index."""
    dimension: int = 192
    """Dimension of the vectors."""
    kinds: tuple[str, ...] = ("exact-fp16", "ivf-fp16", "ivf-sq8", "ivf-rabitq")
    """Kinds to measure; the first must be exact."""
    peers: tuple[str, ...] = ()
    """Other vector stores to measure: lancedb, qdrant-edge, usearch."""
    queries: int = 50
    """Queries of each modality and filter."""
    batch: int = 16
    """Searches that are passed together."""
    repeats: int = 3
    """Each search is timed this often, and the fastest counts."""


def main(config: BenchIndex) -> None:
    """Print the tables."""
    corpus = Corpus(config.rows, config.dimension)
    embeddings, queries = make_corpus(config, corpus)
    summary = Table("kind", "build, s", "open, s", "memory, MB", f"{config.batch} together, ms each")
    table = Table("kind", "queries", "filter", "recall@10", "p50, ms", "p99, ms", "first filter, ms", "/ FAISS")
    truth: dict[tuple[str, float], list[Any]] = {}
    for kind in config.kinds:
        out = str(config.folder / kind)
        build = seconds(lambda: build_index(embeddings, out, kind=kind, queries=query_uris(config)))  # noqa: B023
        before, manifest = psutil.Process().memory_info().rss, IndexManifest.read(out)
        opened: list[Segment] = []
        start = seconds(lambda: opened.append(Segment.load(out, manifest)))  # noqa: B023
        (segment,) = opened
        memory = (psutil.Process().memory_info().rss - before) / 1e6
        together = batch_time(segment, queries["crystal"], config)
        summary.add_row(kind, f"{build:.1f}", f"{start:.1f}", f"{memory:.0f}", f"{together:.2f}")
        floor = bare_faiss(segment, queries["crystal"], config)
        for cells in measure(segment, queries, truth, config, floor):
            table.add_row(kind, *cells)
        opened.clear()
        del segment
    tables = [summary, table]
    if config.peers:
        exact = Segment.load(
            str(config.folder / config.kinds[0]), IndexManifest.read(str(config.folder / config.kinds[0]))
        )
        tables += peer_tables(exact, queries, truth, config)
    Console(width=120).print(f"{config.rows:,} × {config.dimension}, {psutil.cpu_count()} cores", *tables)


def peer_tables(
    segment: Segment, queries: dict[str, np.ndarray], truth: dict[tuple[str, float], list[Any]], config: BenchIndex
) -> list[Table]:
    """Build time, memory, recall and latencies of other vector stores with the rows of an exact segment."""
    summary = Table("peer", "build, s", "memory, MB")
    table = Table("peer", "queries", "filter", "effort", "recall@10", "p50, ms", "p99, ms")
    ids = segment.table["id"].to_pylist()
    numbers = segment.table[next(name for name in segment.table.column_names if HULL in name)].to_numpy()
    for name in config.peers:
        before = psutil.Process().memory_info().rss
        with tempfile.TemporaryDirectory(prefix="bench-index-") as folder:
            peer, took = built(PEERS[name], Path(folder) / name, segment, numbers)
            memory = (psutil.Process().memory_info().rss - before) / 1e6
            summary.add_row(name, f"{took:.1f}", f"{memory:.0f}")
            for (modality, selectivity), exact in truth.items():
                limit = None if selectivity == 1.0 else selectivity
                cells = tuned(peer, queries[modality], limit, ids, exact, config)
                table.add_row(name, modality, f"{selectivity:.2%}", *cells)
            del peer
    return [summary, table]


def built(kind: type[Peer], folder: Path, segment: Segment, numbers: np.ndarray) -> tuple[Peer, float]:
    """A peer with the rows of a segment, and the seconds that building took."""
    vectors = segment.vectors(np.arange(len(segment))).astype(np.float32)
    started = time.perf_counter()
    peer = kind.build(folder, vectors, numbers)
    return peer, time.perf_counter() - started


def tuned(
    peer: Peer, vectors: np.ndarray, below: float | None, ids: list[str], exact: list[Any], config: BenchIndex
) -> tuple[str, ...]:
    """Effort, recall and latencies of the fastest setting that finds enough, or of the last."""
    for effort in peer.efforts:
        found = [{ids[row] for row in peer.search(query, below, effort)} for query in vectors]
        recall = np.mean([len(a & set(b)) / max(1, len(b)) for a, b in zip(found, exact, strict=True)])
        if recall >= ENOUGH or effort == peer.efforts[-1]:
            break
    times = [best(lambda: peer.search(query, below, effort), config.repeats) for query in vectors]  # noqa: B023
    p50, p99 = np.percentile(times, [50, 99])
    return str(effort), f"{recall:.4f}", f"{p50:.2f}", f"{p99:.2f}"


def make_corpus(config: BenchIndex, corpus: Corpus) -> tuple[str, dict[str, np.ndarray]]:
    """The embeddings on disk, and modality → queries for timing; others are on disk for measuring the recall."""
    embeddings = str(config.folder / "embeddings")
    _, vectors = next(iter(corpus.pieces()))
    if not (config.folder / "embeddings" / "manifest.json").exists():
        write_corpus(embeddings, corpus)
        for modality in NOISE:
            held_out = corpus.queries(modality, vectors, 2 * 200)[200:]
            write_queries(str(config.folder / modality), modality, held_out)
    return embeddings, {modality: corpus.queries(modality, vectors, config.queries) for modality in NOISE}


def query_uris(config: BenchIndex) -> list[str]:
    """The queries on which recall is measured."""
    return [str(config.folder / modality) for modality in NOISE]


def measure(
    segment: Segment,
    queries: dict[str, np.ndarray],
    truth: dict[tuple[str, float], list[Any]],
    config: BenchIndex,
    floor: float,
) -> Iterator[tuple[str, ...]]:
    """Recall and latencies for each modality and filter; fills in the truth if the kind is the first."""
    for modality, vectors in queries.items():
        for selectivity in SELECTIVITIES:
            text = None if selectivity == 1.0 else f"_crystalign_energy_above_hull<{selectivity}"
            segment.allowed.cache_clear()
            first = 1e3 * seconds(lambda: segment.allowed(text))  # noqa: B023
            searches = [Search(query, 10, text, (modality,)) for query in vectors]
            found = [segment.search_many([search])[0] for search in searches]
            exact = truth.setdefault((modality, selectivity), [one.ids for one in found])
            recall = np.mean([len(set(a.ids) & set(b)) / max(1, len(b)) for a, b in zip(found, exact, strict=True)])
            times = [best(lambda: segment.search_many([search]), config.repeats) for search in searches]  # noqa: B023
            p50, p99 = np.percentile(times, [50, 99])
            cells = (f"{recall:.4f}", f"{p50:.2f}", f"{p99:.2f}", f"{first:.1f}", f"{p50 / floor:.2f}")
            yield modality, f"{selectivity:.2%}", *cells


def batch_time(segment: Segment, vectors: np.ndarray, config: BenchIndex) -> float:
    """Milliseconds for each of several searches that are passed together."""
    searches = [Search(query, 10, None, ("crystal",)) for query in vectors[: config.batch]]
    return best(lambda: segment.search_many(searches), config.repeats) / len(searches)


def bare_faiss(segment: Segment, vectors: np.ndarray, config: BenchIndex) -> float:
    """Milliseconds of one search without a filter by FAISS alone, in one thread."""
    import faiss

    faiss.omp_set_num_threads(1)
    index: Any = getattr(segment.store, "_index", None)
    stored = segment.vectors(np.arange(len(segment))).astype(np.float32)
    if index is None:
        index = faiss.IndexScalarQuantizer(stored.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index.add(stored)
        params = None
    else:
        params = faiss.SearchParametersIVF(nprobe=16)
    return float(np.median([best(lambda: index.search(q[None], 74, params=params), config.repeats) for q in vectors]))  # noqa: B023


def seconds(work: Callable[[], object]) -> float:
    """Duration of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def best(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of the fastest of several calls."""
    return 1e3 * min(seconds(work) for _ in range(repeats))


if __name__ == "__main__":
    main(tyro.cli(BenchIndex))
