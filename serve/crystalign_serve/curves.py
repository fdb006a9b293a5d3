"""Curves for plotting: the spectrum of a query and those of a material, in the same units."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalign.config import Config
from crystalign.modalities import query_specs
from crystalign_serve.query_fields import spec_of

if TYPE_CHECKING:
    from crystalign.material import Material

MAX_DRAWN = 4000
"""Points of a plotted curve. Longer curves are reduced to the minimum and maximum of equal intervals."""


class Curve(Config):
    """One line of a plot."""

    kind: str
    """Name of the modality."""
    x: list[float]
    """Ascending."""
    y: list[float]
    """One value per x."""
    x_label: str
    """Quantity and unit."""
    y_label: str
    """Quantity and unit."""


def material_curve(material: Material, kind: str, wavelength: str) -> Curve:
    """The curve of a material of the dataset.

    Raises:
        NotFoundError: no such kind, or the material does not have it.
        SpectrumError: an unknown wavelength.
    """
    from crystalign_serve.errors import NotFoundError  # imports FastAPI, which the sandbox processes must not load

    kinds = [name for name, spec in query_specs() if spec.plot is not None]
    if kind not in kinds:
        raise NotFoundError(f"no curve {kind!r}; available: {', '.join(kinds)}")
    value = material.value(kind)
    if value is None:
        raise NotFoundError(f"{material.id} has no {kind}")
    curve = curve_of(kind, value, wavelength)
    assert curve is not None
    return curve


def curve_of(modality: str, value: Any, wavelength: str = "CuKa") -> Curve | None:
    """The curve of a value, rounded to six significant figures; None if the modality has no plot.

    Args:
        modality: name of the modality.
        value: value of a query or of a material.
        wavelength: wavelength for the peaks of a material: Å, or an X-ray line such as `CuKa`.
    """
    spec = spec_of(modality)
    if spec is None or spec.plot is None:
        return None
    x, y, x_label, y_label = spec.plot.draw(value, wavelength)
    rounded = [[float(f"{number:.6g}") for number in numbers] for numbers in _thinned(x, y)]
    return Curve(kind=modality, x=rounded[0], y=rounded[1], x_label=x_label, y_label=y_label)


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Reduce a curve to at most `MAX_DRAWN` points without losing narrow peaks."""
    if len(x) <= MAX_DRAWN:
        return x, y
    edges = np.linspace(0, len(x), MAX_DRAWN // 2 + 1).astype(int)
    intervals = [slice(first, last) for first, last in itertools.pairwise(edges)]
    extrema = np.unique([part.start + pick(y[part]) for part in intervals for pick in (np.argmin, np.argmax)])
    return x[extrema], y[extrema]
