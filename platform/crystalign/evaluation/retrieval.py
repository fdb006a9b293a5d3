"""Retrieval between modalities: the rank of a material's own embedding in another modality.

A query i of modality a is scored against every candidate j of modality b by s_ij = ⟨z_i^a, z_j^b⟩.
Candidates that are equivalent to i in a or in b (`Modality.equivalence`) are removed from the pool of i, so they
count neither as hits nor as misses. Among the n_i that remain,

    g_i = #{j ≠ i : s_ij > s_ii},    t_i = #{j ≠ i : s_ij = s_ii},

and with ties broken at random the expected hit is  P(rank ≤ k) = clip((k − g_i)/(t_i + 1), 0, 1).
Recall at k is its mean over the queries, and chance is the mean of k/n_i. The interval is a bootstrap over
*formulas*, because the results of polymorphs are correlated. If all queries fail (or all succeed), resampling gives
no spread; the interval is then the exact binomial one over the G formulas, with the bound 1 − 0.025^(1/G) (or
0.025^(1/G)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RECALLS = (1, 5, 10, 25)
"""The values of k in every table."""
BOOTSTRAP = 1000
"""Number of resamples for each interval."""

Scores = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Returns rows of the score matrix: positions of q queries in the pool → (q, n) scores against the whole pool."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of each query."""

    above: NDArray[np.float64]
    """(q,) g: number of candidates with a higher score than the correct one."""
    ties: NDArray[np.float64]
    """(q,) t: number of other candidates with the same score as the correct one."""
    pool: NDArray[np.float64]
    """(q,) n: number of candidates, including the correct one."""
    groups: NDArray[np.int64]
    """(q,) formula of each query, as an integer; queries of one formula are resampled together."""

    def hits(self, k: int) -> NDArray[np.float64]:
        """(q,) probability that the correct candidate is among the first k."""
        return np.clip((k - self.above) / (self.ties + 1.0), 0.0, 1.0)

    @property
    def ranks(self) -> NDArray[np.float64]:
        """(q,) expected rank of the correct candidate; 1 is best."""
        return 1.0 + self.above + self.ties / 2.0


@dataclass(frozen=True, slots=True)
class Recall:
    """Recall at k with its interval and the recall of random guessing."""

    k: int
    """Number of candidates that are looked at."""
    value: float
    """Recall, 0 to 1."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    chance: float
    """Recall of random guessing."""


def score_by_embedding(queries: NDArray[np.float32], pool: NDArray[np.float32]) -> Scores:
    """Scores by the inner product of unit vectors, (n, D) each; row i of both belongs to the same material."""
    return lambda rows: queries[rows] @ pool.T


def retrieve(
    scores: Scores,
    keys: Sequence[NDArray[np.int64]],
    groups: NDArray[np.int64],
    *,
    within: NDArray[np.int64] | None = None,
    chunk: int = 256,
) -> Outcome:
    """Rank the correct candidate of every query in a pool of n materials.

    Args:
        scores: rows of the (n, n) score matrix; the correct candidate of query i is column i.
        keys: arrays (n,) or (n, K) of equivalence keys; candidates that share a key with the query leave its pool.
        groups: (n,) formula of each row, for the bootstrap.
        within: (n,) classes; if given, only materials of the query's own class are candidates, and a query without
            any other material in its class is dropped.
        chunk: number of queries scored at once; memory is proportional to chunk × n.

    Returns:
        The outcome of each query that has at least one other candidate.
    """
    n = len(groups)
    queries = np.arange(n)
    columns = [column for key in keys for column in (key.T if key.ndim == 2 else key[None])]
    if within is not None:
        _, inverse, counts = np.unique(within, return_inverse=True, return_counts=True)
        queries = queries[counts[inverse] > 1]
    above, ties, pool = (np.zeros(len(queries)) for _ in range(3))
    for start in range(0, len(queries), chunk):
        rows = queries[start : start + chunk]
        block = scores(rows)
        own = block[np.arange(len(rows)), rows][:, None]
        rival = np.ones(block.shape, dtype=bool)
        for key in columns:
            rival &= key[rows][:, None] != key[None, :]
        if within is not None:
            rival &= within[rows][:, None] == within[None, :]
        rival[np.arange(len(rows)), rows] = False
        done = slice(start, start + len(rows))
        above[done] = ((block > own) & rival).sum(1)
        ties[done] = ((block == own) & rival).sum(1)
        pool[done] = rival.sum(1) + 1
    keep = pool > 1  # a query whose rivals are all equivalent to it has only one candidate
    return Outcome(above[keep], ties[keep], pool[keep], groups[queries][keep])


def recalls(outcome: Outcome, *, ks: Sequence[int] = RECALLS, seed: int = 0) -> list[Recall]:
    """Recall at each k with a 95 % interval; values of k not below the mean pool size are left out."""
    if len(outcome.pool) == 0:
        return []
    _, inverse = np.unique(outcome.groups, return_inverse=True)
    n_groups = int(inverse.max()) + 1
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), size=BOOTSTRAP).astype(np.float64)
    sizes = np.bincount(inverse, minlength=n_groups)
    results = []
    for k in ks:
        if k >= outcome.pool.mean():
            continue
        hits = outcome.hits(k)
        sums = np.bincount(inverse, weights=hits, minlength=n_groups)
        means = (weights @ sums) / (weights @ sizes)
        low, high = np.quantile(means, (0.025, 0.975))
        low = min(low, 0.025 ** (1 / n_groups)) if hits.min() == 1.0 else low
        high = max(high, 1 - 0.025 ** (1 / n_groups)) if hits.max() == 0.0 else high
        chance = float(np.minimum(k / outcome.pool, 1.0).mean())
        results.append(Recall(k, float(hits.mean()), float(low), float(high), chance))
    return results


def median_rank(outcome: Outcome) -> float:
    """Median over queries of the expected rank."""
    return float(np.median(outcome.ranks)) if len(outcome.pool) else float("nan")
