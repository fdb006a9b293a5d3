"""Spectra on a common grid: exact rebinning, the valence band maximum, and broadening."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def resample(energies: Array, densities: Array, edges: Array) -> Array:
    """Bin averages of the piecewise linear function through the points, which is zero beyond its ends.

    With F(E) = ∫ g dE, which is exact because g is piecewise linear, the value of bin b is
    (F(e_{b+1}) − F(e_b)) / (e_{b+1} − e_b). The integral over the bins is therefore that of g.

    Args:
        energies: (M,) ascending, M >= 2.
        densities: (..., M).
        edges: (B + 1,) ascending bin edges, in the unit of `energies`.

    Returns:
        (..., B), in the unit of `densities`.
    """
    assert energies.ndim == 1
    assert densities.shape[-1] == len(energies) >= 2
    steps = np.diff(energies)
    area = 0.5 * (densities[..., 1:] + densities[..., :-1]) * steps
    total = np.concatenate([np.zeros((*densities.shape[:-1], 1)), np.cumsum(area, axis=-1)], axis=-1)
    inside = np.clip(edges, energies[0], energies[-1])
    cell = np.clip(np.searchsorted(energies, inside, side="right") - 1, 0, len(steps) - 1)
    t = inside - energies[cell]
    slope = (densities[..., cell + 1] - densities[..., cell]) / steps[cell]
    cumulative = total[..., cell] + t * (densities[..., cell] + 0.5 * slope * t)
    averages: Array = np.diff(cumulative, axis=-1) / np.diff(edges)
    return averages


def rebin(averages: Array, edges: Array, targets: Array) -> Array:
    """Convert averages over bins to averages over other bins. Beyond the ends, the first and last value continue.

    The cumulative integral is known exactly at `edges`. It is interpolated by a monotone cubic
    (Fritsch & Carlson, SIAM J. Numer. Anal. 17, 238 (1980)), so the integral between two edges common to both
    grids is exact, and the result is not negative.

    Args:
        averages: (B,) averages over the bins, not negative.
        edges: (B + 1,) ascending bin edges.
        targets: (C + 1,) ascending edges of the other bins, in the unit of `edges`.

    Returns:
        (C,), in the unit of `averages`.
    """
    if targets.shape == edges.shape and np.array_equal(targets, edges):
        return averages
    from scipy.interpolate import PchipInterpolator

    margin = edges[1] - edges[0]
    knots = np.concatenate([[min(edges[0], targets[0]) - margin], edges, [max(edges[-1], targets[-1]) + margin]])
    heights = np.concatenate([averages[:1], averages, averages[-1:]])
    integral = PchipInterpolator(knots, np.concatenate([[0.0], np.cumsum(heights * np.diff(knots))]))(targets)
    result: Array = np.maximum(np.diff(integral), 0.0) / np.diff(targets)
    return result


def valence_band_maximum(
    energies: Array,
    density: Array,
    *,
    efermi: float = 0.0,
    threshold: float = 0.01,
    tolerance: float = 0.1,
    min_gap: float = 0.1,
) -> tuple[float, float]:
    """The valence band maximum and the band gap.

    A gap is an interval around the Fermi level in which the density stays below `threshold`. In a broadened density
    of states the gap is narrower than the true one, by about five times the width of the broadening.

    Args:
        energies: (M,) eV, ascending.
        density: (M,) states/eV/atom, both spins.
        efermi: eV, on the same scale.
        threshold: states/eV/atom; a lower density counts as zero.
        tolerance: eV; the reported Fermi level may lie this far inside a band.
        min_gap: eV; a narrower interval is not a gap.

    Returns:
        (VBM, gap) in eV; (`efermi`, 0.0) for a metal, or if there are no states below the gap.
    """
    empty = np.concatenate([[False], density < threshold, [False]])
    change = np.flatnonzero(np.diff(empty.astype(np.int8)))
    best = (efermi, 0.0)
    for first, stop in zip(change[::2], change[1::2], strict=True):
        if first == 0:
            continue  # no states below: this is the beginning of the data, not a gap
        low = _crossing(energies, density, first - 1, threshold)
        high = energies[-1] if stop == len(energies) else _crossing(energies, density, stop - 1, threshold)
        near = low - tolerance <= efermi <= high + tolerance
        if near and high - low >= max(min_gap, best[1]):
            best = (float(low), float(high - low))
    return best


def _crossing(energies: Array, density: Array, left: int, threshold: float) -> float:
    """The energy at which the line between points `left` and `left + 1` crosses `threshold`."""
    a, b = density[left], density[left + 1]
    return float(energies[left] + (threshold - a) / (b - a) * (energies[left + 1] - energies[left]))


def broaden(values: Array, step: float, width: float) -> Array:
    """Convolve `values` (..., B) with a normalised Gaussian of standard deviation `width`; the end values repeat."""
    if width < 0.1 * step:
        return values
    from scipy.ndimage import gaussian_filter1d

    smooth: Array = gaussian_filter1d(values, width / step, axis=-1, mode="nearest")
    return smooth
