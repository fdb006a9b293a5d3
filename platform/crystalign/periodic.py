"""Pairs of points in a periodic cell: the search for neighbours on plain arrays, below `Crystal`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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


def pairs_within(lattice: NDArray[np.float64], cart_coords: NDArray[np.float64], cutoff: float) -> Neighbours:
    """Every pair of sites up to `cutoff` apart, by pymatgen's linked cells.

    A site is no neighbour of itself, but its own images are.

    Args:
        lattice: (3, 3) Å, rows are the lattice vectors.
        cart_coords: (N, 3) Å.
        cutoff: Å.
    """
    from pymatgen.optimization.neighbors import find_points_in_spheres

    cart = np.ascontiguousarray(cart_coords)
    periodic = np.ones(3, dtype=np.int64)
    i, j, image, distance = find_points_in_spheres(
        cart, cart, r=float(cutoff), pbc=periodic, lattice=np.ascontiguousarray(lattice), tol=1e-8
    )
    other = (i != j) | image.any(axis=1)
    i, j, image, distance = i[other], j[other], image[other], distance[other]
    order = np.lexsort((distance, i))
    receivers, senders, shift = i[order].astype(np.int64), j[order].astype(np.int64), image[order]
    vectors = cart[senders] + shift @ lattice - cart[receivers]
    return Neighbours(senders, receivers, shift.astype(np.int64), distance[order], vectors)
