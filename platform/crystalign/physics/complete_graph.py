"""The complete graph of a crystal: lattice sums between all pairs of sites, independent of the choice of cell."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.physics.ewald import lattice_sums

TRANSLATION_TOLERANCE = 0.01
"""Å; a translation maps one site onto another if the distance is below this."""
PROBES = 3
"""Number of sites on which a translation is tested before it is tested on all."""


class CompleteGraph(NamedTuple):
    """Edges from each class of sites to every site, sorted by receiver."""

    senders: NDArray[np.int64]
    """(P,) the first site of the class of sites on which the sum runs."""
    receivers: NDArray[np.int64]
    """(P,) the site at which the potential is evaluated."""
    sums: NDArray[np.float64]
    """(P, 3) Coulomb in 1/Å, r⁻⁶ in 1/Å⁶ and exp(−αr), summed over all images of all sites of the class."""


def complete_graph(crystal: Crystal, *, alpha: float = 3.0) -> CompleteGraph:
    """The lattice sums of all pairs of sites; a site and its translated copies count as one sender.

    The sums over pairs of the primitive cell are a property of the crystal. In a supercell, each of them is
    split between several copies of a site. Adding up the copies that are related by a translation within the
    cell gives the sums of the primitive cell again. Most cells have no such translation, and the edges are
    all N² ordered pairs.

    Args:
        crystal: the structure.
        alpha: 1/Å, decay of the third potential.

    Raises:
        CrystalError: reason `overlapping-atoms`, if two sites coincide.
    """
    sums = lattice_sums(crystal.lattice, crystal.frac_coords, alpha=alpha)  # (N, N, 3)
    classes = image_classes(crystal)
    first, member = np.unique(classes, return_inverse=True)
    if len(first) < len(crystal):
        order = np.argsort(member, kind="stable")
        starts = np.flatnonzero(np.diff(member[order], prepend=-1))
        sums = np.add.reduceat(sums[:, order], starts, axis=1)  # (N, R, 3)
    n, r = len(crystal), len(first)
    return CompleteGraph(np.tile(first, n), np.repeat(np.arange(n), r), sums.reshape(n * r, 3))


def image_classes(crystal: Crystal, tolerance: float = TRANSLATION_TOLERANCE) -> NDArray[np.int64]:
    """(N,) for each site, the first site that a translation smaller than the cell maps onto it.

    A translation is a symmetry of the crystal if it maps every site onto one of equal occupancy, within
    `tolerance` (Å). It must map the rarest kind of sites onto itself, so only few translations have to be
    tested, and none if the numbers of sites of each kind have no common divisor.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    kinds = _kinds(crystal)
    n, counts = len(kinds), np.bincount(kinds)
    classes = np.arange(n)
    if functools.reduce(math.gcd, counts.tolist()) == 1:
        return classes
    rarest = np.flatnonzero(kinds == counts.argmin())
    images: list[NDArray[np.int64]] = []
    for site in rarest[1:]:
        if classes[site] == classes[rarest[0]]:
            continue  # already reached by combining the translations found so far
        image = _images(crystal, kinds, crystal.frac_coords[site] - crystal.frac_coords[rarest[0]], tolerance)
        if image is not None:
            images.append(image)
            edges = (np.tile(np.arange(n), len(images)), np.concatenate(images))
            graph = coo_array((np.ones(len(edges[0])), edges), shape=(n, n))
            labels = connected_components(graph, directed=False)[1]
            classes = np.unique(labels, return_index=True)[1][labels]
    return classes


def _kinds(crystal: Crystal) -> NDArray[np.int64]:
    """(N,) integers from 0; two sites have the same number if they have the same occupancy."""
    if crystal.occupancies is None:
        return np.unique(crystal.atomic_numbers, return_inverse=True)[1].astype(np.int64)
    sites = [tuple(sorted((z, round(x, 4)) for z, x in site)) for site in crystal.occupancies]
    order = {site: k for k, site in enumerate(sorted(set(sites)))}
    return np.array([order[site] for site in sites], np.int64)


def _images(
    crystal: Crystal, kinds: NDArray[np.int64], shift: NDArray[np.float64], tolerance: float
) -> NDArray[np.int64] | None:
    """(N,) the site onto which a fractional translation maps each site; None if it is no symmetry of the crystal."""
    frac = crystal.frac_coords
    for sites in (slice(0, PROBES), slice(None)):
        between = frac[sites, None] + shift - frac  # (M, N, 3)
        squares = np.square((between - np.rint(between)) @ crystal.lattice).sum(axis=2)
        squares[kinds[sites, None] != kinds] = np.inf
        image: NDArray[np.int64] = squares.argmin(axis=1)
        if squares.min(axis=1).max() > tolerance**2 or len(np.unique(image)) < len(image):
            return None
    return image
