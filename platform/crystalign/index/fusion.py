"""Rank fusion: combine the rankings of several scores into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

K = 60.0
"""The constant k of the paper; the larger it is, the more slowly the weight falls with the rank."""


def reciprocal_rank_fusion(
    *scores: ArrayLike, k: float = K, weights: Sequence[float] | None = None
) -> NDArray[np.float64]:
    """Σ_s w_s / (k + rank_s(i)), ranks from 1 by descending score (Cormack, Clarke & Büttcher, SIGIR 2009, 758).

    Only the order within each score matters, so scores of different scales can be combined without weights.

    Args:
        scores: (n,) each; −∞ for a candidate without this score, to which it adds nothing. Equal scores are ranked
            in the given order.
        k: constant of the formula; large values make the first ranks nearly equal.
        weights: weight w_s of each score; None means 1.

    Returns:
        (n,) fused scores; larger is better.
    """
    fused = np.zeros(len(np.asarray(scores[0])))
    for weight, score in zip(weights or (1.0,) * len(scores), scores, strict=True):
        values = np.asarray(score, np.float64)
        ranks = np.empty(len(values))
        ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
        fused += np.where(np.isneginf(values), 0.0, weight / (k + ranks))
    return fused
