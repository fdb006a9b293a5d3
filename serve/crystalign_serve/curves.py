"""Curves to draw: a query's spectrum, and those of a material, in the same units."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config

if TYPE_CHECKING:
    from crystalign.material import Material
    from crystalign.modalities.dos import DensityOfStates
    from crystalign.modalities.xrd import MeasuredPattern
    from crystalign.physics.diffraction import PowderPattern

TWO_THETA = np.linspace(5.0, 90.0, 1701)
"""(1701,) degrees: where patterns of materials are drawn."""
MAX_DRAWN = 4000
"""Points of a drawn curve; of a longer one the smallest and the largest value of each stretch are drawn."""
PEAK_WIDTH = 0.15
"""Degrees, full width at half maximum of a drawn peak."""


class Curve(Config):
    """One line of a plot."""

    kind: str
    """`dos` or `xrd`."""
    x: list[float]
    """Ascending."""
    y: list[float]
    """One value per x."""
    x_label: str
    """Quantity and unit."""
    y_label: str
    """Quantity and unit."""


def dos_curve(value: DensityOfStates) -> Curve:
    """The spectrum as the encoder sees it: on the common grid, spins summed, per atom."""
    standard = value.standardised()
    zero = "E_VBM" if standard.zero == "vbm" else "E_F"
    density = standard.densities.sum(axis=0)
    return _curve("dos", standard.energies, density, f"E − {zero} (eV)", "DOS (states/eV/atom)")


def measured_curve(value: MeasuredPattern) -> Curve:
    """The pattern as it was sent, its largest value 1."""
    top = float(np.max(value.intensities)) or 1.0
    return _curve("xrd", value.two_theta, value.intensities / top, _angle(value.wavelength), "Intensity (relative)")


def powder_curve(pattern: PowderPattern, wavelength: float) -> Curve:
    """The peaks of a material as a diffractometer at `wavelength` (Å) would show them."""
    from crystalign.physics.diffraction import draw, lorentz_polarisation

    sine = wavelength / (2.0 * pattern.d_spacings)
    seen = sine < np.sin(np.radians(TWO_THETA[-1] / 2.0))
    angles = np.degrees(2.0 * np.arcsin(sine[seen]))
    q = 2.0 * np.pi / pattern.d_spacings[seen]
    areas = pattern.intensities[seen] * lorentz_polarisation(q, wavelength)
    drawn = draw(angles, areas, np.full(len(angles), PEAK_WIDTH), TWO_THETA) if seen.any() else 0.0 * TWO_THETA
    return _curve("xrd", TWO_THETA, drawn / (drawn.max() or 1.0), _angle(wavelength), "Intensity (relative)")


def material_curve(material: Material, kind: str, wavelength: str) -> Curve:
    """The curve of a material of the dataset.

    Raises:
        NotFoundError: no such kind, or the material does not have it.
        SpectrumError: an unknown wavelength.
    """
    from crystalign.physics.diffraction import parse_wavelength
    from crystalign_serve.errors import NotFoundError

    value = material.value(kind) if kind in {"dos", "xrd"} else None
    if value is None:
        message = f"{material.id} has no {kind}" if kind in {"dos", "xrd"} else f"no curve {kind!r}; there are dos, xrd"
        raise NotFoundError(message)
    return dos_curve(value) if kind == "dos" else powder_curve(value, parse_wavelength(wavelength))


def _angle(wavelength: float) -> str:
    return f"2θ (degrees, λ = {wavelength:.4f} Å)"


def curve_of(modality: str, value: Any) -> Curve | None:
    """What to draw of a query beside its results; None where it is no spectrum."""
    drawn: dict[str, Callable[[Any], Curve]] = {"dos": dos_curve, "xrd": measured_curve}
    return drawn[modality](value) if modality in drawn else None


def _curve(kind: str, x: NDArray[Any], y: NDArray[Any], x_label: str, y_label: str) -> Curve:
    """Six significant figures are more than a screen shows."""
    rounded = [[float(f"{value:.6g}") for value in values] for values in _thinned(x, y)]
    return Curve(kind=kind, x=rounded[0], y=rounded[1], x_label=x_label, y_label=y_label)


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most `MAX_DRAWN` points of a curve: no peak is lost, however narrow it is."""
    if len(x) <= MAX_DRAWN:
        return x, y
    edges = np.linspace(0, len(x), MAX_DRAWN // 2 + 1).astype(int)
    stretches = [slice(first, last) for first, last in itertools.pairwise(edges)]
    kept = np.unique([part.start + pick(y[part]) for part in stretches for pick in (np.argmin, np.argmax)])
    return x[kept], y[kept]
