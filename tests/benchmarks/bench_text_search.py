"""Precision at 10 of typed queries: by words, by vectors, by both, and with the parser of the service.

    python tests/benchmarks/bench_text_search.py INDEX --data FOLDER

FOLDER holds `materials_project/`, from which the index was made. The queries and what is relevant
for each are those of `text_queries.yaml`, judged by `text_relevance.py`, which does not know the search.
Where fewer than ten rows are relevant, the precision is the share of these that are among the first ten.
Settings may be tuned on the development half; the test half is what counts. Two rows for comparison: *random*
order, and *elements*: only the formulas and elements of a query are used.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table
from text_metadata import Metadata
from text_relevance import QUERIES, Query, load_queries, precision_at_10, relevant

from crystalign.config import Config
from crystalign.index.index import Index
from crystalign.index.lexical import Lexicon
from crystalign.model import load
from crystalign.text_query.chips import Understanding
from crystalign.text_query.understanding import understand
from crystalign_serve.backend import IndexSearch, LocalBackend, merge_shards, search_shard
from crystalign_serve.tiers import merge_tiers, tier_searches

K = 10
COMPOSITION = {"formula", "elements", "chemical system"}
"""Kinds of chips that the row *elements* uses."""
Ranking = Callable[[str], Sequence[str]]


class BenchTextSearch(Config):
    """Measure the precision of typed queries."""

    index: tyro.conf.Positional[str]
    """URI of the index."""
    data: str
    """Folder that holds `materials_project/`."""
    queries: tuple[Path, ...] = (QUERIES,)
    """YAML files of queries, which share their definitions."""
    half: Literal["development", "test", "both"] = "both"
    """Which queries."""
    misses: bool = False
    """Print the queries for which the whole search finds less than 0.8, with what was understood and found."""


class Systems:
    """The ways to answer a query that are compared."""

    def __init__(self, index: Index) -> None:
        self.index, self.segment = index, index.segment
        self.model = load(index.manifest.model_uri)
        self.lexicon = index.manifest.read_lexicon(index.uri) or Lexicon(texts=0, holding={})
        self.backend = LocalBackend(self.model, [self.segment])

    def rankings(self) -> dict[str, Ranking]:
        """Name of a system → query → ids, best first."""
        return {
            "elements": self.elements,
            "words": self.words,
            "vectors": self.vectors,
            "words + vectors": self.fused,
            "words + vectors + parser": self.whole,
        }

    def elements(self, text: str) -> Sequence[str]:
        """Rows that satisfy the conditions on composition, in a random order; then others."""
        chips = [chip for chip in self.understood(text).chips if chip.kind in COMPOSITION]
        condition = " AND ".join(f"({chip.filter})" for chip in chips) or None
        noise = np.random.default_rng(len(text)).normal(size=(1, self.segment.dimension))
        return self.segment.search(noise, K, condition)[0].ids

    def words(self, text: str) -> Sequence[str]:
        """BM25 of all words; rows of equal score are in a random order."""
        noise = np.random.default_rng(len(text)).normal(size=self.segment.dimension)
        return self.segment.search_words(self.lexicon.weights(text), noise, K).ids

    def vectors(self, text: str) -> Sequence[str]:
        """The similarity of the vector of the text."""
        return self.segment.search(self.encoded(text), K)[0].ids

    def fused(self, text: str) -> Sequence[str]:
        """Both rankings, without the parser."""
        search = IndexSearch(self.encoded(text)[0], K, words=self.lexicon.weights(text) or None)
        return [record["id"] for record in merge_shards([search_shard(self.segment, search)], search, 1).records]

    def whole(self, text: str) -> Sequence[str]:
        """What the service does."""
        understood = self.understood(text)
        words = self.lexicon.weights(understood.rest) or None
        search = IndexSearch(self.encoded(text)[0], K, words=words)
        answers = [asyncio.run(self.backend.search(one)) for one in tier_searches(search, understood.tiers())]
        return [record["id"] for record in merge_tiers(answers, K).answer.records]

    def understood(self, text: str) -> Understanding:
        """What the parser makes of a query."""
        return understand(text, self.segment.fields)

    def encoded(self, text: str) -> np.ndarray:
        """(1, D) the vector of a text."""
        return self.model.embed("text", [text])


def main(config: BenchTextSearch) -> None:
    """Print the table."""
    index = Index.open(config.index)
    systems = Systems(index)
    folder = Path(config.data) / "materials_project"
    pool = set(index.segment.table["id"].to_pylist())
    metadata = Metadata(*(_rows(folder / name, pool) for name in ("crystals.parquet", "properties.parquet")))
    queries = load_queries(config.queries)
    answers: dict[str, set[str]] = {}
    for query in track(queries, "judging", transient=True):
        answers[query.query] = relevant(query.relevant, metadata)
    chosen = [q for q in queries if config.half in {q.half, "both"} and len(answers[q.query]) >= 3]
    scores = {"random": [_random(len(answers[q.query]), len(pool)) for q in chosen]}
    for name, ranking in systems.rankings().items():
        scores[name] = [
            precision_at_10(ranking(q.query), answers[q.query]) for q in track(chosen, name, transient=True)
        ]
    _show(chosen, scores, len(pool), index)
    if config.misses:
        _misses(systems, chosen, scores["words + vectors + parser"], answers)


def _rows(path: Path, ids: set[str]) -> pa.Table:
    """The rows of a table that are in the index."""
    table = pq.read_table(path)
    return table.filter(pc.is_in(table["material_id"], pa.array(sorted(ids))))


def _random(n_relevant: int, rows: int) -> float:
    return K * n_relevant / rows / min(K, n_relevant)


def _show(queries: Sequence[Query], scores: dict[str, list[float]], rows: int, index: Index) -> None:
    table = Table(title=f"precision at {K}, {rows:,} rows, model {index.manifest.model_sha256[:12]}")
    table.add_column("search")
    halves = [half for half in ("development", "test") if any(q.half == half for q in queries)]
    for half in halves:
        table.add_column(f"{half} ({sum(q.half == half for q in queries)} queries)", justify="right")
    for name, values in scores.items():
        cells = []
        for half in halves:
            these = np.array([value for q, value in zip(queries, values, strict=True) if q.half == half])
            low, high = _interval(these)
            cells.append(f"{these.mean():.3f} [{low:.2f}, {high:.2f}]")
        table.add_row(name, *cells)
    Console(width=110).print(table)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean over queries, by bootstrap."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1)
    return float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))


def _misses(systems: Systems, queries: Sequence[Query], scores: Sequence[float], answers: dict[str, set[str]]) -> None:
    """The development queries that are answered badly; those of the test half are only counted."""
    formulas = dict(zip(*(systems.segment.table[name].to_pylist() for name in ("id", "formula")), strict=True))
    for query, score in zip(queries, scores, strict=True):
        if score >= 0.8 or query.half == "test":
            continue
        understood = systems.understood(query.query)
        wrong = [x for x in systems.whole(query.query) if x not in answers[query.query]]
        right = random.Random(0).sample(sorted(answers[query.query]), 3)
        print(f"{score:.1f} {query.query!r} ({len(answers[query.query])} relevant)")
        print("     chips:", "; ".join(f"{c.words} → {c.filter}" for c in understood.chips), "| rest:", understood.rest)
        print("     wrong:", ", ".join(f"{x} {formulas[x]}" for x in wrong[:4]))
        print("     right:", ", ".join(f"{x} {formulas[x]}" for x in right))


if __name__ == "__main__":
    main(tyro.cli(BenchTextSearch))
