"""Substitute the elements of all known crystals of one prototype.

A substitution replaces all atoms of an element by another one, on one or several elements at once, and never makes two
elements equal. So the child keeps space group and prototype of its parent, and two children of different prototypes
are never the same crystal: uniqueness of (formula, prototype) is a question within one family.

Volume. The lattice vectors are multiplied by s = ρ(child) / ρ(parent), both on the parent's lattice, with the closest
contact ρ of `crystalign.physics.bond_radii`. The closest pair of the child is then as long, relative to its data-mined
bond length, as that of the parent; the parent substituted by itself keeps its volume.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS, Crystal, reduced_formula
from crystalign.errors import CrystalError
from crystalign.material import Material, Provenance
from crystalign.physics.bond_radii import bond_radii, closest_contact
from crystalign.substitution.charge_balance import is_balanced
from crystalign.substitution.probabilities import cumulative_probabilities

NAME = "crystalign-enumerate"
"""Source of the children."""
VERSION = "1"
"""Release of this procedure; changed whenever the same request gives other crystals."""
KEEP = 0.5
"""Probability that an element of the parent stays; otherwise it is replaced by a random one, from P(B | A)."""
BATCH = 256
"""Substitutions that are drawn together."""
PATIENCE = 1024
"""A family is exhausted after so many draws without a new child."""
CUTOFF = 7.0
"""Å; longest contact."""
VOLUME_CHANGE = 4.0
"""Largest ratio of the volumes of child and parent, either way; that of NaCl and LiF is 2.7."""
MIN_DISTANCE = 0.5
"""Å; closer atoms overlap. The same limit as for crystals that are ingested."""


class Parent(NamedTuple):
    """A known crystal."""

    id: str
    """Its id in the dataset."""
    crystal: Crystal
    """Its structure, ordered."""
    spacegroup_number: int | None
    """Its space group."""
    provenance: Provenance
    """Its source; the child inherits the licence."""


class Unit(NamedTuple):
    """A part of a family's children: those whose formula falls into it."""

    number: int = 0
    """Which part."""
    of: int = 1
    """Number of parts."""

    def holds(self, formula: str) -> bool:
        """Whether the children of a formula belong to this part."""
        return self.of == 1 or int(_digest(formula)[:8], 16) % self.of == self.number


class _Slots(NamedTuple):
    """A parent by its elements, in ascending atomic number."""

    counts: NDArray[np.int64]
    """(E,) sites of each element."""
    site: NDArray[np.int64]
    """(N,) the element, 0 to E - 1, on each site."""
    distances: NDArray[np.float64]
    """(E, E) shortest distance between sites of two elements, Å; infinity beyond `CUTOFF`."""
    contact: float
    """ρ of the parent."""


