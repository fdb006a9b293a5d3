"""Whether two crystals are the same structure, independent of cell, origin, rounding and source.

Databases contain many structures several times: rounded in a CIF, in another cell, or relaxed with another
functional. Such copies are found by comparison with a tolerance. A hash of rounded numbers would miss some, because
two numbers that differ by 1e-9 can round differently. The comparison is pymatgen's `StructureMatcher` (Ong et al.,
Comput. Mater. Sci. 68, 314 (2013)). A common space group and a similar volume are required in addition, because the
matcher alone considers a distorted perovskite equal to the cubic one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from crystalign.config import Config
from crystalign.errors import CrystalError

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    from crystalign.crystal import Crystal


MIRROR_IMAGES = {78: 76, 95: 91, 96: 92, 145: 144, 153: 151, 154: 152, 170: 169, 172: 171, 179: 178, 181: 180, 213: 212}
"""The eleven enantiomorphic pairs of space groups (International Tables A, 1.4): second number → first number."""


class SameStructure(Config):
    """Tolerances within which two crystals of one composition are the same structure."""

    volume: float = Field(default=0.15, gt=0, lt=1)
    """Relative difference of the volumes per atom; relaxations with other functionals differ by several per cent."""
    length: float = Field(default=0.05, gt=0, lt=1)
    """Relative difference of the lengths of the lattice vectors, after both cells were scaled to the same volume."""
    angle: float = Field(default=3.0, gt=0)
    """Difference of the angles between the lattice vectors, in degrees."""
    displacement: float = Field(default=0.1, gt=0, lt=1)
    """Largest displacement of an atom, in units of (V/N)^(1/3), which is about 2.5 Å."""
    occupancy: float = Field(default=0.02, ge=0, lt=0.5)
    """Difference of the occupancies of each species on a site."""
    symprecs: tuple[float, ...] = Field(default=(0.02, 0.05), min_length=1)
    """Å; both crystals must have the same space group at one of these tolerances. There are two because rounding can
    change the space group of a structure whose distortion is close to one of them."""


class Candidate:
    """The data of a crystal that are compared with many others; each is computed when it is first needed.

    Most pairs of polymorphs differ in volume or space group already, so that few cells have to be reduced.
    """

    def __init__(self, crystal: Crystal) -> None:
        self._crystal = crystal
        self._spacegroups: dict[float, int | None] = {}
        self._structure: Structure | None = None
        self._is_tried = False
        self.volume = crystal.volume / sum(crystal.composition.values())
        """Å³ per atom."""

    def spacegroup(self, symprec: float) -> int | None:
        """Space group at a tolerance, the first number of an enantiomorphic pair; None if none is found."""
        if symprec not in self._spacegroups:
            self._spacegroups[symprec] = _spacegroup(self._crystal, symprec)
        return self._spacegroups[symprec]

    def structure(self) -> Structure:
        """The primitive cell, Niggli-reduced, for the matcher; a failure or timeout is not tried again.

        Raises:
            CrystalError: the cell could not be reduced, now or earlier.
        """
        if self._structure is None:
            if self._is_tried:
                raise CrystalError("the cell could not be reduced", reason="not-reduced")
            self._is_tried = True
            self._structure = self._crystal.to_pymatgen().get_reduced_structure("niggli").get_primitive_structure()
        return self._structure


def alike(one: Candidate, other: Candidate, tolerance: SameStructure) -> bool:
    """Whether two candidates of the same reduced formula are the same structure; mirror images count as the same."""
    if max(one.volume, other.volume) > (1.0 + tolerance.volume) * min(one.volume, other.volume):
        return False
    if not any(one.spacegroup(p) == other.spacegroup(p) is not None for p in tolerance.symprecs):
        return False
    # the cells are reduced already: the matcher's cache would compare them site by site, at ten times the cost
    return bool(
        _matcher(tolerance).fit(one.structure(), other.structure(), symmetric=True, skip_structure_reduction=True)
    )


def same_structure(one: Crystal, other: Crystal, tolerance: SameStructure | None = None) -> bool:
    """Whether two crystals are the same structure within the tolerance.

    They are if they have the same composition, similar volumes and a common space group, and if `StructureMatcher`
    maps their atoms onto each other with small displacements. The relation is symmetric but not transitive; see
    `group`.

    Args:
        one: a crystal.
        other: another crystal, in any cell.
        tolerance: by default that of datasets.
    """
    limits = tolerance or SameStructure()
    return one.formula == other.formula and alike(Candidate(one), Candidate(other), limits)


def group(
    crystals: Sequence[tuple[str, Crystal]],
    tolerance: SameStructure,
    *,
    compare: Callable[[Candidate, Candidate, SameStructure], bool] = alike,
) -> dict[str, str]:
    """Group crystals of one reduced formula by structure.

    In the order of their ids, each crystal joins the group of the first leader with the same structure, or becomes
    the leader of a new group. Every member is therefore within the tolerance of its leader, and a chain of small
    differences does not end up in one group. The result does not depend on the order of the crystals.

    Args:
        crystals: (id, crystal) pairs with unique ids.
        tolerance: how far copies may differ.
        compare: `alike`, or the same with a time limit.

    Returns:
        The id of each crystal → the id of its leader.
    """
    leaders: list[tuple[str, Candidate]] = []
    leader_of: dict[str, str] = {}
    for identifier, crystal in sorted(crystals, key=lambda pair: pair[0]):
        candidate = Candidate(crystal)
        leader = next((name for name, other in leaders if compare(other, candidate, tolerance)), None)
        if leader is None:
            leaders.append((identifier, candidate))
        leader_of[identifier] = identifier if leader is None else leader
    return leader_of


def _spacegroup(crystal: Crystal, symprec: float) -> int | None:
    from crystalign.physics.symmetry import space_group_number

    try:
        number = space_group_number(crystal, symprec)
    except CrystalError:
        return None
    return MIRROR_IMAGES.get(number, number)


@functools.lru_cache(maxsize=4)
def _matcher(tolerance: SameStructure) -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import AbstractComparator, StructureMatcher

    class SimilarOccupancy(AbstractComparator):  # type: ignore[misc]
        """Sites are equal if the occupancy of every species agrees within a tolerance, as 0.333 and 1/3 do."""

        def are_equal(self, sp1: Any, sp2: Any) -> bool:
            names = {*sp1, *sp2}
            return all(abs(sp1.get(name, 0) - sp2.get(name, 0)) <= tolerance.occupancy for name in names)

        def get_hash(self, composition: Any) -> Any:  # noqa: ARG002 (compositions were compared by the caller)
            return 1

    return StructureMatcher(
        ltol=tolerance.length, angle_tol=tolerance.angle, stol=tolerance.displacement, comparator=SimilarOccupancy()
    )
