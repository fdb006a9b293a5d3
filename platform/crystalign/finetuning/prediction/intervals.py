"""How far off a prediction may be: split-conformal intervals.

For the scores s_i = |z_i − ẑ_i|/σ_i of the n materials of a calibration part and a level 1 − α, the interval ẑ ± q σ
with q the ⌈(n + 1)(1 − α)⌉-th smallest score holds a new material with probability at least 1 − α, whatever the
network is, if the calibration part decided nothing about it and the new one is drawn as that part was (Vovk, Gammerman
& Shafer 2005; Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018)). The probability is over calibration parts, too: that
of one of them has the distribution Beta(k, n + 1 − k) with k the rank above, of 16 materials 94 ± 6 %. σ is 1, or the
spread of an ensemble, so that materials on which its members disagree get wider intervals. Two things are outside the
theorem: materials of other formulas but the same chemistry (in a published split, which goes by material, even of the
same formula) are no independent draws, and a calibration part that pre-training saw may have smaller errors than the
test. `coverage` says what became of it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import ConfigError
from crystalign.finetuning.network.config import LEVELS, Calibration

Array = NDArray[np.float64]


def calibrate(scaled: Array, wanted: Array, spread: Array | None = None) -> Calibration:
    """Half widths from the errors on the calibration part.

    Args:
        scaled: (n, T) predictions on the scale of the network.
        wanted: (n, T) labels on that scale; NaN where not known.
        spread: (n, T) standard deviation over the members of an ensemble.

    Raises:
        ConfigError: a target without a label.
    """
    known = np.isfinite(wanted)
    if not known.any(axis=0).all():
        raise ConfigError("intervals need at least one label of each target in the calibration part")
    floor: tuple[float, ...] = ()
    width = np.ones_like(scaled)
    if spread is not None:
        medians = [float(np.median(spread[known[:, t], t])) for t in range(scaled.shape[1])]
        floor = tuple(max(value, 1e-6) for value in medians)
        width = _width(spread, floor)
    scores = np.abs(scaled - wanted) / width
    radii = {}
    for level in LEVELS:
        found = [_quantile(scores[known[:, t], t], level) for t in range(scaled.shape[1])]
        if any(q is not None for q in found):
            radii[f"{level:g}"] = tuple(found)
    return Calibration(n=tuple(known.sum(axis=0).tolist()), radii=radii, floor=floor)


def interval(
    calibration: Calibration | None, scaled: Array, spread: Array | None = None, *, level: float = 0.9
) -> tuple[Array, Array]:
    """Lower and upper ends, (n, T) each, on the scale of the network.

    Infinite where the calibration part was too small for the level (90 % needs nine materials), NaN without a
    calibration.

    Raises:
        ConfigError: a level that is not one of `LEVELS`, or an ensemble's calibration without its spread.
    """
    if level not in LEVELS:
        raise ConfigError(f"level {level:g} is not calibrated; there are {', '.join(f'{value:g}' for value in LEVELS)}")
    if calibration is None:
        return np.full_like(scaled, np.nan), np.full_like(scaled, np.nan)
    found = calibration.radii.get(f"{level:g}", (None,) * scaled.shape[1])
    radii = np.array([np.inf if radius is None else radius for radius in found])
    if calibration.floor:
        if spread is None:
            raise ConfigError("this calibration is in units of an ensemble's spread, and there is none")
        radii = radii * _width(spread, calibration.floor)
    return scaled - radii, scaled + radii


def coverage(lower: Array, upper: Array, values: Array) -> Array:
    """(T,) share of the known values that lie within their intervals, the ends included."""
    inside = np.where(np.isfinite(values), (values >= lower) & (values <= upper), np.nan)
    return np.asarray(np.nanmean(inside, axis=0))


def _width(spread: Array, floor: tuple[float, ...]) -> Array:
    """√(s² + s₀²): a few members agree by chance, and an interval of no width covers nothing."""
    return np.asarray(np.hypot(spread, np.array(floor)))


def _quantile(scores: Array, level: float) -> float | None:
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else None
