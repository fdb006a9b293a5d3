"""Periodic functions on voxel grids: resampling, change of cell, and random settings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalign.physics.settings import lattice_point_group

Grid = NDArray[np.float64]
Spectrum = NDArray[np.complex128]


def fourier_resample(rho: Grid, n: int) -> Grid:
    """Trigonometric interpolation to n × n × n points.

    Fourier coefficients that both grids can represent are kept. The mean, and with it the charge, is therefore exact,
    and the operation commutes with translations. At the Nyquist frequency of an even grid, +n/2 and −n/2 share one
    coefficient: they are added on a coarser grid and split on a finer one, so that a real function stays real.

    Args:
        rho: (..., nx, ny, nz) in fractional coordinates, the first point at the origin.
        n: points along each axis of the result.

    Returns:
        (..., n, n, n), in the unit of `rho`.
    """
    result = rho
    for axis in (-3, -2, -1):
        result = _resample_axis(result, n, axis)
    return result


def _resample_axis(values: Grid, n: int, axis: int) -> Grid:
    m = values.shape[axis]
    if m == n:
        return values
    spectrum = np.moveaxis(np.fft.rfft(values, axis=axis), axis, -1)
    resampled = np.zeros((*spectrum.shape[:-1], n // 2 + 1), np.complex128)
    common = min(m, n) // 2 + 1
    resampled[..., :common] = spectrum[..., :common]
    if n < m and n % 2 == 0:
        resampled[..., n // 2] = 2.0 * resampled[..., n // 2].real
    if n > m and m % 2 == 0:
        resampled[..., m // 2] *= 0.5
    result: Grid = np.moveaxis(np.fft.irfft(resampled, n, axis=-1) * (n / m), -1, axis)
    return result


def change_cell(rho: Grid, linear: Grid, n: int, origin: Grid | None = None) -> Grid:
    """The same periodic function in another cell of its lattice, on n × n × n points.

    With x = A x' + o, ρ(x) = Σ_k c_k exp(2πi k·x) becomes c'_{k'} = c_k exp(2πi k·o) at k' = Aᵀ k. This reorders
    Fourier coefficients, so it is exact for waves that both grids resolve, and it keeps the mean. From a supercell to
    a primitive cell, only the waves with the period of the primitive cell are kept.

    Args:
        rho: (nx, ny, nz) in the old cell.
        linear: (3, 3) A; its inverse must have integer entries.
        n: points along each new axis.
        origin: (3,) o, fractional in the old cell; None keeps the old origin.

    Returns:
        (n, n, n), in the unit of `rho`.
    """
    return grid_of(spectrum_of(rho), linear, n, origin)


def spectrum_of(rho: Grid) -> Spectrum:
    """(nx, ny, nz) the coefficients c_k of ρ(x) = Σ_k c_k exp(2πi k·x), in the order of NumPy's FFT."""
    spectrum: Spectrum = np.fft.fftn(rho) / rho.size
    return spectrum


def coefficients_at(spectrum: Spectrum, waves: NDArray[np.int64]) -> Spectrum:
    """(K,) the coefficients of the given waves; zero for waves that the grid does not resolve.

    Args:
        spectrum: the result of `spectrum_of`.
        waves: (K, 3) integer indices in the cell of the grid.
    """
    sizes = np.array(spectrum.shape)
    # at the Nyquist frequency of an even grid, +n/2 and −n/2 share one coefficient
    share = np.where(2 * np.abs(waves) == sizes, 0.5, 1.0).prod(axis=1) * (2 * np.abs(waves) <= sizes).all(axis=1)
    coefficients: Spectrum = spectrum[tuple((waves % sizes).T)] * share
    return coefficients


def grid_of(spectrum: Spectrum, linear: Grid, n: int, origin: Grid | None = None) -> Grid:
    """`change_cell` for a density whose Fourier coefficients are given by `spectrum_of`."""
    inverse = old_waves(linear)
    half = n // 2
    new = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    old = new @ inverse  # k = A⁻ᵀ k'
    coefficients = coefficients_at(spectrum, old)
    if origin is not None:
        coefficients = coefficients * np.exp(2j * np.pi * (old @ origin))
    folded = np.zeros((n, n, n), np.complex128)
    np.add.at(folded, tuple((new % n).T), coefficients)
    result: Grid = np.fft.ifftn(folded).real * n**3
    return result


def old_waves(linear: Grid) -> NDArray[np.int64]:
    """(3, 3) the integer matrix A⁻¹: new wave vectors k' (rows) times it are the old ones, k = A⁻ᵀ k'."""
    inverse = np.round(np.linalg.inv(linear)).astype(np.int64)
    assert np.allclose(inverse @ linear, np.eye(3), atol=1e-6), (
        f"{linear.tolist()} is not a change to a cell of the same lattice"
    )
    return inverse


def random_placement(rho: Grid, lattice: Grid, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """The same crystal in a random setting: another origin and other axes of the same lattice.

    The axes are changed by a random operation of the lattice's point group, which keeps lengths and angles, and by a
    random permutation and random signs. All of these permute voxels, so nothing is interpolated.

    Args:
        rho: (n, n, n).
        lattice: (3, 3), Å, rows are vectors.
        rng: random number generator.

    Returns:
        ρ' and the lattice M · `lattice`, where ρ'(x') = ρ(x' M + o) at a random grid point o.
    """
    n = len(rho)
    group = lattice_point_group(lattice)
    axes = np.eye(3, dtype=np.int64)[rng.permutation(3)] * rng.choice((-1, 1), (3, 1))
    matrix = axes @ group[rng.integers(len(group))]
    start, steps = rng.integers(0, n, 3), np.arange(n)
    flat = np.zeros((n, n, n), np.int64)
    for old in range(3):
        index = steps[:, None, None] * matrix[0, old] + steps[:, None] * matrix[1, old] + steps * matrix[2, old]
        flat = flat * n + (index + start[old]) % n
    return rho.ravel()[flat], matrix @ lattice
