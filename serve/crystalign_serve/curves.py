"""Curves to draw: a query's spectrum, and those of a material, in the same units."""

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
"""Points of a drawn curve; of a longer one the smallest and the largest value of each stretch are drawn."""


class Curve(Config):
    """One line of a plot."""

    kind: str
    """Name of its modality."""
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
    from crystalign_serve.errors import NotFoundError  # a web framework, which processes of the sandbox do without

    kinds = [name for name, spec in query_specs() if spec.plot is not None]
    if kind not in kinds:
        raise NotFoundError(f"no curve {kind!r}; there are {', '.join(kinds)}")
    value = material.value(kind)
    if value is None:
        raise NotFoundError(f"{material.id} has no {kind}")
    curve = curve_of(kind, value, wavelength)
    assert curve is not None
    return curve


def curve_of(modality: str, value: Any, wavelength: str = "CuKa") -> Curve | None:
    """What to draw of a value, six significant figures being more than a screen shows; None where nothing is drawn.

    Args:
        modality: its name.
        value: of a query or of a material.
        wavelength: at which peaks of a material are drawn: Å, or a tube's line.
    """
    spec = spec_of(modality)
    if spec is None or spec.plot is None:
        return None
    x, y, x_label, y_label = spec.plot.draw(value, wavelength)
    rounded = [[float(f"{number:.6g}") for number in numbers] for numbers in _thinned(x, y)]
    return Curve(kind=modality, x=rounded[0], y=rounded[1], x_label=x_label, y_label=y_label)


def _thinned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most `MAX_DRAWN` points of a curve: no peak is lost, however narrow it is."""
    if len(x) <= MAX_DRAWN:
        return x, y
    edges = np.linspace(0, len(x), MAX_DRAWN // 2 + 1).astype(int)
    stretches = [slice(first, last) for first, last in itertools.pairwise(edges)]
    kept = np.unique([part.start + pick(y[part]) for part in stretches for pick in (np.argmin, np.argmax)])
    return x[kept], y[kept]
