"""Bonds between atoms: the CrystalNN algorithm on our neighbour list."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError
from crystalign.periodic import Neighbours
from crystalign.physics.contacts import electronegativities
from crystalign.physics.neighbour_list import within
from crystalign.physics.picture import covalent_radii
from crystalign.physics.weak_contacts import weak_contacts

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CUTOFF = 7.0
"""Å; atoms up to this distance are considered for a Voronoi cell, as in CrystalNN."""
COINCIDENT = 1e-3
"""Å; atoms closer than this have no Voronoi cells."""
GROWTH = 1.6
"""Factor by which the cutoff grows as long as the Voronoi cell of a site is not closed."""
FULL, NONE = 0.5, 1.0
"""Å beyond the sum of the covalent radii: up to the first a bond has full weight, from the second on none."""
NOBLE = frozenset((2, 10, 18, 36, 54, 86, 118))
POLARITY_WEIGHT = 3.0
"""Weight of the difference in electronegativity, which is divided by 3.3, the largest difference of two elements."""


class Bonds(NamedTuple):
    """Every atom within 7 Å of every site, and which of them are bonded."""

    near: Neighbours
    """All edges up to `CUTOFF`."""
    counted: Mask
    """(E,) whether the algorithm counts the sender as a neighbour of the receiver."""
    bonded: Mask
    """(E,) whether at least one of the two atoms counts the other, except `weak_contacts`. `bonds` has the rule for
    atoms without any neighbour."""


def bonds(crystal: Crystal) -> Bonds:
    """Coordination by CrystalNN (H. Pan et al., Inorg. Chem. 60, 1590 (2021)), without oxidation states.

    With Ω_j the solid angle and A_j the area of the face of the Voronoi cell of a site that it shares with atom j, d_j
    its distance and R_j the sum of the covalent radii, the weight of j is

        w_j = Ω_j (Ω_j / A_j) (1 + 3 √(|Δχ_j| / 3.3)),   divided by the largest, times f(d_j − R_j),

    where f is 1 up to 0.5 Å and falls to 0 at 1.0 Å as a cosine. If an electronegativity is unknown, its factor is 1.
    Weights are rounded to three decimals. With w_(1) > w_(2) > … the distinct weights, the coordination by the n atoms
    with w ≥ w_(i) has the probability ∫ 4/π √(1 − x²) dx from w_(i+1) to w_(i); the remaining probability belongs to
    n = 0. The most probable n is used. On a mixed site the most abundant species counts.

    There are two more rules:

    - If an atom has no bond, its neighbours are determined again with f = 1, because the ions of thallium iodide, for
      example, are farther apart than the sum of their covalent radii plus 0.8 Å. Noble gases are left without bonds.
    - Hydrogen bonds and contacts between molecules are not bonds: see `weak_contacts`.

    Returns:
        The bonds. A supercell has the same bonds as its cell, repeated.

    Raises:
        CrystalError: reason `coincident-atoms`, if two atoms are closer than 0.001 Å.
    """
    near = within(crystal, CUTOFF)
    if len(near.distances) and near.distances.min() < COINCIDENT:
        raise CrystalError(
            f"two atoms of {crystal!r} are {near.distances.min():.1e} Å apart; remove one of them",
            reason="coincident-atoms",
        )
    bounds = _bounds(crystal, near)
    weight = _weights(crystal, near)
    counted, reverse = np.zeros(len(weight), bool), _reverse(near)
    for start, stop in itertools.pairwise(bounds):
        counted[start:stop] = weight[start:stop] >= _threshold(weight[start:stop])
    lonely = [
        site
        for site, (start, stop) in enumerate(itertools.pairwise(bounds))
        if crystal.atomic_numbers[site] not in NOBLE and not (counted | counted[reverse])[start:stop].any()
    ]
    nearest = counted.copy()
    if lonely:
        without = _weights(crystal, near, fading=False)
        for site in lonely:
            here = slice(bounds[site], bounds[site + 1])
            nearest[here] = without[here] >= _threshold(without[here])
    bonded = nearest | nearest[reverse]
    return Bonds(near, counted, bonded & ~weak_contacts(crystal, near, bonded))


def _reverse(near: Neighbours) -> NDArray[np.int64]:
    """(E,) the edge in the opposite direction of each edge."""
    forward = np.column_stack([near.receivers, near.senders, near.images])
    backward = np.column_stack([near.senders, near.receivers, -near.images])
    order, opposite = np.lexsort(forward.T[::-1]), np.lexsort(backward.T[::-1])
    reverse = np.empty(len(order), np.int64)
    reverse[opposite] = order
    return reverse


def _threshold(weights: Array) -> float:
    """The smallest weight of a neighbour that counts; infinite if none does."""
    steps = np.unique(weights)[::-1]  # (T,) falling
    steps = np.append(steps[steps > 0.0], 0.0)
    if len(steps) == 1:
        return np.inf
    below = (steps * np.sqrt(1.0 - steps**2) + np.arcsin(steps)) * (2.0 / np.pi)  # 1 at w = 1
    probability = -np.diff(below)
    best = int(np.argmax(probability))
    return float(steps[best]) if probability[best] >= 1.0 - below[0] else np.inf


def _weights(crystal: Crystal, near: Neighbours, *, fading: bool = True) -> Array:
    """(E,) the weight w of every edge, rounded; 0 if the atoms share no Voronoi face. Without `fading`, f is 1."""
    angle, area = _voronoi_faces(crystal, near)
    z, radius, chi = crystal.atomic_numbers, covalent_radii(), electronegativities()
    one, other = z[near.receivers], z[near.senders]
    polarity = np.sqrt(np.nan_to_num(np.abs(chi[one] - chi[other])) / 3.3)
    shared = angle > 1e-9
    weight = np.zeros(len(angle))
    weight[shared] = angle[shared] ** 2 / area[shared] * (1.0 + POLARITY_WEIGHT * polarity[shared])
    largest = np.full(len(crystal), 1e-9)
    np.maximum.at(largest, near.receivers, weight)
    if fading:
        beyond = (near.distances - radius[one] - radius[other] - FULL) / (NONE - FULL)
        weight *= 0.5 + 0.5 * np.cos(np.pi * beyond.clip(0.0, 1.0))
    rounded: Array = np.round(weight / largest[near.receivers], 3)
    return rounded


def _voronoi_faces(crystal: Crystal, near: Neighbours) -> tuple[Array, Array]:
    """(E,) solid angle and (E,) area in Å² of the face between the two atoms of each edge.

    The cell of a site at the origin is {x: x · p_j ≤ |p_j|²/2}. Its corners are the facets of the convex hull of the
    points 2 p_j / |p_j|², and its edges are those between two neighbouring facets.
    """
    bounds = _bounds(crystal, near)
    ends, pairs, far = [], [], []
    # periodic images surround each site within this distance
    farthest = CUTOFF + GROWTH * 2.0 * float(np.linalg.norm(crystal.lattice, axis=1).sum())
    n = len(near.vectors)  # atoms beyond the cutoff are numbered after the edges of `near`
    for site, (start, stop) in enumerate(itertools.pairwise(bounds)):
        points = near.vectors[start:stop]
        radius = CUTOFF
        while (cell := _cell(points)) is None:
            radius *= GROWTH
            assert radius < farthest, f"the images of site {site} of {crystal!r} surround it"
            points = np.concatenate([near.vectors[start:stop], _farther(crystal, site, radius)])
        numbers = np.concatenate([np.arange(start, stop), np.arange(n, n + len(points) - (stop - start))])
        n = int(numbers[-1]) + 1 if len(points) > stop - start else n
        far.append(points[stop - start :])
        ends.append(cell[0])
        pairs.append(numbers[cell[1]])
    angle, area = _measure(np.concatenate(ends), np.concatenate(pairs), np.concatenate([near.vectors, *far]))
    return angle[: len(near.vectors)], area[: len(near.vectors)]


def _bounds(crystal: Crystal, near: Neighbours) -> NDArray[np.intp]:
    """(N + 1,) the first edge of each site, and the number of edges."""
    return np.searchsorted(near.receivers, np.arange(len(crystal) + 1))


def _farther(crystal: Crystal, site: int, radius: float) -> Array:
    """(F, 3) vectors in Å from a site to the atoms between `CUTOFF` and `radius`."""
    from pymatgen.optimization.neighbors import find_points_in_spheres

    cart = np.ascontiguousarray(crystal.cart_coords)
    _, j, image, distance = find_points_in_spheres(
        cart,
        np.ascontiguousarray(cart[site : site + 1]),
        r=radius,
        pbc=np.ones(3, dtype=np.int64),
        lattice=np.ascontiguousarray(crystal.lattice),
        tol=1e-8,
    )
    vectors: Array = cart[j] + image @ crystal.lattice - cart[site]
    return vectors[distance > CUTOFF]


def _cell(points: Array) -> tuple[Array, NDArray[np.intp]] | None:
    """(M, 2, 3) ends and (M, 2) faces of every edge of the Voronoi cell around the origin; None if it is not closed."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        hull = ConvexHull(2.0 * points / (points**2).sum(axis=1, keepdims=True))
    except (QhullError, ValueError):  # fewer than four points, or all of them in a plane
        return None
    if hull.equations[:, 3].max() > -1e-3:  # the origin is not inside the hull: the cell is unbounded
        return None
    corner = -hull.equations[:, :3] / hull.equations[:, 3:]  # (F, 3)
    facet, side = np.nonzero(hull.neighbors > np.arange(len(corner))[:, None])  # each edge once
    others = np.array([[1, 2], [0, 2], [0, 1]])[side]  # the edge is opposite to the corner `side` of the triangle
    pair = np.take_along_axis(hull.simplices[facet], others, axis=1)
    return np.stack([corner[facet], corner[hull.neighbors[facet, side]]], axis=1), pair


