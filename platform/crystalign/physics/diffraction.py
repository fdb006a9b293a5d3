"""Powder diffraction: peaks that do not depend on the wavelength, and patterns computed from them.

With Q = 2π/d = 4π sin θ / λ, the position of a peak and its strength |F|² · multiplicity are properties of
the crystal. The wavelength enters only through the Lorentz–polarisation factor of the instrument,

    LP(θ) = (1 + cos² 2θ) / (sin² θ cos θ).

Peaks are therefore stored as (d, |F|² m). Patterns are drawn on one grid of Q with the factor of an
instrument at `REFERENCE_WAVELENGTH`; a pattern measured at another wavelength is reweighted.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import CrystalError, SpectrumError
from crystalign.physics.reciprocal import Reflections, reflections, structure_factors

Array = NDArray[np.float64]

WAVELENGTHS = {
    "CuKa": 1.54184,
    "CuKa1": 1.54056,
    "CuKa2": 1.54439,
    "MoKa": 0.71073,
    "MoKa1": 0.70930,
    "CoKa": 1.79026,
    "CoKa1": 1.78896,
    "FeKa": 1.93735,
    "FeKa1": 1.93604,
    "CrKa": 2.29100,
    "CrKa1": 2.28970,
    "AgKa": 0.560885,
    "AgKa1": 0.559421,
}
"""Å; `Ka` is the mean of Kα₁ and Kα₂ weighted 2 : 1 (as in pymatgen)."""

REFERENCE_WAVELENGTH = WAVELENGTHS["CuKa"]
"""Å; every drawn pattern has the Lorentz–polarisation factor of this wavelength."""
MAX_TWO_THETA = 96.0
"""Degrees at the reference wavelength: d >= 1.037 Å, so that a pattern is complete up to 90° with 3 % strain."""
MAX_PEAKS = 2048
"""With this limit and `RESOLUTIONS`, none of 600 Materials Project crystals lost more than 0.4 % of its intensity; with
512 peaks the loss was up to 21 %."""
FAINTEST = 1e-5
"""Peaks fainter than this, relative to the strongest on the reference instrument, are left out."""
MERGE = 1e-5
"""Peaks whose d differ by less than this fraction are merged."""
RESOLUTIONS = (0.0005, 0.001, 0.002)
"""Å⁻¹; if there are more than `MAX_PEAKS`, peaks this close in Q are summed, with the smallest value that suffices. The
grid of the networks has steps of 0.0052 Å⁻¹, and the sharpest peak drawn on it is 0.0078 Å⁻¹ wide."""


@dataclass(frozen=True, slots=True, eq=False)
class PowderPattern:
    """The peaks of a powder pattern.

    Raises:
        SpectrumError: there is no peak, or a value is NaN or not positive.
    """

    d_spacings: Array
    """(P,) Å, descending."""
    intensities: Array
    """(P,) |F|² · multiplicity, without Lorentz, polarisation or temperature factor; the largest is 1."""

    def __post_init__(self) -> None:
        """Check, sort and normalise the peaks."""
        d, strength = np.asarray(self.d_spacings, np.float64), np.asarray(self.intensities, np.float64)
        if d.ndim != 1 or d.shape != strength.shape or len(d) == 0:
            raise SpectrumError(
                f"{d.shape} d-spacings with {strength.shape} intensities; expected (P,) twice, P >= 1",
                reason="bad-shape",
            )
        if not (np.isfinite(d).all() and np.isfinite(strength).all() and d.min() > 0 and strength.min() >= 0):
            raise SpectrumError("d-spacings and intensities must be positive, finite numbers", reason="bad-peaks")
        if strength.max() <= 0:
            raise SpectrumError("all peaks have zero intensity", reason="bad-peaks")
        order = np.argsort(-d, kind="stable")
        object.__setattr__(self, "d_spacings", d[order])
        object.__setattr__(self, "intensities", strength[order] / strength.max())


def parse_wavelength(name: str | float) -> float:
    """A wavelength in Å, from a line such as `CuKa` or `MoKa1`, or from a number in Å.

    Raises:
        SpectrumError: the line is unknown, or the number is outside 0.05 to 5 Å.
    """
    if isinstance(name, str):
        key = name.strip().replace("α", "a").replace("alpha", "a").replace("-", "").replace(" ", "").lower()
        wavelength = {line.lower(): value for line, value in WAVELENGTHS.items()}.get(key)
        if wavelength is not None:
            return wavelength
        try:
            name = float(key.removesuffix("å").removesuffix("a"))
        except ValueError as error:
            raise SpectrumError(
                f"wavelength {name!r} is unknown; give {', '.join(WAVELENGTHS)} or a number in Å",
                reason="unknown-wavelength",
            ) from error
    if not 0.05 <= name <= 5.0:
        raise SpectrumError(
            f"wavelength {name} Å is outside 0.05 … 5 Å; give it in Å, e.g. 1.5406",
            reason="bad-wavelength",
        )
    return float(name)


def lorentz_polarisation(q: Array, wavelength: float) -> Array:
    """(1 + cos² 2θ) / (sin² θ cos θ) at values of Q (Å⁻¹), which must be below 4π/λ."""
    sine = q * wavelength / (4.0 * np.pi)
    cosine2 = 1.0 - sine**2  # cos² θ
    factor: Array = (1.0 + (2.0 * cosine2 - 1.0) ** 2) / (sine**2 * np.sqrt(cosine2))
    return factor


def powder_peaks(crystal: Crystal) -> PowderPattern:
    """The peaks of a crystal in the kinematic approximation, without anomalous scattering or thermal motion.

    F(hkl) = Σ_j o_j f_j(s) exp 2πi(h x_j + k y_j + l z_j), s = 1/2d, with the atomic scattering
    factors f of pymatgen (De Graef & McHenry, *Structure of Materials*, ch. 12):
    f(s) = Z − 41.78214 s² Σ_i a_i exp(−b_i s²). The result equals that of pymatgen's `XRDCalculator`
    with its Lorentz–polarisation factor divided out, and is about ten times as fast.

    Peaks reach up to `MAX_TWO_THETA` at the reference wavelength; peaks of equal d are merged. If there are
    more than `MAX_PEAKS`, those that no laboratory instrument resolves are summed (`RESOLUTIONS`). If that is
    not enough, the strongest at the reference wavelength are kept.

    Raises:
        CrystalError: an element has no scattering factors, or there is no peak in the range.
    """
    in_range = reflections(crystal, 2.0 * np.sin(np.radians(MAX_TWO_THETA / 2)) / REFERENCE_WAVELENGTH)
    d, strength = _merge(1.0 / in_range.g, 2.0 * np.square(np.abs(_structure_factors(crystal, in_range))))
    weighted = strength * lorentz_polarisation(2.0 * np.pi / d, REFERENCE_WAVELENGTH)
    visible = weighted > FAINTEST * weighted.max(initial=0.0)
    if not visible.any():
        raise CrystalError(f"{crystal.formula} has no reflection at d >= 1.04 Å", reason="no-peaks")
    d, strength = d[visible], strength[visible]
    for resolution in RESOLUTIONS:
        if len(d) > MAX_PEAKS:
            d, strength = _unresolved(d, strength, resolution)
    weighted = strength * lorentz_polarisation(2.0 * np.pi / d, REFERENCE_WAVELENGTH)
    strongest = np.argsort(-weighted, kind="stable")[:MAX_PEAKS]
    return PowderPattern(d[strongest], strength[strongest])


def _structure_factors(crystal: Crystal, in_range: Reflections) -> NDArray[np.complex128]:
    """(M,) F(hkl), electrons per cell."""
    factors = np.zeros(len(in_range.g), np.complex128)
    s2 = np.square(in_range.g / 2.0)
    sites = crystal.occupancies or tuple(((int(z), 1.0),) for z in crystal.atomic_numbers)
    for z in crystal.composition:
        weight = np.array([sum(x for other, x in site if other == z) for site in sites])
        a, b = _scattering_parameters(z)
        f = z - 41.78214 * s2 * (np.exp(-np.outer(s2, b)) @ a)
        here = weight > 0
        factors += f * structure_factors(in_range.hkl, in_range.frac_coords[here], weight[here, None])[:, 0]
    return factors


@functools.cache
def _scattering_parameters(z: int) -> tuple[Array, Array]:
    """Coefficients a and b of an element, from pymatgen's table."""
    from pymatgen.analysis.diffraction.xrd import ATOMIC_SCATTERING_PARAMS

    if SYMBOLS[z] not in ATOMIC_SCATTERING_PARAMS:
        raise CrystalError(f"there are no X-ray scattering factors for {SYMBOLS[z]}", reason="no-scattering-factors")
    table = np.asarray(ATOMIC_SCATTERING_PARAMS[SYMBOLS[z]], np.float64)
    return table[:, 0], table[:, 1]


