"""Powder patterns in columns of text, with positions in 2θ, Q or d converted to 2θ."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import SpectrumError
from crystalign.physics.diffraction import WAVELENGTHS
from crystalign.readers.patterns.axes import Axis, axis_of
from crystalign.readers.patterns.scans import PowderScan, ascending, without_negative_angles
from crystalign.readers.patterns.wavelengths import Stated, find_wavelength, settle
from crystalign.readers.text.columns import TextTable, decode_text, read_table

Array = NDArray[np.float64]

FREE = ("CuKa", "MoKa", "AgKa")
"""Wavelengths for converting Q or d if none is stated: the first that reaches the end of the pattern."""
STRIDE, UNEVEN = 5, 0.25
"""A scan has a constant step: over this many rows it may change by this fraction."""
LAST_SINE = np.sin(np.radians(80.0))
"""Sine of the largest θ that a pattern over Q or d is converted to."""


def read_text_pattern(data: bytes, wavelength: str | float | None = None) -> PowderScan:
    """A pattern in columns.

    Raises:
        FileFormatError: no rows of numbers.
        SpectrumError: positions that cannot be put on a scale of 2θ.
    """
    table = read_table(decode_text(data), at_least=1)
    if (counts := _step_scan(table)) is not None:
        return _finish(*counts, settle(find_wavelength("\n".join(table.header)), wavelength))
    if table.values.shape[1] < 2:
        table = read_table(decode_text(data), at_least=2)
    axis = axis_of(table)
    if max(axis.position, axis.intensity) >= table.values.shape[1]:
        raise SpectrumError("the header names more columns than the rows have", reason="bad-header")
    table = table.without_gaps((axis.position, axis.intensity))
    stated = settle(find_wavelength("\n".join(table.header)), wavelength)
    positions, heights = table.values[:, axis.position], table.values[:, axis.intensity]
    return _finish(positions, heights, stated, axis, table.notices)


def _finish(
    positions: Array, heights: Array, stated: Stated, axis: Axis | None = None, notices: tuple[str, ...] = ()
) -> PowderScan:
    if axis is not None:
        notices = (*notices, *axis.notices)
    if axis is not None and axis.kind in {"q", "d"}:
        positions, heights, stated = _converted(positions, heights, axis, stated)
    elif axis is not None and axis.unit == "rad":
        positions, notices = np.degrees(positions), (*notices, "2θ was converted from radians")
    angle, counts, turned = ascending(positions, heights)
    _refuse_peaks(angle)
    angle, counts, cut = without_negative_angles(angle, counts)
    return PowderScan(angle, counts, stated.value, (*stated.notices, *notices, *turned, *cut))


def _refuse_peaks(angle: Array) -> None:
    """Refuse a list of peaks, which is not evenly spaced; a scan is, except for gaps and rounding.

    Raises:
        SpectrumError: it is a list of peaks.
    """
    strides = np.diff(angle[::STRIDE])
    if len(strides) < 4 or (strides <= 0).any():
        return
    uneven = float(np.median(np.abs(np.diff(np.log(strides)))))
    if uneven > UNEVEN:
        message = "the angles are not evenly spaced, as in a list of peaks; give the scan itself"
        raise SpectrumError(message, reason="peak-list")


def _converted(positions: Array, heights: Array, axis: Axis, stated: Stated) -> tuple[Array, Array, Stated]:
    """Convert Q or d to 2θ in degrees.

    2θ = 2 arcsin(Q λ / 4π), Q = 2π / d. The wavelength is the stated one; without one, any wavelength gives consistent
    positions, so one of `FREE` is used and assumed for the intensities.

    Raises:
        SpectrumError: positions that are not positive, or that the stated wavelength cannot reach.
    """
    if axis.kind == "d":
        if (positions <= 0).any():
            raise SpectrumError("a d-spacing is zero or negative; remove those rows", reason="bad-positions")
        q = 2.0 * np.pi / (positions * (10.0 if axis.unit == "nm" else 1.0))
    else:
        nonnegative = positions >= 0
        q, heights = positions[nonnegative] / (10.0 if axis.unit == "nm" else 1.0), heights[nonnegative]
    name = f"{axis.kind} in {'nm' if axis.unit == 'nm' else 'Å'}{'' if axis.kind == 'd' else '⁻¹'}"
    notices = [f"the positions, {name}, were converted to 2θ"]
    value = stated.value
    if value is None:
        reach = [WAVELENGTHS[tube] for tube in FREE if q.max() * WAVELENGTHS[tube] / (4.0 * np.pi) < LAST_SINE]
        value = reach[0] if reach else WAVELENGTHS[FREE[-1]]
        notices.append(
            f"no wavelength is stated; {name} needs none for its positions, and the intensities were taken as "
            f"measured at {value} Å"
        )
    sine = q * value / (4.0 * np.pi)
    beyond = sine >= LAST_SINE
    if stated.value is not None and (sine > 1.0).any():
        message = (
            f"Q up to {q.max():.3g} Å⁻¹ cannot be measured with {value:.5g} Å; correct the unit of {axis.kind} or "
            "the wavelength"
        )
        raise SpectrumError(message, reason="wavelength-contradictory")
    if beyond.any() and stated.value is None:
        notices.append(f"{int(beyond.sum())} points beyond 2θ = 160° were left out")
        sine, heights = sine[~beyond], heights[~beyond]
    return np.degrees(2.0 * np.arcsin(sine)), heights, Stated(value, stated.exact, (*stated.notices, *notices))


def _step_scan(table: TextTable) -> tuple[Array, Array] | None:
    """Return 2θ and counts of a file that states start, step and end and lists only counts; None for other files."""
    for line in reversed(table.header):
        words = re.split(r"[\s,;]+", line.strip())[:3]
        try:
            start, step, stop = (float(word) for word in words)
        except ValueError:
            continue
        counts = table.values.ravel()
        counts = counts[np.isfinite(counts)]
        expected = (stop - start) / step + 1.0 if step > 0 else 0.0
        if start >= 0 and stop <= 180 and len(counts) > 20 and abs(expected - len(counts)) < 0.01 * step + 0.5:
            angle = np.asarray(start + step * np.arange(len(counts)), np.float64)
            return angle, counts
    return None
