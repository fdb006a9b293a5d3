"""Powder X-ray diffraction: stored as peaks, given to the network as a pattern on a common grid of Q.

Simulated and measured patterns are prepared alike: both have the Lorentz–polarisation factor of the reference
instrument, the same background removal, and a maximum of 1. The remaining differences (strain, widths, texture, noise,
range) are simulated by augmentation in training.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config
from crystalign.errors import SpectrumError
from crystalign.modalities.modality import Features, Inputs, Modality
from crystalign.modalities.query import (
    Clue,
    Numbers,
    Plot,
    PlottedCurve,
    QueryField,
    QueryFile,
    QuerySpec,
    Wavelength,
    array_of,
)
from crystalign.physics.diffraction import (
    REFERENCE_WAVELENGTH,
    PowderPattern,
    draw,
    lorentz_polarisation,
    parse_wavelength,
    remove_background,
)
from crystalign.physics.rendering import Augmentation, Instrument, render
from crystalign.physics.spectra import resample

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalign.material import Material

Array = NDArray[np.float64]
MIN_POINTS, MAX_POINTS = 50, 500_000
TWO_THETA = np.linspace(5.0, 90.0, 1701)
"""(1701,) 2θ in degrees at which patterns of materials are plotted."""
PEAK_WIDTH = 0.15
"""Full width at half maximum of a plotted peak, degrees."""

__all__ = ["MeasuredPattern", "PowderPattern", "XrdModality", "parse_wavelength", "parse_xrd"]


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPattern:
    """Measured pattern: counts against angle, as an instrument writes them.

    Raises:
        SpectrumError: a value is NaN, angles do not ascend or are out of range, or there are too few points or no
            signal.
    """

    two_theta: Array
    """(M,) degrees, ascending."""
    intensities: Array
    """(M,) counts, background included or not; zeros that pad the ends of a background are not measurements."""
    wavelength: float
    """Wavelength in Å; if Kα₂ was not removed, the weighted mean of Kα₁ and Kα₂ (1.54184 for copper)."""
    notices: tuple[str, ...] = ()
    """What a reader left out, converted, joined or assumed, for the user to check."""

    def __post_init__(self) -> None:
        """Cut the padding and check the values."""
        angle, counts = np.asarray(self.two_theta, np.float64), np.asarray(self.intensities, np.float64)
        if angle.ndim != 1 or angle.shape != counts.shape or not MIN_POINTS <= len(angle) <= MAX_POINTS:
            message = (
                f"{angle.shape} angles with {counts.shape} intensities; expected (M,), {MIN_POINTS} to {MAX_POINTS}"
            )
            raise SpectrumError(message, reason="bad-shape")
        if not (np.isfinite(angle).all() and np.isfinite(counts).all()):
            raise SpectrumError("an angle or an intensity is not a finite number; remove those rows", reason="nan")
        if not (np.diff(angle) > 0).all():
            where = int(np.argmin(np.diff(angle)))
            message = f"2θ must ascend; rows {where + 1} and {where + 2} are {angle[where]}° and {angle[where + 1]}°"
            raise SpectrumError(message, reason="non-monotonic")
        if angle[0] < 0 or angle[-1] > 180:
            message = f"2θ runs from {angle[0]}° to {angle[-1]}°; it must lie between 0° and 180°"
            raise SpectrumError(message, reason="bad-angles")
        signal = np.flatnonzero(counts != 0)
        if len(signal) < MIN_POINTS // 2 or counts.max() <= counts.min():
            raise SpectrumError(
                "the pattern is flat or almost empty; there is nothing to search for", reason="no-signal"
            )
        # a few dead points may be far below zero; inverted peaks have more such points
        if counts.max() <= 0 or -np.partition(counts, 4)[4] > counts.max():
            message = (
                f"the intensities run from {counts.min():g} to {counts.max():g}, so that they are mostly negative; "
                "give counts, with peaks that point upwards"
            )
            raise SpectrumError(message, reason="negative-intensities")
        measured = slice(signal[0], signal[-1] + 1)
        if np.percentile(counts[measured], 5) < 1e-5 * counts.max():
            measured = slice(None)  # without background a zero is a valid value, as in a simulated scan
        elif (cut := len(counts) - (measured.stop - measured.start)) > 0:
            notice = f"{cut} points without counts at the ends were left out"
            object.__setattr__(self, "notices", (*self.notices, notice))
        object.__setattr__(self, "two_theta", angle[measured])
        object.__setattr__(self, "intensities", counts[measured])
        object.__setattr__(self, "wavelength", parse_wavelength(self.wavelength))

    @property
    def q(self) -> Array:
        """(M,) Q = 4π sin θ / λ, Å⁻¹."""
        return 4.0 * np.pi * np.sin(np.radians(self.two_theta / 2.0)) / self.wavelength

    def on_grid(self, edges: Array) -> tuple[Array, slice]:
        """Convert to intensity per Q as the reference instrument would have recorded it.

        I(Q) = I(2θ) · d(2θ)/dQ · LP_reference / LP_measured, then averaged over bins.

        Args:
            edges: (G + 1,) bin edges in Å⁻¹.

        Returns:
            Intensities (G,), and a mask (G,) of the bins that the measurement covers entirely.
        """
        q = self.q
        near = (q > 0.5 * edges[0]) & (q < edges[-1] + 0.1) & (self.two_theta < 170.0)
        q, theta, counts = q[near], np.radians(self.two_theta[near] / 2.0), self.intensities[near]
        if len(q) < 2:
            return np.zeros(len(edges) - 1), slice(0, 0)
        weight = self.wavelength / np.cos(theta) / REFERENCE_WAVELENGTH
        weight *= lorentz_polarisation(q, REFERENCE_WAVELENGTH) / lorentz_polarisation(q, self.wavelength)
        first, last = np.searchsorted(edges, q[0]), np.searchsorted(edges, q[-1], side="right") - 1
        return resample(q, counts * weight, edges), slice(int(first), max(int(last), int(first)))


class XrdQuery(Config):
    """Measured powder pattern as a query."""

    two_theta: Numbers
    """Degrees, ascending."""
    intensities: Numbers
    """Any unit, background included."""
    wavelength: Wavelength | None = None
    """Wavelength in Å, or `CuKa`, `CoKa`, `MoKa`, …; required to convert angles to Q."""

    def value(self) -> MeasuredPattern:
        """Convert to a `MeasuredPattern`.

        Raises:
            QueryError: lists of different lengths.
            SpectrumError: the wavelength is missing, or the numbers are not a pattern.
        """
        if self.wavelength is None:
            raise SpectrumError(
                "a powder pattern needs its wavelength: CuKa, MoKa, CoKa, … or a number in Å",
                reason="wavelength-missing",
            )
        wavelength = parse_wavelength(self.wavelength)
        angles, counts = array_of(self.two_theta, "two_theta"), array_of(self.intensities, "intensities")
        return MeasuredPattern(angles, counts, wavelength)


def _draw(value: MeasuredPattern | PowderPattern, wavelength: str) -> PlottedCurve:
    """Return a measured curve, or peaks as a diffractometer at `wavelength` would record them; the maximum is 1.

    Raises:
        SpectrumError: an unknown wavelength.
    """
    if isinstance(value, MeasuredPattern):
        top = float(np.max(value.intensities)) or 1.0
        return _relative(value.two_theta, value.intensities / top, value.wavelength)
    length = parse_wavelength(wavelength)
    sine = length / (2.0 * value.d_spacings)
    seen = sine < np.sin(np.radians(TWO_THETA[-1] / 2.0))
    angles = np.degrees(2.0 * np.arcsin(sine[seen]))
    areas = value.intensities[seen] * lorentz_polarisation(2.0 * np.pi / value.d_spacings[seen], length)
    drawn = draw(angles, areas, np.full(len(angles), PEAK_WIDTH), TWO_THETA) if seen.any() else 0.0 * TWO_THETA
    return _relative(TWO_THETA, drawn / (drawn.max() or 1.0), length)


def _relative(angles: Array, intensities: Array, wavelength: float) -> PlottedCurve:
    return PlottedCurve(angles, intensities, f"2θ (degrees, λ = {wavelength:.4f} Å)", "Intensity (relative)")


QUERY = QuerySpec(
    label="XRD",
    fields=(
        QueryField(
            "xrd",
            XrdQuery,
            "A measured powder pattern.",
            "File with a measured powder pattern: .xy, .xye, .csv or .xrdml.",
        ),
    ),
    read=XrdQuery.value,
    files=QueryFile(
        parse="crystalign.modalities.xrd:parse_xrd",
        hint="XRD (.xy, .xye, .csv, .xrdml)",
        suffixes=(
            *(".xy", ".xye", ".chi", ".fxye", ".fxy", ".gsa", ".gsas"),
            *(".xrdml", ".ras", ".brml", ".raw", ".uxd", ".udf"),
        ),
        marks=("<xrdmeasurement", "*ras_data_start"),
        clues=(
            Clue(r"theta|2[ _-]?th(?![a-z])|tth(?![a-z])|2θ|wavelength|(?<![a-z])angles?(?![a-z])", 40),
            Clue(r"(?:beam|photon) energ|(?<![a-z])kev(?![a-z])", 20),
        ),
        x_above=30.0,
        takes_wavelength=True,
    ),
    plot=Plot("Powder diffraction", _draw, relative=True),
    matcher="crystalign.modalities.profile_match:ProfileMatcher",
    held_out="crystalign.evaluation.held_out_queries:MeasuredPatterns",
    carried=MeasuredPattern,
)


class XrdModality(Modality[PowderPattern]):
    """A batch holds `pattern` (n, G) float32 in [0, 1] and `mask` (n, G) float32, 1 where measured."""

    name: ClassVar[str] = "xrd"
    label: ClassVar[str] = "X-ray diffraction"
    derived_by: ClassVar[str | None] = "crystalign.derivation:xrd_of"
    query: ClassVar[QuerySpec | None] = QUERY

    class Settings(Config):
        """Settings of the grid and of the augmentation."""

        q_min: float = 0.4
        """Å⁻¹; lower end of the grid (5.6° at Cu Kα, d = 15.7 Å)."""
        q_max: float = 5.7
        """Å⁻¹; upper end of the grid (88.8° at Cu Kα, d = 1.10 Å)."""
        n_points: int = 1024
        """Number of bins G of the grid."""
        scale: Literal["linear", "sqrt"] = "sqrt"
        """Function applied to the intensity after scaling the maximum to 1; the root emphasises weak peaks."""
        background_half_width: float = 0.16
        """Å⁻¹; features broader than twice this are background (4.5° at Cu Kα)."""
        min_coverage: float = 0.3
        """Smallest share of the grid that a measurement must cover."""
        augmentation: Augmentation = Augmentation()
        """Augmentation in training."""

    settings: Settings

    @classmethod
    def column_type(cls) -> pa.StructType:
        """Peaks, d descending."""
        import pyarrow as pa

        return pa.struct([("d_spacings", pa.list_(pa.float64())), ("intensities", pa.list_(pa.float32()))])

    @classmethod
    def to_column(cls, value: PowderPattern) -> Mapping[str, Any]:
        """Store peaks; a measured pattern is only used as a query."""
        return {"d_spacings": value.d_spacings, "intensities": value.intensities.astype(np.float32)}

    @classmethod
    def from_column(cls, scalar: pa.StructScalar) -> PowderPattern:
        """The peaks."""
        d, strength = (scalar[n].values.to_numpy(zero_copy_only=False) for n in ("d_spacings", "intensities"))
        return PowderPattern(d, strength)

    @property
    def edges(self) -> Array:
        """(G + 1,) bin edges, Å⁻¹."""
        return _edges(self.settings.q_min, self.settings.q_max, self.settings.n_points)

    @property
    def grid(self) -> Array:
        """(G,) bin centres, Å⁻¹."""
        return 0.5 * (self.edges[1:] + self.edges[:-1])

    def featurise(self, value: PowderPattern | MeasuredPattern, *, rng: np.random.Generator | None = None) -> Features:
        """Return a pattern on the grid: measured, or rendered from peaks (with `rng`, for a random instrument).

        Raises:
            SpectrumError: the measurement covers too little of the grid, or has no signal above the background.
        """
        if isinstance(value, MeasuredPattern):
            raw, covered = value.on_grid(self.edges)
            self._check_coverage(value, covered)
        elif rng is None:
            raw, covered = render(value, self.grid, Instrument()), slice(0, self.settings.n_points)
        else:
            raw, covered = self.settings.augmentation.measure(value, self.grid, rng)
        return self._finish(raw, covered)

    def _finish(self, raw: Array, covered: slice) -> Features:
        """Remove the background, scale, and set unmeasured bins to zero."""
        step = (self.settings.q_max - self.settings.q_min) / self.settings.n_points
        rest = remove_background(raw[covered], round(self.settings.background_half_width / step))
        rest = rest / max(rest.max(), 1e-300)
        pattern, mask = np.zeros((2, self.settings.n_points), np.float32)
        pattern[covered] = np.sqrt(rest) if self.settings.scale == "sqrt" else rest
        mask[covered] = 1.0
        return {"pattern": pattern, "mask": mask}

    def _check_coverage(self, value: MeasuredPattern, covered: slice) -> None:
        """Refuse a range that does not occur in training."""
        share = (covered.stop - covered.start) / self.settings.n_points
        if share >= self.settings.min_coverage:
            return
        sine = np.array([self.settings.q_min, self.settings.q_max]) * value.wavelength / (4.0 * np.pi)
        low, high = np.degrees(2.0 * np.arcsin(np.minimum(sine, 1.0)))
        raise SpectrumError(
            f"2θ from {value.two_theta[0]:.2f}° to {value.two_theta[-1]:.2f}° at {value.wavelength:.5f} Å covers "
            f"{share:.0%} of the model's range; at this wavelength measure most of {low:.1f}° … {high:.1f}°, "
            "or correct the wavelength",
            reason="range-not-covered",
        )

    def collate(self, samples: Sequence[Features]) -> Inputs:
        """Stack the patterns."""
        import torch

        return {name: torch.from_numpy(np.stack([s[name] for s in samples])) for name in ("pattern", "mask")}

    def empty_sample(self) -> Features:
        """Return a pattern with one peak."""
        return self.featurise(PowderPattern(np.array([2.5]), np.array([1.0])))

    @classmethod
    def equivalence(cls, material: Material) -> str:
        """Return a hash of the peaks as key; enantiomorphs and duplicates have equal peaks.

        Two patterns are equal if their peaks of at least 5 % of the strongest |F|² m agree in d rounded to 0.001 Å and
        in intensity rounded to 0.01. Duplicates agree much better; the same phase from another calculation, with
        another cell, does not.
        """
        pattern: PowderPattern | None = material.value("xrd")
        if pattern is None:
            return material.id
        strong = pattern.intensities >= 0.05
        # an irrational offset keeps exact values, such as 1 or a/2, away from rounding boundaries
        d = np.floor(pattern.d_spacings[strong] / 0.001 + 0.31831).astype(np.int64)
        height = np.floor(pattern.intensities[strong] / 0.01 + 0.31831).astype(np.int64)
        return hashlib.blake2b(np.stack([d, height]).tobytes(), digest_size=16).hexdigest()


@functools.cache
def _edges(q_min: float, q_max: float, n_points: int) -> Array:
    edges = np.linspace(q_min, q_max, n_points + 1)
    edges.flags.writeable = False
    return edges


def parse_xrd(source: Path | bytes, *, name: str = "", wavelength: str | float | None = None) -> MeasuredPattern:
    """Read a measured pattern from columns of text or from an instrument's file.

    Columns are 2θ (degrees, or radians where the header says so), Q or d, and the intensity. Supported instrument
    files are PANalytical's `.xrdml`, Rigaku's `.ras`, Bruker's `.uxd` and `.brml`, and GSAS. Repeated scans are added,
    ranges are joined, aborted scans are left out; `notices` of the pattern say what was done.

    Args:
        source: the file, or its bytes.
        name: the file's name, where `source` is bytes.
        wavelength: `CuKa`, `MoKa1`, … or Å, for a file that does not state it. A stated wavelength takes precedence,
            with a notice if the two are of different anodes.

    Raises:
        SpectrumError: the wavelength is neither in the file nor given, or the values are not a pattern.
        FileFormatError: the file has none of these formats.
    """
    from crystalign.readers.patterns.pattern_file import read_pattern

    data = source if isinstance(source, bytes) else source.read_bytes()
    scan = read_pattern(data, name or (source.name if isinstance(source, Path) else ""), wavelength)
    if scan.wavelength is None:
        raise SpectrumError(
            "the file does not say which wavelength it was measured with; give one, e.g. CuKa, MoKa, CoKa or 1.5406",
            reason="wavelength-missing",
        )
    return MeasuredPattern(scan.two_theta, scan.intensities, scan.wavelength, scan.notices)