def _merge(d: Array, intensity: Array) -> tuple[Array, Array]:
    """Sum peaks of equal d, after dropping reflections that are extinct by a centring or a supercell."""
    present = intensity > 1e-12 * intensity.max(initial=0.0)
    order = np.flatnonzero(present)[np.argsort(-d[present])]
    d, intensity = d[order], intensity[order]
    group = np.cumsum(np.diff(d, prepend=d[:1]) < -MERGE * d)
    total = np.asarray(np.bincount(group, weights=intensity), np.float64)
    mean: Array = np.bincount(group, weights=intensity * d) / total
    return mean, total


def _unresolved(d: Array, intensity: Array, resolution: float) -> tuple[Array, Array]:
    """Sum the peaks (d descending) within each interval `resolution` (Å⁻¹) of Q, at their mean position."""
    q = 2.0 * np.pi / d
    starts = np.flatnonzero(np.diff(np.floor(q / resolution), prepend=-1.0))
    total = np.add.reduceat(intensity, starts)
    mean = np.add.reduceat(intensity * q, starts) / total
    return 2.0 * np.pi / mean, total


def draw(positions: Array, areas: Array, widths: Array, grid: Array, *, lorentzian: float | Array = 0.5) -> Array:
    """A sum of pseudo-Voigt peaks on an even grid.

    Each peak is η L + (1 − η) G, where L and G have unit area and the same full width at half maximum w:
    L = (2/πw) / (1 + 4x²/w²), G = (2/w)√(ln 2/π) exp(−4 ln 2 x²/w²). Beyond 5 w a peak is cut off.

    Args:
        positions: (P,) in the unit of `grid`.
        areas: (P,) integrated intensities.
        widths: (P,) full widths at half maximum; smaller ones are raised to 1.5 steps, so that no peak falls
            between two points.
        grid: (G,) ascending, evenly spaced.
        lorentzian: η, 0 to 1, one value for all peaks or (P,).

    Returns:
        (G,) intensity per unit of `grid`, to single precision.
    """
    eta = np.broadcast_to(np.asarray(lorentzian, np.float32), positions.shape)
    step = grid[1] - grid[0]
    width = np.maximum(widths / step, 1.5)  # from here on, lengths are in steps
    half = int(np.ceil(5.0 * width.max()))
    centres = (positions - grid[0]) / step
    inside = (centres > -half) & (centres < len(grid) + half)
    centres, width, height, eta = centres[inside], width[inside], areas[inside] / step, eta[inside, None]
    nearest = np.rint(centres).astype(np.int64)
    offsets = np.arange(-half, half + 1)
    x = np.subtract.outer((nearest - centres).astype(np.float32), -offsets.astype(np.float32))  # (P, 2 half + 1)
    x *= (2.0 / width).astype(np.float32)[:, None]
    np.square(x, out=x)
    peak = np.exp(x * np.float32(-np.log(2.0)))
    peak *= (1.0 - eta) * np.float32(np.sqrt(np.log(2.0) / np.pi))
    x += 1.0
    peak += eta * np.float32(1.0 / np.pi) / x
    peak *= (2.0 * height / width).astype(np.float32)[:, None]
    index = (nearest + 2 * half)[:, None] + offsets
    padded = np.bincount(index.ravel(), weights=peak.ravel(), minlength=len(grid) + 4 * half)
    return np.asarray(padded[2 * half : 2 * half + len(grid)], np.float64)


def remove_background(pattern: Array, half_width: int) -> Array:
    """Subtract the background: the smoothed morphological opening (a rolling minimum, then its rolling maximum).

    Simulated and measured patterns are both treated by this function, so that its effect on regions with many
    overlapping peaks is the same for both.

    Args:
        pattern: (G,) intensity.
        half_width: grid points; features narrower than twice this are kept.

    Returns:
        (G,) the pattern without background, not negative.
    """
    from scipy.ndimage import maximum_filter1d, minimum_filter1d, uniform_filter1d

    size = 2 * half_width + 1
    smooth = uniform_filter1d(pattern, 5, mode="nearest")
    opened = maximum_filter1d(minimum_filter1d(smooth, size, mode="nearest"), size, mode="nearest")
    background = uniform_filter1d(opened, size, mode="nearest")
    rest: Array = np.maximum(pattern - np.minimum(background, smooth), 0.0)
    return rest
