"""Reciprocal space: structure factors, and spectra that do not depend on cell, origin or orientation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError
from crystalign.physics.ewald import reduced

Array = NDArray[np.float64]

MAX_REFLECTIONS = 2_000_000
"""A compact cell of 100,000 Å³, the largest that is accepted, has a fifth of this and takes 0.25 s."""
BLOCK = 4_000_000
"""Number of phases held in memory at once."""


class Reflections(NamedTuple):
    """The reciprocal lattice vectors within a sphere, one of each Friedel pair."""

    hkl: NDArray[np.int64]
    """(M, 3) Miller indices in the Minkowski-reduced cell, in which the box around a sphere is smallest."""
    g: Array
    """(M,) 1/d in 1/Å, without 2π."""
    frac_coords: Array
    """(N, 3) fractional coordinates of the sites in the reduced cell."""


def reflections(crystal: Crystal, g_max: float) -> Reflections:
    """Every reflection with 0 < 1/d <= g_max.

    Args:
        crystal: the structure, in any cell.
        g_max: 1/Å, without 2π.

    Raises:
        CrystalError: reason `too-large`, if the box around the sphere has more than `MAX_REFLECTIONS` points.
    """
    lattice, frac_coords = reduced(crystal.lattice, crystal.frac_coords)
    reciprocal = np.linalg.inv(lattice).T  # rows, without 2π
    h, k, l = (int(n) for n in np.floor(g_max * np.linalg.norm(lattice, axis=1) + 1e-9))
    phases = (2 * max(h, k, l) + 1) * len(crystal)
    if max((h + 1) * (2 * k + 1) * (2 * l + 1), phases) > MAX_REFLECTIONS:
        raise CrystalError(
            f"{crystal.formula}: a cell of {crystal.volume:.0f} Å³ has too many reflections; use a smaller cell",
            reason="too-large",
        )
    axes = np.meshgrid(np.arange(h + 1), np.arange(-k, k + 1), np.arange(-l, l + 1), indexing="ij")
    hkl = np.stack(axes, axis=-1).reshape(-1, 3)
    hkl = hkl[k * (2 * l + 1) + l + 1 :]  # drop (0, 0, 0) and the half of the plane h = 0 before it
    g = np.linalg.norm(hkl @ reciprocal, axis=1)
    inside = g <= g_max
    return Reflections(hkl[inside], g[inside], frac_coords)


def structure_factors(hkl: NDArray[np.int64], frac_coords: Array, weights: Array) -> NDArray[np.complex128]:
    """S_c(hkl) = Σ_j w_jc exp 2πi(h x_j + k y_j + l z_j).

    The phase factors of the three axes are combined by matrix products over the box of indices, which is about
    four times as fast as one cosine and one sine for each index and atom.

    Args:
        hkl: (M, 3) Miller indices.
        frac_coords: (N, 3) fractional coordinates.
        weights: (N, C), one column per sum.

    Returns:
        (M, C) structure factors, in the unit of `weights`.
    """
    if len(hkl) == 0:
        return np.zeros((0, weights.shape[1]), np.complex128)
    most = np.abs(hkl).max(axis=0)
    low = hkl.min(axis=0)
    along = [
        np.exp(2j * np.pi * np.outer(np.arange(a, b + 1), x)) for a, b, x in zip(low, most, frac_coords.T, strict=True)
    ]
    planes = len(along[0]) * len(along[1])
    row = (hkl[:, 0] - low[0]) * len(along[1]) + hkl[:, 1] - low[1]  # of the plane of (h, k)
    sums = np.empty((len(hkl), weights.shape[1]), np.complex128)
    rows = max(1, BLOCK // max(len(frac_coords), len(along[2])))
    for start in range(0, planes, rows):
        h, k = np.divmod(np.arange(start, min(start + rows, planes)), len(along[1]))
        phases = along[0][h] * along[1][k]  # (rows, N)
        here = np.flatnonzero((row >= start) & (row < start + rows))
        for column, weight in enumerate(weights.T):
            box = phases @ (along[2] * weight).T  # (rows, L)
            sums[here, column] = box[row[here] - start, hkl[here, 2] - low[2]]
    return sums


def reciprocal_spectra(crystal: Crystal, grid: Array) -> Array:
    r"""Radially averaged power spectra of the crystal, with equal weights and with nuclear charges as weights.

    P_c(Q) = Σ_{G ≠ 0} |S_c(G)|² t(Q − |G|),  S_c(G) = Σ_j w_jc e^{iG·r_j} / Σ_j w_jc,

    with w = 1 in the first spectrum and w = Z in the second. t is a triangle of unit height whose half-width is one
    step of the grid, so that P changes smoothly with the cell. The spectra are the same for any supercell, choice of
    axes, origin or rotation: the additional G of a supercell have S = 0. There is no form factor, wavelength, profile
    or polarisation; the spectra describe the crystal, not a measurement.

    Args:
        crystal: the structure.
        grid: (B,) Q = 2π/d in Å⁻¹, evenly spaced and ascending.

    Returns:
        (2, B) P for w = 1 and w = Z, dimensionless.

    Raises:
        CrystalError: reason `too-large`, if the cell has more than `MAX_REFLECTIONS`.
    """
    step = grid[1] - grid[0]
    hkl, g, frac_coords = reflections(crystal, float(grid[-1] + step) / (2.0 * np.pi))
    position = (2.0 * np.pi * g - grid[0]) / step + 1.0  # the first and the last bin are discarded
    near = position > 0.0
    hkl, position = hkl[near], position[near]
    s = structure_factors(hkl, frac_coords, _weights(crystal))  # (M, 2)
    power = 2.0 * (np.square(s.real) + np.square(s.imag))  # both of a Friedel pair
    low = position.astype(np.int64)
    high_share = (position - low)[:, None]
    shares = np.concatenate([power * (1.0 - high_share), power * high_share])
    bins = np.concatenate([low, low + 1])
    spectra = [np.bincount(bins, weights=share, minlength=len(grid) + 2) for share in shares.T]
    return np.stack(spectra).astype(np.float64)[:, 1 : len(grid) + 1]


def _weights(crystal: Crystal) -> Array:
    """(N, 2) weights 1 and Z of each site, times occupancy, normalised so that each column sums to 1."""
    if crystal.occupancies is None:
        z = crystal.atomic_numbers.astype(np.float64)
        weights = np.stack([np.ones(len(z)), z], axis=1)
    else:
        weights = np.array([[sum(x for _, x in site), sum(o * x for o, x in site)] for site in crystal.occupancies])
    normalised: Array = weights / weights.sum(axis=0)
    return normalised
