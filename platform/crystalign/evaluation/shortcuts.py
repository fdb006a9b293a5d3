"""What a query's composition, electron count or volume alone would score.

A retrieval number means little until one knows how much of it needs no learning. Each shortcut is
an oracle: it is *told* one plain fact of the query's material exactly and ranks the candidates by
how close they come in it, ties broken at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import MAX_ATOMIC_NUMBER, Crystal
from crystalign.evaluation.retrieval import Scores

SHORTCUTS = ("composition", "electrons", "volume")
"""Fractions of the elements · electrons per atom · volume per atom."""


def shortcut_scores(name: str, crystals: Sequence[Crystal]) -> Scores:
    """Scores of a shortcut over a pool: minus the distance in the one fact that it knows.

    Args:
        name: one of `SHORTCUTS`.
        crystals: the pool, in order.
    """
    facts = _facts(name, crystals)
    return lambda rows: -_distance(facts[rows], facts)


def _facts(name: str, crystals: Sequence[Crystal]) -> NDArray[np.float32]:
    """(n, d) the fact, rounded so that equal materials tie exactly."""
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
    per_atom = [c.volume / sum(c.composition.values()) for c in crystals]  # a partly empty site is less than an atom
    return np.array(per_atom, dtype=np.float32).round(4)[:, None]


def _distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(q, n) L1 distances; over the elements that occur, one column at a time to stay small."""
    total = np.zeros((len(a), len(b)), dtype=np.float32)
    for column in np.flatnonzero(b.any(axis=0)):
        total += np.abs(a[:, column, None] - b[None, :, column])
    return total.round(5)
