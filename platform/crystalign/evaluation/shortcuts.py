"""Baselines of retrieval: ranking by composition, electron count or volume alone.

They show how much of a recall needs no learning. Each shortcut is an oracle that knows one simple property of the
query's material exactly. It ranks the candidates by their difference in that property, with ties broken at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal
from crystalign.evaluation.retrieval import Scores

SHORTCUTS = ("composition", "electrons", "volume")
"""Ranking by atomic fractions of the elements, by electrons per atom, and by volume per atom."""


def shortcut_scores(name: str, crystals: Sequence[Crystal]) -> Scores:
    """Scores of a shortcut over a pool: minus the L1 distance in the property that it knows.

    Args:
        name: one of `SHORTCUTS`.
        crystals: the crystals of the pool, in order.
    """
    facts = _facts(name, crystals)
    return lambda rows: -_distance(facts[rows], facts)


def _facts(name: str, crystals: Sequence[Crystal]) -> NDArray[np.float32]:
    """(n, d) the property that the shortcut knows, rounded so that equal materials tie exactly."""
    if name == "composition":
        fractions = np.zeros((len(crystals), MAX_ATOMIC_NUMBER + 1), dtype=np.float32)
        for row, crystal in enumerate(crystals):
            amounts = crystal.composition
            for z, amount in amounts.items():
                fractions[row, z] = amount / sum(amounts.values())
        return fractions.round(5)
    if name == "electrons":
        per_atom = [sum(z * x for z, x in c.composition.items()) / sum(c.composition.values()) for c in crystals]
        return np.array(per_atom, dtype=np.float32).round(4)[:, None]
    assert name == "volume", name
    per_atom = [c.volume / sum(c.composition.values()) for c in crystals]  # partial occupancies count partly
    return np.array(per_atom, dtype=np.float32).round(4)[:, None]


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(q, n) L1 distances, summed one column at a time to save memory; columns that are zero are skipped."""
    total = np.zeros((len(a), len(b)), dtype=np.float32)
    for column in np.flatnonzero(b.any(axis=0)):
        total += np.abs(a[:, column, None] - b[None, :, column])
    return total.round(5)