def _measure(ends: Array, pairs: NDArray[np.intp], vectors: Array) -> tuple[Array, Array]:
    """Solid angle and area of faces.

    Each face is divided into triangles between its edges and the point p_j/2, where its plane meets the line to atom
    j. A triangle counts negative if that point lies beyond the edge. Solid angles by A. van Oosterom & J. Strackee,
    IEEE Trans. Biomed. Eng. 30, 125 (1983).
    """
    face, other = pairs.ravel(), pairs[:, ::-1].ravel()
    a, b = np.repeat(ends, 2, axis=0).transpose(1, 0, 2)
    foot, p = 0.5 * vectors[face], vectors[other]
    sign = np.sign(0.5 * (p * p).sum(-1) - (foot * p).sum(-1))
    la, lb, lf = (np.linalg.norm(x, axis=-1) for x in (a, b, foot))
    determinant = np.abs((foot * np.cross(a, b)).sum(-1))
    cosines = la * lb * lf + (a * b).sum(-1) * lf + (a * foot).sum(-1) * lb + (b * foot).sum(-1) * la
    angle = 2.0 * np.arctan2(determinant, cosines)
    area = 0.5 * np.linalg.norm(np.cross(a - foot, b - foot), axis=-1)
    angles: Array = np.bincount(face, sign * angle, len(vectors)).astype(np.float64)
    areas: Array = np.bincount(face, sign * area, len(vectors)).astype(np.float64)
    return angles, areas
