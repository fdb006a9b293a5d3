"""A unique setting for each crystal: the axes and the origin used for its density and its picture.

A standard cell has one lattice but several descriptions. The rotations of the lattice's point group map the lattice
to itself, and a space group fixes the origin only up to its Euclidean normaliser (International Tables for
Crystallography A (2016), chapter 3.5): up to half a body diagonal in rock salt, freely along a polar axis.

Here a setting is a rotation of the lattice with an atom of the rarest kind at the origin. Two descriptions of one
crystal differ by a motion that maps the lattice to itself and the rarest atoms onto each other. Both therefore have
the same set of settings in every space group, and a score that depends only on the density selects the same one.
Reflections are left out because they would exchange enantiomorphs. A crystal that equals its mirror image does not
need them: its reflection is a rotation combined with one of its own symmetry operations.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Integers = NDArray[np.int64]
Coefficients = Callable[[Integers], NDArray[np.complex128]]
"""Maps (K, 3) integer wave vectors k to (K,) coefficients c_k of ρ(x) = Σ_k c_k exp(2πi k·x)."""
WAVES = 5
"""Largest index of the waves in the score."""


def best_setting(turns: Integers, origins: Matrix, coefficients: Coefficients) -> tuple[Integers, Matrix]:
    """The axes and the origin for which a fixed sum over low-order Fourier coefficients is largest.

    With x = Mᵀ x' + o, the wave h of the new axes is k = M⁻¹ h of the old ones, and
    c'_h = c_k exp(2πi k·o). The score is Re Σ_h w_h c'_h over half of the waves with |h_i| ≤ 5 (the others are
    their conjugates), with |w_h| = 1 and phases that are not related by any symmetry. Settings related by a symmetry
    operation of the crystal have equal scores and equal densities; for a nearly symmetric crystal, both are nearly
    equal. Noise in the coordinates can exchange two different settings only if their scores differ by less than the
    noise.

    Args:
        turns: (R, 3, 3) rotations M; rows are the new axes in units of the old ones, determinant 1.
        origins: (T, 3) origins o, fractional.
        coefficients: function that returns Fourier coefficients of the density in the old axes.

    Returns:
        (3, 3) the best M and (3,) the best o.
    """
    waves, weights = _waves()
    olds = np.rint(waves @ np.linalg.inv(turns).transpose(0, 2, 1)).astype(np.int64)  # (R, H, 3)
    reach = int(np.abs(olds).max())
    keys = ((olds + reach) * [(2 * reach + 1) ** 2, 2 * reach + 1, 1]).sum(axis=2)  # (R, H), one integer per wave
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    distinct = olds.reshape(-1, 3)[first]
    shares = np.zeros((len(turns), len(distinct)), np.complex128)
    np.put_along_axis(shares, inverse.reshape(keys.shape), weights[None], axis=1)
    moved = coefficients(distinct)[:, None] * np.exp(2j * np.pi * (distinct @ origins.T))  # (K, T)
    scores = (shares @ moved).real  # (R, T)
    turn, origin = np.unravel_index(np.argmax(scores), scores.shape)
    return turns[turn], origins[origin]


@functools.cache
def _waves() -> tuple[Integers, NDArray[np.complex128]]:
    """(665, 3) one wave of each pair ±h, and (665,) complex weights of modulus 1."""
    side = range(-WAVES, WAVES + 1)
    half = np.array([h for h in itertools.product(side, repeat=3) if h > (0, 0, 0)], np.int64)
    return half, np.exp(1j * np.arange(1, len(half) + 1) ** 2)


def rarest_sites(kinds: NDArray[np.integer[Any] | np.floating[Any]]) -> NDArray[np.bool_]:
    """(N,) which sites belong to the rarest kind; among equally rare kinds, to the one with the lowest number.

    Args:
        kinds: (N,) a number per site, equal for sites of equal occupancy.
    """
    values, counts = np.unique(kinds, return_counts=True)
    chosen: NDArray[np.bool_] = kinds == values[np.argmin(counts)]
    return chosen


def proper_rotations(lattice: Matrix) -> Integers:
    """(R, 3, 3) the proper rotations of `lattice_point_group`; R is 1, 2, 4, 6, 8, 12 or 24, by lattice system.

    Args:
        lattice: (3, 3), Å, rows are vectors.
    """
    group = lattice_point_group(lattice)
    proper: Integers = group[np.linalg.det(group) > 0]
    return proper


def lattice_point_group(lattice: Matrix, tolerance: float = 1e-3) -> Integers:
    """(g, 3, 3) every integer matrix W with W G Wᵀ = G, G the metric: isometries that map the lattice to itself.

    Args:
        lattice: (3, 3), Å, rows are vectors.
        tolerance: largest error of each entry of the metric, relative to the lengths of its two axes.
    """
    metric, lengths = lattice @ lattice.T, np.linalg.norm(lattice, axis=1)
    vectors = _vectors_within(lattice, lengths.max() * (1.0 + tolerance))
    squares = np.einsum("ni,ij,nj->n", vectors, metric, vectors)
    within = tolerance * np.outer(lengths, lengths)
    a, b, c = (vectors[np.abs(squares - metric[i, i]) < within[i, i]] for i in range(3))
    same_ab = np.abs(a @ metric @ b.T - metric[0, 1]) < within[0, 1]
    same_ac = np.abs(a @ metric @ c.T - metric[0, 2]) < within[0, 2]
    same_bc = np.abs(b @ metric @ c.T - metric[1, 2]) < within[1, 2]
    chosen = np.argwhere(same_ab[:, :, None] & same_ac[:, None, :] & same_bc[None]).T
    return np.stack([axis[row] for axis, row in zip((a, b, c), chosen, strict=True)], axis=1)


def _vectors_within(lattice: Matrix, length: float) -> Integers:
    """(V, 3) integer lattice vectors that include all up to a length in Å: |n_i| ≤ length · |a_i*|."""
    reach = np.floor(length * np.linalg.norm(np.linalg.inv(lattice), axis=0)).astype(int)
    return np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1).reshape(-1, 3)
