"""Radii of atoms from data-mined bond lengths, and how closely the atoms of a crystal touch by them.

Radius of an atom of element Z in a crystal (Chu et al., Comput. Mater. Sci. 146, 184 (2018), the parameters of
pymatgen's `DLSVolumePredictor`):

    r = r₀(Z) + k(Z) σ(χ)

σ(χ) is the standard deviation of the Pauling electronegativities χ of all sites of the cell, so that the radii follow
from atomic to ionic. Closest contact of a crystal:

    ρ = max over pairs (r_i + r_j) / d_ij

with d_ij the distance of two sites, periodic images included. A crystal whose lattice vectors are multiplied by ρ has
its closest pair at the data-mined bond length.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS


class BondRadius(NamedTuple):
    """What the radius of an element is computed from."""

    electronegativity: float
    """χ, Pauling."""
    radius: float
    """r₀, Å."""
    slope: float
    """k, Å per unit of σ(χ)."""
    atomic_radius: float
    """Å; the neighbours that `DLSVolumePredictor` compares lie up to 4 Å beyond it."""


@functools.cache
def bond_radius(z: int) -> BondRadius | None:
    """The parameters of an element; None if its electronegativity or its radius is not known (He, Ne, Ar, Bk …)."""
    import warnings

    from pymatgen.core import Element

    element = Element(SYMBOLS[z])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements without an electronegativity
        chi, radius = float(element.X), element.atomic_radius
    if not np.isfinite(chi) or not radius:
        return None
    fitted = _parameters().get(element.symbol, {"r": float(radius), "k": 0.0})
    return BondRadius(chi, float(fitted["r"]), float(fitted["k"]), float(radius))


def bond_radii(numbers: NDArray[np.integer], weights: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
    """(N,) the radius r of each site, Å.

    Args:
        numbers: (N,) atomic numbers of the sites, or of groups of equal sites.
        weights: (N,) sites per group; None for 1.
    """
    parameters = [_known(int(z)) for z in numbers]
    chi = np.array([one.electronegativity for one in parameters])
    mean = np.average(chi, weights=weights)
    spread = float(np.sqrt(np.average((chi - mean) ** 2, weights=weights)))
    return np.array([one.radius + one.slope * spread for one in parameters])


def closest_contact(radii: NDArray[np.float64], distances: NDArray[np.float64]) -> float:
    """ρ of a crystal, from the radii (N,) of groups of equal sites and the shortest distances (N, N) between them, Å.

    A distance of infinity stands for a pair that is too far apart to be a contact.
    """
    return float(((radii[:, None] + radii[None, :]) / distances).max())


def _known(z: int) -> BondRadius:
    parameters = bond_radius(z)
    assert parameters is not None, f"no bond radius of {SYMBOLS[z]}; `bond_radius` tells which elements have one"
    return parameters


@functools.cache
def _parameters() -> dict[str, dict[str, float]]:
    """r₀ and k (Å) of `DLSVolumePredictor`, by element."""
    table = resources.files("pymatgen.core") / "structure_prediction" / "DLS_bond_params.yaml"
    parameters: dict[str, dict[str, float]] = yaml.safe_load(table.read_text(encoding="utf-8"))
    return parameters
