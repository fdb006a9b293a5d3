"""Whether two crystals are the same structure, whatever their cells, origins, rounding and source.

Databases hold one structure many times: rounded in a CIF, in another cell, relaxed by another functional. Such
copies are found by comparison with a tolerance, never by a hash of rounded numbers: two numbers that differ by
1e-9 may round apart. The comparison is pymatgen's `StructureMatcher` (Ong et al., Comput. Mater. Sci. 68, 314
(2013)); a space group in common and a like volume are required beside it, because the matcher alone takes a
distorted perovskite for the cubic one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from crystalign.config import Config
from crystalign.errors import CrystalError

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    from crystalign.crystal import Crystal


MIRROR_IMAGES = {78: 76, 95: 91, 96: 92, 145: 144, 153: 151, 154: 152, 170: 169, 172: 171, 179: 178, 181: 180, 213: 212}
"""The eleven pairs of enantiomorphic space groups (International Tables A, 1.4): the second's number → the first's."""


class SameStructure(Config):
    """How far two crystals of one composition may differ and still be the same structure."""

    volume: float = Field(default=0.15, gt=0, lt=1)
    """Relative difference of the volumes per atom: relaxations by other functionals differ by several per cent."""
    length: float = Field(default=0.05, gt=0, lt=1)
    """Relative difference of the lattice vectors, after both cells were scaled to one volume."""
    angle: float = Field(default=3.0, gt=0)
    """Degrees between the lattice vectors."""
    displacement: float = Field(default=0.1, gt=0, lt=1)
    """Of the atom that is displaced furthest, in units of (V/N)^(1/3), which is about 2.5 Å."""
    occupancy: float = Field(default=0.02, ge=0, lt=0.5)
    """Difference of the fractions of each species on a site."""
    symprecs: tuple[float, ...] = Field(default=(0.02, 0.05), min_length=1)
    """Å; at one of these tolerances both must have the same space group. Two, because a structure whose distortion
    is close to one of them changes sides by rounding."""


class Candidate(NamedTuple):
    """What is compared of a crystal; made once and compared with many."""

    volume: float
    """Å³ per atom."""
    spacegroups: tuple[int | None, ...]
    """At each of `symprecs`, of enantiomorphic ones the first; None where none is found."""
    structure: Structure
    """For the matcher: its primitive cell, Niggli-reduced."""


def candidate(crystal: Crystal, tolerance: SameStructure) -> Candidate:
    """A crystal, ready for comparison."""
    atoms = sum(crystal.composition.values())
    groups = tuple(_spacegroup(crystal, symprec) for symprec in tolerance.symprecs)
    reduced = crystal.to_pymatgen().get_reduced_structure("niggli").get_primitive_structure()
    return Candidate(crystal.volume / atoms, groups, reduced)


def alike(one: Candidate, other: Candidate, tolerance: SameStructure) -> bool:
    """Whether two candidates of the same reduced formula are the same structure; mirror images are."""
    if max(one.volume, other.volume) > (1.0 + tolerance.volume) * min(one.volume, other.volume):
        return False
    if not any(a == b is not None for a, b in zip(one.spacegroups, other.spacegroups, strict=True)):
        return False
    # reduced here, once: the matcher's own cache compares structures site by site, which costs ten times the match
    return bool(_matcher(tolerance).fit(one.structure, other.structure, symmetric=True, skip_structure_reduction=True))


def same_structure(one: Crystal, other: Crystal, tolerance: SameStructure | None = None) -> bool:
    """Whether two crystals are the same structure within the tolerance.

    Equal composition, volumes and a space group in common, and atoms that `StructureMatcher` maps on each other
    with small displacements. The relation is symmetric but not transitive: see `group`.

    Args:
        one: a crystal.
        other: another, in any cell.
        tolerance: by default that of datasets.
    """
    how = tolerance or SameStructure()
    return one.formula == other.formula and alike(candidate(one, how), candidate(other, how), how)


def group(
    crystals: Sequence[tuple[str, Crystal]],
    tolerance: SameStructure,
    *,
    prepare: Callable[[Crystal, SameStructure], Candidate | None] = candidate,
    compare: Callable[[Candidate, Candidate, SameStructure], bool] = alike,
) -> dict[str, str]:
    """Who is whose copy, among crystals of one reduced formula.

    In the order of their ids, each crystal joins the first leader that it is alike, or becomes a leader itself. So
    every member is within the tolerance of its leader, and a chain of small differences does not grow into one
    group. The result does not depend on the order of the crystals.

    Args:
        crystals: (id, crystal), ids unique.
        tolerance: how alike.
        prepare: `candidate`, or the same with a limit of time; of what is None nothing is a copy.
        compare: `alike`, or the same with a limit of time.

    Returns:
        id → the id of its leader.
    """
    leaders: list[tuple[str, Candidate]] = []
    found: dict[str, str] = {}
    for identifier, crystal in sorted(crystals, key=lambda pair: pair[0]):
        this = prepare(crystal, tolerance)
        leader = None
        if this is not None:
            leader = next((name for name, other in leaders if compare(other, this, tolerance)), None)
            if leader is None:
                leaders.append((identifier, this))
        found[identifier] = identifier if leader is None else leader
    return found


def _spacegroup(crystal: Crystal, symprec: float) -> int | None:
    from crystalign.physics.symmetry import symmetry

    try:
        number = symmetry(crystal, symprec).number
    except CrystalError:
        return None
    return MIRROR_IMAGES.get(number, number)


@functools.lru_cache(maxsize=4)
def _matcher(tolerance: SameStructure) -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import AbstractComparator, StructureMatcher

    class SimilarOccupancy(AbstractComparator):  # type: ignore[misc]
        """Sites are alike if every species' fraction is, within a tolerance: 0.333 and 1/3 are one."""

        def are_equal(self, sp1: Any, sp2: Any) -> bool:
            names = {*sp1, *sp2}
            return all(abs(sp1.get(name, 0) - sp2.get(name, 0)) <= tolerance.occupancy for name in names)

        def get_hash(self, composition: Any) -> Any:  # noqa: ARG002 (compositions were compared by the caller)
            return 1

    return StructureMatcher(
        ltol=tolerance.length, angle_tol=tolerance.angle, stol=tolerance.displacement, comparator=SimilarOccupancy()
    )
