"""The complete graph of a crystal: every site feels every other with all its images, however the cell is chosen."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.physics.ewald import lattice_sums

TRANSLATION_TOLERANCE = 0.01
"""Å; a translation maps a site onto another if it comes this close."""
PROBES = 3
"""Sites that a translation must map before it is tried on all."""


class CompleteGraph(NamedTuple):
    """Edges from each class of sites to every site, sorted by receiver."""

    senders: NDArray[np.int64]
    """(P,) the first site of the class."""
    receivers: NDArray[np.int64]
    """(P,) the site that feels it."""
    sums: NDArray[np.float64]
    """(P, 3) Coulomb in 1/Å, r⁻⁶ in 1/Å⁶ and exp(−αr), of all images of all sites of the class."""


def complete_graph(crystal: Crystal, *, alpha: float = 3.0) -> CompleteGraph:
    """The lattice sums of all pairs, in which a site and its translated copies are one sender.

    The pairs of a primitive cell are a property of the crystal; those of a supercell are not: each
    sum is spread over several. Added up over the copies that the translations within the cell make,
    they are the sums of the primitive cell again. In most cells no such translation exists, and the
    edges are all N² ordered pairs.

    Args:
        crystal: the structure.
        alpha: 1/Å, decay of the third potential.

    Raises:
        CrystalError: reason `overlapping-atoms`, where two sites coincide.
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
    """(N,) for each site the first of those that translations smaller than the cell map onto it.

    A translation is one of the crystal if it maps every site onto one of equal occupancy, within
    `tolerance` (Å). It must map the rarest sites onto each other, which leaves few to try, and none
    where the numbers of sites of each kind have no common divisor.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    kinds = _kinds(crystal)
    n, counts = len(kinds), np.bincount(kinds)
    classes = np.arange(n)
    if functools.reduce(math.gcd, counts.tolist()) == 1:
        return classes
    rarest = np.flatnonzero(kinds == counts.argmin())
    found: list[NDArray[np.int64]] = []
    for site in rarest[1:]:
        if classes[site] == classes[rarest[0]]:
            continue  # a sequence of translations that were found leads there
        image = _images(crystal, kinds, crystal.frac_coords[site] - crystal.frac_coords[rarest[0]], tolerance)
        if image is not None:
            found.append(image)
            edges = (np.tile(np.arange(n), len(found)), np.concatenate(found))
            graph = coo_array((np.ones(len(edges[0])), edges), shape=(n, n))
            labels = connected_components(graph, directed=False)[1]
            classes = np.unique(labels, return_index=True)[1][labels]
    return classes


def _kinds(crystal: Crystal) -> NDArray[np.int64]:
    """(N,) integers from 0, equal where the occupancy is."""
    if crystal.occupancies is None:
        return np.unique(crystal.atomic_numbers, return_inverse=True)[1].astype(np.int64)
    sites = [tuple(sorted((z, round(x, 4)) for z, x in site)) for site in crystal.occupancies]
    order = {site: k for k, site in enumerate(sorted(set(sites)))}
    return np.array([order[site] for site in sites], np.int64)


def _images(
    crystal: Crystal, kinds: NDArray[np.int64], shift: NDArray[np.float64], tolerance: float
) -> NDArray[np.int64] | None:
    """(N,) the site that each site is mapped onto by a fractional translation; None if it is not one of the crystal."""
    frac = crystal.frac_coords
    for sites in (slice(0, PROBES), slice(None)):
        between = frac[sites, None] + shift - frac  # (M, N, 3)
        squares = np.square((between - np.rint(between)) @ crystal.lattice).sum(axis=2)
        squares[kinds[sites, None] != kinds] = np.inf
        image: NDArray[np.int64] = squares.argmin(axis=1)
        if squares.min(axis=1).max() > tolerance**2 or len(np.unique(image)) < len(image):
            return None
    return image