class Family:
    """The known crystals of one prototype, and the children that can be made of them."""

    def __init__(self, prototype: str, parents: Sequence[Parent], known: Collection[str]) -> None:
        """Collect a family.

        Args:
            prototype: prototype of all parents.
            parents: known crystals, ordered, of elements in `replaceable_elements`; the order decides about the result.
            known: formulas that exist in this prototype.
        """
        self.prototype, self.parents = prototype, parents
        self.seen = set(known)
        self.refused: Counter[str] = Counter()
        self._elements = np.array([sorted(parent.crystal.composition) for parent in parents])  # (P, E)
        self._slots: dict[int, _Slots] = {}

    def children(self, count: int, seed: Sequence[int], unit: Unit = Unit()) -> list[Material]:  # noqa: B008 (frozen)
        """Up to `count` new crystals, none of a formula in `seen`; fewer if the family is exhausted.

        Args:
            count: number of crystals.
            seed: seed of the random draws; other seeds give other draws.
            unit: the part of the children to make.
        """
        children: list[Material] = []
        since = 0
        for batch in self._batches(seed):
            for parent, elements in batch:
                child = self._child(parent, elements, unit)
                if child is not None:
                    children.append(child)
                    since = 0
                if len(children) == count:
                    return children
            since += BATCH
            if since > PATIENCE * unit.of:
                return children
        raise AssertionError("the draws do not end")

    def _batches(self, seed: Sequence[int]) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
        """Endless draws of (parent, its new elements in the order of the old ones), those that change nothing left out.

        The generator depends on the seed and the prototype alone.
        """
        rng = np.random.default_rng([*seed, int(_digest(self.prototype), 16)])
        cumulative = cumulative_probabilities()
        while True:
            parent = rng.integers(len(self.parents), size=BATCH)
            old = self._elements[parent]  # (BATCH, E)
            drawn = (cumulative[old] <= rng.random(old.shape)[..., None]).sum(axis=-1)
            new = np.where(rng.random(old.shape) < KEEP, old, drawn)
            ascending = np.sort(new, axis=1)
            sensible = (new != old).any(axis=1) & (ascending[:, 1:] != ascending[:, :-1]).all(axis=1)
            yield [(int(p), tuple(row)) for p, row in zip(parent[sensible], new[sensible].tolist(), strict=True)]

    def _child(self, number: int, elements: tuple[int, ...], unit: Unit) -> Material | None:
        """The child, if it belongs to the unit, is new and plausible."""
        parent = self.parents[number]
        old = self._elements[number].tolist()
        counts = parent.crystal.composition
        composition = {new: counts[z] for z, new in zip(old, elements, strict=True)}
        formula = reduced_formula(composition)
        if formula in self.seen or not unit.holds(formula):
            return None
        if not is_balanced(composition):
            self.seen.add(formula)
            self.refused["not charge-balanced"] += 1
            return None
        try:
            slots = self._slots_of(number)
        except CrystalError:
            self.refused["isolated atoms"] += 1
            return None
        scale = _contact(np.array(elements), slots) / slots.contact
        if not 1 / VOLUME_CHANGE <= scale**3 <= VOLUME_CHANGE:
            self.refused["volume changes too much"] += 1
            return None
        if float(slots.distances.min()) * scale < MIN_DISTANCE:
            self.refused["atoms overlap"] += 1
            return None
        self.seen.add(formula)
        crystal = Crystal(parent.crystal.lattice * scale, parent.crystal.frac_coords, np.array(elements)[slots.site])
        return self._material(parent, dict(zip(old, elements, strict=True)), crystal, formula, scale)

    def _material(
        self, parent: Parent, elements: dict[int, int], crystal: Crystal, formula: str, scale: float
    ) -> Material:
        changes = ", ".join(f"{SYMBOLS[old]}→{SYMBOLS[new]}" for old, new in elements.items() if old != new)
        origin = " ".join(filter(None, (parent.provenance.source, parent.provenance.vintage)))
        reference = f"hypothetical: {parent.id} ({origin}) with {changes}, lattice × {scale:.4f}, not relaxed"
        name = f"hypothetical-{_digest(self.prototype, formula, parent.id, changes)[:16]}"
        provenance = Provenance(NAME, parent.provenance.licence, VERSION, reference, hypothetical=True)
        return Material(name, crystal, provenance, spacegroup_number=parent.spacegroup_number, prototype=self.prototype)

    def _slots_of(self, number: int) -> _Slots:
        if number not in self._slots:
            self._slots[number] = _slots(self.parents[number].crystal, self._elements[number])
        return self._slots[number]


def _slots(crystal: Crystal, elements: NDArray[np.int64]) -> _Slots:
    """The contacts of a crystal.

    Raises:
        CrystalError: no two sites are closer than `CUTOFF`.
    """
    from crystalign.periodic import pairs_within

    site = np.searchsorted(elements, crystal.atomic_numbers)
    pairs = pairs_within(crystal.lattice, crystal.cart_coords, CUTOFF)
    distances = np.full((len(elements), len(elements)), math.inf)
    np.minimum.at(distances, (site[pairs.senders], site[pairs.receivers]), pairs.distances)
    if not np.isfinite(distances).any():
        raise CrystalError(f"no two atoms of {crystal!r} are within {CUTOFF} Å", reason="no-neighbours")
    slots = _Slots(np.bincount(site), site, distances, math.nan)
    return slots._replace(contact=_contact(elements, slots))


def _contact(elements: NDArray[np.int64], slots: _Slots) -> float:
    return closest_contact(bond_radii(elements, slots.counts), slots.distances)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
