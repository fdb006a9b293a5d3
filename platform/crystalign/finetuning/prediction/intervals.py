"""Prediction intervals by split conformal prediction.

For the scores s_i = |z_i − ẑ_i|/σ_i of the n materials of a calibration part and a level 1 − α, the interval ẑ ± q σ
with q the ⌈(n + 1)(1 − α)⌉-th smallest score covers a new material with probability at least 1 − α for any network,
provided that the calibration part was not used for fitting or model selection and the new material is drawn from the
same distribution (Vovk, Gammerman & Shafer 2005; Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018)). The probability
includes the random choice of the calibration part: the coverage for one part has the distribution Beta(k, n + 1 − k)
with k the rank above, e.g. 94 ± 6 % for 16 materials. σ is 1, or the spread of an ensemble, so that materials on which
its members disagree get wider intervals. Two assumptions can fail: materials of related chemistry (in a published
split by material, even of the same formula) are not independent draws, and a calibration part that was used in
pre-training may have smaller errors than the test part. `coverage` measures the actual coverage.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import ConfigError
from crystalign.finetuning.network.config import LEVELS, Calibration

Array = NDArray[np.float64]


def calibrate(scaled: Array, labels: Array, spread: Array | None = None) -> Calibration:
    """Compute the half widths of the intervals from the errors on the calibration part.

    Args:
        scaled: (n, T) predictions on the scale of the network.
        labels: (n, T) on that scale; NaN where not known.
        spread: (n, T) standard deviation over the members of an ensemble.

    Raises:
        ConfigError: a target has no label.
    """
    is_labelled = np.isfinite(labels)
    if not is_labelled.any(axis=0).all():
        raise ConfigError("intervals need at least one label of each target in the calibration part")
    floor: tuple[float, ...] = ()
    width = np.ones_like(scaled)
    if spread is not None:
        medians = [float(np.median(spread[is_labelled[:, t], t])) for t in range(scaled.shape[1])]
        floor = tuple(max(value, 1e-6) for value in medians)
        width = _width(spread, floor)
    scores = np.abs(scaled - labels) / width
    radii = {}
    for level in LEVELS:
        quantiles = [_quantile(scores[is_labelled[:, t], t], level) for t in range(scaled.shape[1])]
        if any(q is not None for q in quantiles):
            radii[f"{level:g}"] = tuple(quantiles)
    return Calibration(n=tuple(is_labelled.sum(axis=0).tolist()), radii=radii, floor=floor)


def interval(
    calibration: Calibration | None, scaled: Array, spread: Array | None = None, *, level: float = 0.9
) -> tuple[Array, Array]:
    """Return lower and upper ends, (n, T) each, on the scale of the network.

    Ends are infinite if the calibration part is too small for the level (90 % needs nine materials), and NaN without
    a calibration.

    Raises:
        ConfigError: the level is not one of `LEVELS`, or the spread is missing for an ensemble's calibration.
    """
    if level not in LEVELS:
        raise ConfigError(f"level {level:g} is not calibrated; there are {', '.join(f'{value:g}' for value in LEVELS)}")
    if calibration is None:
        return np.full_like(scaled, np.nan), np.full_like(scaled, np.nan)
    half_widths = calibration.radii.get(f"{level:g}", (None,) * scaled.shape[1])
    radii = np.array([np.inf if radius is None else radius for radius in half_widths])
    if calibration.floor:
        if spread is None:
            raise ConfigError("this calibration is in units of an ensemble's spread, and there is none")
        radii = radii * _width(spread, calibration.floor)
    return scaled - radii, scaled + radii


def coverage(lower: Array, upper: Array, values: Array) -> Array:
    """Coverage (T,): share of the known values within their intervals, ends included."""
    inside = np.where(np.isfinite(values), (values >= lower) & (values <= upper), np.nan)
    return np.asarray(np.nanmean(inside, axis=0))


def _width(spread: Array, floor: tuple[float, ...]) -> Array:
    """Width √(s² + s₀²); s₀ avoids intervals of zero width when a few members agree by chance."""
    return np.asarray(np.hypot(spread, np.array(floor)))


def _quantile(scores: Array, level: float) -> float | None:
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else None
