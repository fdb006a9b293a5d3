"""Hypothetical crystals: structure types of the AFLOW prototype library with substituted elements.

Each element of a prototype is replaced by one of its own family (an alkali metal by an alkali metal, a
halogen by a halogen), which preserves the charge balance of the parent, and the cell is scaled to the volume
of pymatgen's `DLSVolumePredictor` (data-mined bond lengths; Chu et al., Comput. Mater. Sci. 146, 184 (2018)).
The structures are not relaxed and may be unstable; they serve for training and tests only.
"""

from __future__ import annotations

import functools
import gzip
import itertools
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS, Crystal, reduced_formula
from crystalign.limits import Limits
from crystalign.material import Material, Provenance
from crystalign.physics.bond_radii import bond_radii, bond_radius
from crystalign.readers.structures.documents import crystal_of_dict
from crystalign.rejects import Reject
from crystalign.sources.source import Item, Source, SourceKind

NAME, LICENCE, VINTAGE = "crystalign-prototypes", "Apache-2.0", "1"
FAMILIES = (
    "Li Na K Rb Cs", "Be Mg", "Ca Sr Ba", "Sc Y La", "Ti Zr Hf", "V Nb Ta", "Cr Mo W", "Mn Re", "Fe Co Ni",
    "Ru Rh Ir Os", "Pd Pt", "Cu Ag Au", "Zn Cd Hg", "B", "Al Ga In Tl", "C", "Si Ge Sn Pb", "N", "P As Sb Bi", "O",
    "S Se Te", "F", "Cl Br I", "Ce Pr Nd Sm Gd Tb Dy Ho Er Tm Lu", "Th U", "H",
)  # fmt: skip
"""Families of exchangeable elements. Second-row elements differ from their heavier homologues and are not
exchanged."""
MAX_SITES = 24
VOLUME_PER_ATOM = (5.0, 70.0)
"""Å³; a predicted volume outside this range is implausible, and the crystal is skipped."""
PER_ITEM = 64
DRAWS = 60
"""Substitutions drawn for each prototype, before equal and implausible ones are left out."""
_REACH = 4.0
"""Å beyond the radius of an atom within which its neighbours bound the volume, as in `DLSVolumePredictor`."""


class Candidate(NamedTuple):
    """A substitution to make."""

    prototype: int
    """Index of the prototype in the library."""
    elements: tuple[tuple[int, int], ...]
    """(atomic number of the parent, its substitute) pairs."""
    scale: float
    """Factor on the parent's lattice vectors."""


class PrototypeSource(Source):
    """The first `count` substitutions of a seeded order."""

    def __init__(self, limits: Limits | None = None, *, count: int = 1000, seed: int = 0) -> None:
        super().__init__(limits)
        self.count = count
        self.seed = seed

    def items(self) -> list[Item]:
        """List items of 64 crystals each."""
        numbers = range(len(candidates(self.seed)[: self.count]))
        return [
            Item(key=f"substitutions {i}-{numbers[i : i + PER_ITEM][-1]}", rows=tuple(numbers[i : i + PER_ITEM]))
            for i in range(0, len(numbers), PER_ITEM)
        ]

    def load(self, item: Item) -> Iterator[Material | Reject]:
        """Load the crystals of an item."""
        everything = candidates(self.seed)
        for number in item.rows:
            chosen = everything[number]
            label, parent = library()[chosen.prototype]
            crystal = substitute(parent, dict(chosen.elements), chosen.scale)
            name = f"prototype-{label}-{chosen.prototype}-{crystal.formula}"
            where = f"prototype:{label}, hypothetical, not relaxed (parent {parent.formula}, AFLOW library in pymatgen)"
            yield Material(name, crystal, Provenance(NAME, LICENCE, VINTAGE, where))


