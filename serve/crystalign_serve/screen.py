"""`crystalign screen`: many queries against an index at once, without a service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from tyro.conf import Positional

from crystalign.config import Config
from crystalign.storage import Uri
from crystalign_serve.requests import MAX_K

if TYPE_CHECKING:
    from crystalign_serve.screening.plan import Receipt

SHOWN = 5
"""Queries whose best hit is printed, and number of reasons for refusals."""


class Screen(Config):
    """Search an index with thousands of queries, each with the answer that the service would give.

    QUERIES is a folder of files (powder patterns, densities of states, CIFs, …), a `.parquet` table whose columns are
    parts of a query (text, formula, id, cif, …, and `name`), or a dataset, whose ids are then the queries. Every
    segment of the index is read once for all queries. Queries that cannot be used are recorded with the reason. A run
    that was interrupted continues with the same command.

    Example: crystalign screen patterns/ --index s3://bucket/index --out hits.parquet
    """

    queries: Positional[Uri]
    """URI of a folder of files, a .parquet table, or a dataset."""
    index: Uri
    """URI of the index, as written by `crystalign index`."""
    out: Uri
    """The .parquet file of hits; beside it, NAME.queries.parquet gets a row per query and NAME.receipt.json the
    receipt."""
    model: Uri | None = None
    """URI of the model that made the index; default: the URI recorded in the index."""
    dataset: Uri | None = None
    """URI of the dataset that was embedded; default: the URI recorded in the index."""
    filter: str | None = None
    """OPTIMADE filter of all queries, e.g. 'elements HAS "Li"'; evaluated before the search."""
    k: int = Field(default=10, ge=1, le=MAX_K)
    """Number of results of each query."""
    rerank: int = Field(default=200, ge=0, le=MAX_K)
    """For powder patterns: number of candidates (at least k) to rerank by pattern match; 0: none."""
    literal: bool = False
    """Do not read the words of texts and formulas as conditions; only compare them."""
    kind: str = "auto"
    """Kind of the files in a folder: dos, xrd, cif, …; `auto` detects it for each file."""
    wavelength: str | None = None
    """Wavelength of powder patterns whose files do not state it: CuKa, CoKa, MoKa, …, or Å."""
    rows_per_task: int = Field(default=1_000_000, ge=1)
    """Rows of the index that one task holds in memory, about 1 kB each."""
    address: str | None = None
    """Ray cluster; default: RAY_ADDRESS, else this machine."""


def main(config: Screen) -> Receipt:
    """Screen, and print a summary.

    Raises:
        ConfigError: there are no queries, other hits or other files at `out`, or it is in the folder of queries.
        DatasetError: there is no index, or its dataset has changed.
        ModelError: the model is not the one of the index.
    """
    from crystalign.index.filters import compile_filter
    from crystalign_serve.files import Upload, check_kind
    from crystalign_serve.requests import SearchOptions
    from crystalign_serve.screening.places import Places
    from crystalign_serve.screening.plan import BLOCK, Plan, open_model, open_plan
    from crystalign_serve.screening.run import run
    from crystalign_serve.screening.source import open_queries

    places = Places(config.out)
    check_kind(Upload("", b"", config.kind, None))
    queries, blocks = open_queries(config.queries, BLOCK, config.kind, config.wavelength)
    options = SearchOptions(k=config.k, filter=config.filter, rerank=config.rerank, literal=config.literal)
    plan = Plan.of(config.index, config.model, config.dataset, queries, options)
    fields = open_plan(plan).service.fields
    open_model(plan.model, plan.model_sha256)
    if config.filter is not None:
        for warning in compile_filter(config.filter, fields).warnings:
            print(f"note: {warning}")
    print(f"screening {queries.count:,} queries ({queries.form}) at {queries.uri} against {config.index}")
    print(f"writing to {places.hits}\n├─ {places.outcomes}  a row per query\n└─ {places.receipt}  written last")
    receipt = run(plan, blocks, config.out, rows_per_task=config.rows_per_task, address=config.address)
    show(receipt, places.hits, places.outcomes)
    print(f"next: crystalign replay {places.receipt}")
    return receipt


def show(receipt: Receipt, hits: str, outcomes: str) -> None:
    """Print how many queries were answered and refused, why, how sure the answers are, and the best hits."""
    from collections import Counter

    import pyarrow.parquet as pq

    from crystalign import storage

    with storage.open_input(outcomes) as source:
        table = pq.read_table(source, columns=["query", "refused", "problem", "hits", "level"])
    rows = table.to_pylist()
    empty = sum(row["refused"] is None and not row["hits"] for row in rows)
    print(f"{receipt.rows:,} hits of {len(rows) - receipt.refused:,} queries; {empty:,} of them have none")
    levels = Counter(row["level"] for row in rows if row["level"] is not None)
    if levels:
        print("confidence: " + ", ".join(f"{levels[level]:,} {level}" for level in ("high", "medium", "low")))
    reasons = Counter(row["refused"] for row in rows if row["refused"] is not None)
    examples = {row["refused"]: row for row in reversed(rows) if row["refused"] is not None}
    for reason, count in reasons.most_common(SHOWN):
        row = examples[reason]
        print(f"refused: {count:,} × {reason}, such as {row['query']}: {row['problem'][:200]}")
    with storage.open_input(hits) as source:
        first = pq.ParquetFile(source)
        batches = first.iter_batches(1000, columns=["query", "rank", "id", "formula", "score"])
        best = [row for row in next(batches, first.schema_arrow.empty_table()).to_pylist() if row["rank"] == 1]
    for row in best[:SHOWN]:
        print(f"  {row['query']}: {row['id']} {row['formula']} {row['score']:.4f}")
