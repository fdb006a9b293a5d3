"""Scans of one measurement, and their combination to one pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import SpectrumError

Array = NDArray[np.float64]

NEAR = 0.25
"""Points of several scans that are closer than this share of a step are one point."""
MAX_SCANS = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class PowderScan:
    """A powder pattern as its file states it."""

    two_theta: Array
    """(M,) degrees, ascending."""
    intensities: Array
    """(M,) counts, or counts per second."""
    wavelength: float | None
    """Å; None if neither the file nor the user says."""
    notices: tuple[str, ...] = ()
    """What was left out, converted, joined or assumed."""


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """One scan over 2θ."""

    two_theta: Array
    """(M,) degrees, in any order."""
    counts: Array
    """(M,) as the beam would have given without attenuators."""
    seconds: Array | None = None
    """(M,) counting time of each point, up to a common factor; None if the file does not say."""


def ascending(two_theta: Array, intensities: Array) -> tuple[Array, Array, tuple[str, ...]]:
    """A scan with rising angles: a falling one is turned round, rows with one and the same angle are averaged.

    Raises:
        SpectrumError: the angles go up and down.
    """
    steps = np.diff(two_theta)
    notices: tuple[str, ...] = ()
    if (steps <= 0).all() and (steps < 0).any():
        two_theta, intensities, steps = two_theta[::-1], intensities[::-1], -steps[::-1]
        notices = ("the angles fall from row to row; the scan was turned round",)
    if (steps < 0).any():
        where = int(np.argmax(steps < 0))
        message = (
            f"2θ goes up and down: rows {where + 1} and {where + 2} are {two_theta[where]:g}° and "
            f"{two_theta[where + 1]:g}°; give one scan in a file"
        )
        raise SpectrumError(message, reason="non-monotonic")
    if (steps == 0).any():
        equal = int((steps == 0).sum())
        if equal > 0.1 * len(steps):
            message = f"{equal} of {len(two_theta)} rows repeat the angle of the row before; export more digits"
            raise SpectrumError(message, reason="non-monotonic")
        two_theta, group = np.unique(two_theta, return_inverse=True)
        intensities = np.bincount(group, intensities) / np.bincount(group)
        notices = (*notices, f"{equal} rows repeat the angle of the row before; their intensities were averaged")
    return two_theta, intensities, notices


def without_negative_angles(two_theta: Array, intensities: Array) -> tuple[Array, Array, tuple[str, ...]]:
    """The points at 2θ of at least 0: those on the other side of the beam repeat them."""
    nonnegative = two_theta >= 0.0
    if nonnegative.all():
        return two_theta, intensities, ()
    notice = f"{int((~nonnegative).sum())} points at negative 2θ were left out"
    return two_theta[nonnegative], intensities[nonnegative], (notice,)


def combine(scans: Sequence[Scan]) -> tuple[Array, Array, tuple[str, ...]]:
    """Combine several scans to one pattern: repeated points are added, ranges are joined.

    Points closer than a quarter of a step are merged: their counts and their times are added. If all points
    were then counted equally long, the result is in counts, otherwise in counts per second, so that
    ranges that were counted for different times fit together.

    Raises:
        SpectrumError: no scan, or only some of them state their counting time.
    """
    if not scans:
        raise SpectrumError("the file holds no scan of 2θ", reason="no-scan")
    if len(scans) == 1:
        angle, order = scans[0].two_theta, np.argsort(scans[0].two_theta, kind="stable")
        return _alone(scans[0], angle[order], order)
    timed = [scan.seconds is not None for scan in scans]
    if any(timed) and not all(timed):
        message = "only some of the scans in the file state their counting time; export each scan to its own file"
        raise SpectrumError(message, reason="counting-time-missing")
    steps = [np.median(np.abs(np.diff(scan.two_theta))) for scan in scans if len(scan.two_theta) > 1]
    near = NEAR * float(min(steps)) if steps else 0.0
    angle = np.concatenate([scan.two_theta for scan in scans])
    counts = np.concatenate([scan.counts for scan in scans])
    seconds = np.concatenate([np.ones(len(s.counts)) if s.seconds is None else s.seconds for s in scans])
    order = np.argsort(angle, kind="stable")
    angle, counts, seconds = angle[order], counts[order], seconds[order]
    group, shifted = _groups(angle, near)
    size = np.bincount(group)
    total, time = np.bincount(group, counts), np.bincount(group, seconds)
    two_theta = np.bincount(group, angle) / size
    even = np.allclose(time, time[0], rtol=1e-3)
    notice = f"{len(scans)} scans of the file were {'added' if size.min() == size.max() > 1 else 'joined'}"
    if not all(timed):
        notice += ", as if every point had been counted equally long, because no counting times are stated"
    elif not even:
        equal = np.allclose(seconds, seconds[0], rtol=1e-3)
        notice += " as counts per second, because " + (
            "not every angle was measured equally often" if equal else "their counting times differ"
        )
    if shifted:
        notice += f"; their angles are shifted against each other, and points within {near:.3g}° were taken as one"
    return two_theta, np.asarray(total if even else total / time, np.float64), (notice,)


def _groups(angle: Array, near: float) -> tuple[NDArray[np.int64], bool]:
    """Return, for each angle, its point in the result (M,), and whether scans are shifted against each other.

    No angle is further than `near` from the first of its group; comparing neighbours alone would chain scans.
    """
    starts = np.concatenate([[True], np.diff(angle) > near])
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(angle)) - 1
    chained = angle[last] - angle[first] > near
    for begin, end in zip(first[chained].tolist(), last[chained].tolist(), strict=True):
        at = begin
        while at <= end:
            starts[at] = True
            at = int(np.searchsorted(angle, angle[at] + near, side="right"))
    return np.cumsum(starts) - 1, bool(chained.any())


def _alone(scan: Scan, angle: Array, order: NDArray[np.int64]) -> tuple[Array, Array, tuple[str, ...]]:
    counts = scan.counts[order]
    if scan.seconds is None or np.allclose(scan.seconds, scan.seconds[0], rtol=1e-3):
        return angle, counts, ()
    notice = "the points were counted for different times; the pattern is in counts per second"
    return angle, counts / scan.seconds[order], (notice,)