@functools.cache
def library() -> tuple[tuple[str, Crystal], ...]:
    """(AFLOW label, parent crystal) of every usable prototype: ordered, at most 24 sites, families known."""
    # imported from the parent package: importing pymatgen.analysis.prototypes decodes the library, which takes seconds
    source = resources.files("pymatgen.analysis") / "prototypes" / "aflow_prototypes.json.gz"
    documents = json.loads(gzip.decompress(source.read_bytes()))
    exchangeable = {z for family in _families() for z in family}
    prototypes = []
    for document in documents:
        crystal = crystal_of_dict(document["snl"])
        if crystal.is_ordered and len(crystal) <= MAX_SITES and set(crystal.composition) <= exchangeable:
            prototypes.append((str(document["tags"]["aflow"]), crystal))
    return tuple(prototypes)


@functools.cache
def candidates(seed: int) -> tuple[Candidate, ...]:
    """Substitutions drawn from `seed`, one prototype after the other in turn.

    No two have the same structure type and composition, none is its own parent, all have a plausible volume.
    """
    queues = [_draw(index, seed) for index in range(len(library()))]
    seen: set[tuple[str, str]] = set()
    result = []
    for index, elements in (c for turn in itertools.zip_longest(*queues) for c in turn if c is not None):
        label, parent = library()[index]
        swap = dict(elements)
        key = (label, reduced_formula({swap[z]: n for z, n in parent.composition.items()}))
        if key in seen:
            continue
        seen.add(key)
        scale = volume_scale(index, swap)
        if scale is not None:
            result.append(Candidate(index, elements, scale))
    return tuple(result)


def _draw(index: int, seed: int) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
    """Draw distinct substitutions of one prototype, in random order."""
    parent = library()[index][1]
    present = list(parent.composition)
    choices = [next(family for family in _families() if z in family) for z in present]
    rng = np.random.default_rng((seed, index))
    drawn = [tuple(int(rng.choice(family)) for family in choices) for _ in range(DRAWS)]
    sensible = (new for new in dict.fromkeys(drawn) if list(new) != present and len(set(new)) == len(new))
    return [(index, tuple(zip(present, new, strict=True))) for new in sensible]


def substitute(parent: Crystal, elements: Mapping[int, int], scale: float = 1.0) -> Crystal:
    """The parent with other elements on its sites and its lattice vectors multiplied by `scale`."""
    numbers = np.array([elements[int(z)] for z in parent.atomic_numbers])
    return Crystal(parent.lattice * scale, parent.frac_coords, numbers)


def volume_scale(index: int, elements: Mapping[int, int]) -> float | None:
    """Scale factor that brings the closest pair of a substituted prototype to its data-mined bond length.

    It is the maximum over neighbours of (r_i + r_j) / d_ij, with r = r₀ + k·σ(χ), χ the electronegativities.

    The same number as `DLSVolumePredictor(min_scaling=None, max_scaling=None)`, from the parent's distances.

    Returns:
        The factor; None if the volume per atom it leads to is implausible.
    """
    _, parent = library()[index]
    numbers = np.array([elements[int(z)] for z in parent.atomic_numbers])
    radii, reach = bond_radii(numbers), np.array([_atomic_radius(int(z)) for z in numbers]) + _REACH
    senders, receivers, distances = _distances(index)
    near = distances <= reach[receivers]
    if not near.any():
        return None
    scale = float(((radii[senders] + radii[receivers]) / distances)[near].max())
    low, high = VOLUME_PER_ATOM
    return scale if low <= scale**3 * parent.volume / len(parent) <= high else None


@functools.cache
def _distances(index: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return senders, receivers and distances (Å), (E,) each, of a parent, within a cutoff that suits every element."""
    from crystalign.physics.neighbour_list import neighbours

    pairs = neighbours(library()[index][1], cutoff=7.0)
    return pairs.senders, pairs.receivers, pairs.distances


def _atomic_radius(z: int) -> float:
    parameters = bond_radius(z)
    assert parameters is not None, "every element of a family has a radius"
    return parameters.atomic_radius


@functools.cache
def _families() -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(SYMBOLS.index(symbol) for symbol in family.split()) for family in FAMILIES)


KIND = SourceKind(
    lambda location: location == "prototypes", lambda request: PrototypeSource(request.limits, seed=request.seed)
)
"""The word `prototypes`."""
