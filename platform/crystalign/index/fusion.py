"""One order out of several: what different scores agree on comes first."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

K = 60.0
"""Of the paper; how fast the weight of a rank falls off."""


def reciprocal_rank_fusion(*scores: ArrayLike, k: float = K) -> NDArray[np.float64]:
    """Σ_s 1 / (k + rank_s(i)), ranks from 1 by descending score (Cormack, Clarke & Büttcher, SIGIR 2009, 758).

    Only the order within each score counts, so that scores of any scale fuse without weights.

    Args:
        scores: (n,) each; −∞ where a score does not know a candidate, which then adds nothing. Of equal
            scores the first comes first.
        k: large values make the first ranks alike.

    Returns:
        (n,), the larger the better.
    """
    fused = np.zeros(len(np.asarray(scores[0])))
    for score in scores:
        values = np.asarray(score, np.float64)
        ranks = np.empty(len(values))
        ranks[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
        fused += np.where(np.isneginf(values), 0.0, 1.0 / (k + ranks))
    return fused
