"""Periodic functions on voxel grids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalign.physics.settings import lattice_point_group

Grid = NDArray[np.float64]
Spectrum = NDArray[np.complex128]


def fourier_resample(rho: Grid, n: int) -> Grid:
    """Trigonometric interpolation to n × n × n points.

    Coefficients that both grids hold are kept, so the mean, and with it the charge, is exact and
    translations commute. At the Nyquist frequency of an even grid, where +n/2 and −n/2 are one
    coefficient, they are added (coarser) or shared (finer), which keeps a real function real.

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
    kept = np.zeros((*spectrum.shape[:-1], n // 2 + 1), np.complex128)
    common = min(m, n) // 2 + 1
    kept[..., :common] = spectrum[..., :common]
    if n < m and n % 2 == 0:
        kept[..., n // 2] = 2.0 * kept[..., n // 2].real
    if n > m and m % 2 == 0:
        kept[..., m // 2] *= 0.5
    result: Grid = np.moveaxis(np.fft.irfft(kept, n, axis=-1) * (n / m), -1, axis)
    return result


def change_cell(rho: Grid, linear: Grid, n: int, origin: Grid | None = None) -> Grid:
    """The same periodic function in another cell of its lattice, on n × n × n points.

    With x = A x' + o, ρ(x) = Σ_k c_k exp(2πi k·x) becomes c'_{k'} = c_k exp(2πi k·o) at k' = Aᵀ k, a gather of
    Fourier coefficients: exact for what both grids resolve, and the mean is kept. A primitive cell takes
    from a supercell the waves that have its period.

    Args:
        rho: (nx, ny, nz) in the old cell.
        linear: (3, 3) A; its inverse holds integers.
        n: points along each new axis.
        origin: (3,) o, fractional in the old cell; the old origin without one.

    Returns:
        (n, n, n), in the unit of `rho`.
    """
    return grid_of(spectrum_of(rho), linear, n, origin)


def spectrum_of(rho: Grid) -> Spectrum:
    """(nx, ny, nz) the c_k of ρ(x) = Σ_k c_k exp(2πi k·x), in the order of the fast Fourier transform."""
    spectrum: Spectrum = np.fft.fftn(rho) / rho.size
    return spectrum


def coefficients_at(spectrum: Spectrum, waves: NDArray[np.int64]) -> Spectrum:
    """(K,) the coefficients of waves; zero beyond what the grid holds.

    Args:
        spectrum: from `spectrum_of`.
        waves: (K, 3) indices in the grid's own cell.
    """
    sizes = np.array(spectrum.shape)
    # at the Nyquist frequency of an even grid, +n/2 and −n/2 share one coefficient
    share = np.where(2 * np.abs(waves) == sizes, 0.5, 1.0).prod(axis=1) * (2 * np.abs(waves) <= sizes).all(axis=1)
    found: Spectrum = spectrum[tuple((waves % sizes).T)] * share
    return found


def grid_of(spectrum: Spectrum, linear: Grid, n: int, origin: Grid | None = None) -> Grid:
    """`change_cell` of a density whose coefficients are known."""
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
    """(3, 3) integers A⁻¹: the rows k' of new wave vectors times it are the old k = A⁻ᵀ k'."""
    inverse = np.round(np.linalg.inv(linear)).astype(np.int64)
    assert np.allclose(inverse @ linear, np.eye(3), atol=1e-6), (
        f"{linear.tolist()} is no change to a lattice's own cell"
    )
    return inverse


def random_placement(rho: Grid, lattice: Grid, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """The same crystal from another origin, by other axes of the same lattice.

    An operation of the lattice's point group is drawn, under which its lengths and angles stay, then an order
    and directions of the axes, with which they go. Both permute voxels, so nothing is interpolated.

    Args:
        rho: (n, n, n).
        lattice: (3, 3), Å, rows are vectors.
        rng: the source of chance.

    Returns:
        `rho` and `lattice` = M · lattice, where ρ'(x') = ρ(x' M + o) at a random grid point o.
    """
    n = len(rho)
    group = lattice_point_group(lattice)
    axes = np.eye(3, dtype=np.int64)[rng.permutation(3)] * rng.choice((-1, 1), (3, 1))
    matrix = axes @ group[rng.integers(len(group))]
    start, steps = rng.integers(0, n, 3), np.arange(n)
    flat = np.zeros((n, n, n), np.int64)
    for old in range(3):
        place = steps[:, None, None] * matrix[0, old] + steps[:, None] * matrix[1, old] + steps * matrix[2, old]
        flat = flat * n + (place + start[old]) % n
    return rho.ravel()[flat], matrix @ lattice
