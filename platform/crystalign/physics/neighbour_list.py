"""Which atoms surround which: periodic neighbour shells, every image an edge of its own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError

TIE_TOLERANCE = 1e-3
"""Å; distances that differ by less belong to one shell."""


class Neighbours(NamedTuple):
    """A directed graph from each neighbour to the site that it surrounds, sorted by receiver, then distance."""

    senders: NDArray[np.int64]
    """(E,) the neighbour."""
    receivers: NDArray[np.int64]
    """(E,) the site at the centre."""
    images: NDArray[np.int64]
    """(E, 3) the lattice translation of the sender."""
    distances: NDArray[np.float64]
    """(E,) Å."""
    vectors: NDArray[np.float64]
    """(E, 3) Å, from receiver to sender: `frac[s] @ L + images @ L - frac[r] @ L`."""


def neighbours(
    crystal: Crystal, *, cutoff: float, k: int | None = None, tie_tolerance: float = TIE_TOLERANCE
) -> Neighbours:
    """All periodic neighbours within a radius, or the nearest of them.

    Two images of one atom are two edges with their own lengths, and an atom may neighbour its own
    images, so the edges do not depend on the choice of cell: a supercell repeats them.

    Args:
        crystal: the structure.
        cutoff: Å; pairs farther apart are not neighbours.
        k: keep the `k` nearest of each site; a shell is never cut, so there may be more. A site
            that has none within `cutoff` then keeps its nearest shell, however far.
        tie_tolerance: Å; what is as far as the k-th neighbour within this is in its shell.

    Raises:
        CrystalError: reason `no-neighbours`, where `k` is None and a site has none within `cutoff`.
    """
    n = len(crystal)
    if k is None:
        found = within(crystal, cutoff)
        if len(np.unique(found.receivers)) < n:
            message = (
                f"a site of {crystal.formula} has no neighbour within {cutoff} Å; use a larger cutoff or k nearest"
            )
            raise CrystalError(message, reason="no-neighbours")
        return found
    radius = min(cutoff, (0.5 * k * crystal.volume / n) ** (1 / 3))  # holds about 2 k atoms where density is even
    while True:
        found = within(crystal, radius + tie_tolerance)
        counts = np.bincount(found.receivers, minlength=n)
        if counts.min() > 0:
            first = np.concatenate([[0], np.cumsum(counts)[:-1]])
            reach = found.distances[first + np.minimum(k, counts) - 1]
            complete = counts.min() >= k and reach.max() <= radius
            if complete or (radius >= cutoff and found.distances[first].max() <= radius):
                return _nearest(found, first, reach, cutoff, tie_tolerance)
        radius = min(radius * 1.3, cutoff) if radius < cutoff else radius * 1.3


def _nearest(
    found: Neighbours, first: NDArray[np.int64], reach: NDArray[np.float64], cutoff: float, tolerance: float
) -> Neighbours:
    """Keep each site's edges up to `reach`; beyond `cutoff` only the first shell of a site that has nothing nearer."""
    nearest = found.distances[first]
    limit = np.where(nearest <= cutoff, np.minimum(reach + tolerance, cutoff + tolerance), nearest + tolerance)
    keep = found.distances <= limit[found.receivers]
    senders, receivers, images, distances, vectors = found
    return Neighbours(senders[keep], receivers[keep], images[keep], distances[keep], vectors[keep])


def within(crystal: Crystal, cutoff: float) -> Neighbours:
    """Every pair up to `cutoff`, by pymatgen's linked cells."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    cart = np.ascontiguousarray(crystal.cart_coords)
    periodic = np.ones(3, dtype=np.int64)
    i, j, image, distance = find_points_in_spheres(
        cart, cart, r=float(cutoff), pbc=periodic, lattice=np.ascontiguousarray(crystal.lattice), tol=1e-8
    )
    other = (i != j) | image.any(axis=1)  # an atom is not its own neighbour, its images are
    i, j, image, distance = i[other], j[other], image[other], distance[other]
    order = np.lexsort((distance, i))
    receivers, senders, shift = i[order].astype(np.int64), j[order].astype(np.int64), image[order]
    vectors = cart[senders] + shift @ crystal.lattice - cart[receivers]
    return Neighbours(senders, receivers, shift.astype(np.int64), distance[order], vectors)
