"""Periodic functions on voxel grids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]


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


def random_placement(rho: Grid, lattice: Grid, rng: np.random.Generator) -> tuple[Grid, Grid]:
    """The same crystal from another origin, with its axes renamed and reversed.

    Args:
        rho: (n, n, n).
        lattice: (3, 3), Å, rows are vectors.
        rng: the source of chance.

    Returns:
        `rho` and `lattice`, shifted by a random grid vector, axes permuted and flipped together.
    """
    shift = rng.integers(0, rho.shape)
    order = rng.permutation(3)
    flipped = np.flatnonzero(rng.random(3) < 0.5)
    moved = np.flip(np.roll(rho, shift, axis=(0, 1, 2)).transpose(order), axis=tuple(flipped))
    signs = np.where(np.isin(np.arange(3), flipped), -1.0, 1.0)
    return moved, lattice[order] * signs[:, None]
