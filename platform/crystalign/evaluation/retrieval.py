"""Retrieval between modalities: given one view of a material, how high does another view of it rank?

A query i of modality a is scored against every candidate j of modality b by s_ij = ⟨z_i^a, z_j^b⟩.
Candidates that cannot be told apart from i in a or in b (`Modality.equivalence`) are taken out of
its pool: they are no misses, and no hits either. Of the n_i that remain,

    g_i = #{j ≠ i : s_ij > s_ii},    t_i = #{j ≠ i : s_ij = s_ii},

and with ties broken at random the expected hit is  P(rank ≤ k) = clip((k − g_i)/(t_i + 1), 0, 1).
Recall at k is its mean over the queries, chance is the mean of k/n_i, and the interval is a
bootstrap over *formulas*, because polymorphs of one formula succeed and fail together. Where all
queries fail (or all succeed) a bootstrap has nothing to resample; the interval is then the exact
binomial one over the G formulas, 1 − 0.025^(1/G) (or 0.025^(1/G)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RECALLS = (1, 5, 10, 25)
"""The k of every table."""
BOOTSTRAP = 1000
"""Resamples behind each interval."""

Scores = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Rows of the score matrix: positions of q queries in the pool → (q, n) scores against all of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each query."""

    above: NDArray[np.float64]
    """(q,) candidates that score higher than the right one, g."""
    ties: NDArray[np.float64]
    """(q,) wrong candidates that score the same, t."""
    pool: NDArray[np.float64]
    """(q,) candidates, the right one included, n."""
    groups: NDArray[np.int64]
    """(q,) what is resampled together: the formula."""

    def hits(self, k: int) -> NDArray[np.float64]:
        """(q,) probability that the right candidate is among the first k."""
        return np.clip((k - self.above) / (self.ties + 1.0), 0.0, 1.0)

    @property
    def ranks(self) -> NDArray[np.float64]:
        """(q,) expected ranks, 1 is best."""
        return 1.0 + self.above + self.ties / 2.0


@dataclass(frozen=True, slots=True)
class Recall:
    """One cell of a table: recall at k with its interval and what guessing would give."""

    k: int
    value: float
    low: float
    high: float
    chance: float


def score_by_embedding(queries: NDArray[np.float32], pool: NDArray[np.float32]) -> Scores:
    """Scores by the inner product of unit vectors, (n, D) each, aligned row by row."""
    return lambda rows: queries[rows] @ pool.T


def retrieve(
    scores: Scores,
    keys: Sequence[NDArray[np.int64]],
    groups: NDArray[np.int64],
    *,
    within: NDArray[np.int64] | None = None,
    chunk: int = 256,
) -> Outcome:
    """Rank the right candidate of every row of a pool of n among the others.

    Args:
        scores: rows of the (n, n) score matrix; query i's right candidate is column i.
        keys: arrays (n,) or (n, K) of equivalence keys; candidates that share one with the query leave its pool.
        groups: (n,) formula of each row, for the bootstrap.
        within: (n,) classes; where given, a query competes inside its own class only, and a query that
            is alone there is dropped.
        chunk: queries scored at once; memory is chunk × n.
    """
    n = len(groups)
    queries = np.arange(n)
    columns = [column for key in keys for column in key.reshape(n, -1).T]
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
    keep = pool > 1  # a query whose rivals are all equivalent to it asks nothing
    return Outcome(above[keep], ties[keep], pool[keep], groups[queries][keep])


def recalls(outcome: Outcome, *, ks: Sequence[int] = RECALLS, seed: int = 0) -> list[Recall]:
    """Recall at each k with a 95 % interval; a k that reaches the mean pool size says nothing and is left out."""
    if len(outcome.pool) == 0:
        return []
    _, inverse = np.unique(outcome.groups, return_inverse=True)
    n_groups = int(inverse.max()) + 1
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), size=BOOTSTRAP).astype(np.float64)
    sizes = np.bincount(inverse, minlength=n_groups)
    found = []
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
        found.append(Recall(k, float(hits.mean()), float(low), float(high), chance))
    return found


def median_rank(outcome: Outcome) -> float:
    """Median over queries of the expected rank."""
    return float(np.median(outcome.ranks)) if len(outcome.pool) else float("nan")
