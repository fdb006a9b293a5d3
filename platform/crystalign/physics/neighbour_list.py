"""Periodic neighbour lists: one edge per pair of atom and image, and complete neighbour shells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError
from crystalign.periodic import Neighbours, pairs_within

TIE_TOLERANCE = 1e-3
"""Å; distances that differ by less belong to one shell."""


def neighbours(
    crystal: Crystal, *, cutoff: float, k: int | None = None, tie_tolerance: float = TIE_TOLERANCE
) -> Neighbours:
    """All periodic neighbours within a radius, or the k nearest of them.

    Two images of one atom are two edges with their own lengths, and an atom can be a neighbour of its own images.
    The edges therefore do not depend on the choice of cell: a supercell repeats them.

    Args:
        crystal: the structure.
        cutoff: Å; pairs farther apart are not neighbours.
        k: keep the `k` nearest neighbours of each site. Shells are kept whole, so there can be more. A site without
            a neighbour within `cutoff` keeps its nearest shell at any distance.
        tie_tolerance: Å; atoms whose distance exceeds that of the k-th neighbour by no more belong to its shell.

    Raises:
        CrystalError: reason `no-neighbours`, if `k` is None and a site has no neighbour within `cutoff`.
    """
    n = len(crystal)
    if k is None:
        candidates = within(crystal, cutoff)
        if len(np.unique(candidates.receivers)) < n:
            raise CrystalError(
                f"a site of {crystal.formula} has no neighbour within {cutoff} Å; use a larger cutoff or k nearest",
                reason="no-neighbours",
            )
        return candidates
    radius = min(cutoff, (0.5 * k * crystal.volume / n) ** (1 / 3))  # holds about 2 k atoms where density is even
    while True:
        candidates = within(crystal, radius + tie_tolerance)
        counts = np.bincount(candidates.receivers, minlength=n)
        if counts.min() > 0:
            first = np.concatenate([[0], np.cumsum(counts)[:-1]])
            reach = candidates.distances[first + np.minimum(k, counts) - 1]
            complete = counts.min() >= k and reach.max() <= radius
            if complete or (radius >= cutoff and candidates.distances[first].max() <= radius):
                return _nearest(candidates, first, reach, cutoff, tie_tolerance)
        radius = min(radius * 1.3, cutoff) if radius < cutoff else radius * 1.3


def _nearest(
    candidates: Neighbours, first: NDArray[np.int64], reach: NDArray[np.float64], cutoff: float, tolerance: float
) -> Neighbours:
    """Keep each site's edges up to `reach` and `cutoff`; a site with none within `cutoff` keeps its first shell."""
    nearest = candidates.distances[first]
    limit = np.where(nearest <= cutoff, np.minimum(reach + tolerance, cutoff + tolerance), nearest + tolerance)
    keep = candidates.distances <= limit[candidates.receivers]
    senders, receivers, images, distances, vectors = candidates
    return Neighbours(senders[keep], receivers[keep], images[keep], distances[keep], vectors[keep])


def within(crystal: Crystal, cutoff: float) -> Neighbours:
    """Every pair of sites up to `cutoff` (Å) apart, an atom and its own images included, but not itself."""
    return pairs_within(crystal.lattice, crystal.cart_coords, cutoff)
