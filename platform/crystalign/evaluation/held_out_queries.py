"""Queries whose right answers are known: what materials that a model has not seen would be asked with.

The default, `StoredValues`, asks with the stored value of a modality. A modality whose queries differ from what is
stored names a class of its own in `QuerySpec.held_out`: words that people type, patterns as instruments record them.
In half of the queries the crystals that fit are left out of the search, as if the database did not hold them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from crystalign.crystal import Crystal, pretty_formula
from crystalign.errors import InputError
from crystalign.material import Material
from crystalign.modalities import modality_class
from crystalign.modalities.query import resolved

if TYPE_CHECKING:
    from crystalign.physics.diffraction import PowderPattern

MOST_LEFT_OUT = 8
"""Largest number of crystals that a query leaves out; where more fit it, it is asked of all."""
ABSENT_SHARE = 0.5
"""Share of queries whose fitting crystals are left out of the search."""
NOTHING: tuple[frozenset[str], ...] = (frozenset(),)
"""What no crystal fits."""


@dataclass(frozen=True)
class HeldOutQuery:
    """A query and what a crystal must have to fit it."""

    value: Any
    """Text, for a modality of words; otherwise a value of the modality."""
    wants: tuple[frozenset[str], ...]
    """A crystal fits if it has at least one key of each set; no crystal has a key of the empty set."""
    leave_out: tuple[str, ...] = ()
    """Ids of crystals that are left out of the search."""


class Pool:
    """Which crystals of an index have which keys."""

    def __init__(self, keys: Iterable[tuple[str, frozenset[str]]]) -> None:
        """Store the ids by key.

        Args:
            keys: id and keys of each crystal.
        """
        self._ids: dict[str, set[str]] = {}
        for name, own in keys:
            for key in own:
                self._ids.setdefault(key, set()).add(name)

    def fitting(self, query: HeldOutQuery) -> set[str]:
        """Ids of the crystals that fit a query and are not left out."""
        groups = [set().union(*(self._ids.get(key, set()) for key in group)) for group in query.wants]
        return set.intersection(*groups) - set(query.leave_out)


def is_answered(ids: Sequence[str], fitting: set[str], k: int) -> bool:
    """Whether a query is answered by the first k results.

    At least half of them fit it; or, if fewer than k crystals fit it, at least half of these are among the results.
    If none fits, it is not answered.

    Args:
        ids: ids of the results, best first.
        fitting: ids of all crystals that fit.
        k: how many results count.
    """
    return bool(fitting) and len(fitting & set(ids[:k])) >= math.ceil(min(k, len(fitting)) / 2)


class HeldOutQueries(Protocol):
    """How queries of a modality are made from materials."""

    def __init__(self, modality: str) -> None: ...

    def keys(self, material: Material) -> frozenset[str]:
        """The keys of a crystal of the index, which decide whether it fits a query."""

    def query(self, material: Material, pool: Pool, rng: np.random.Generator, half: int) -> HeldOutQuery | None:
        """A query for a material; None if none can be made.

        Args:
            material: a material with the modality.
            pool: the crystals of the index.
            rng: source of the random choices.
            half: 0 for the queries that fit the probabilities, 1 for those that test them.
        """

    def unrelated(self, half: int) -> list[HeldOutQuery]:
        """Queries that no material answers."""


class StoredValues:
    """Queries by the stored values of a modality; a crystal fits if it looks alike in that modality."""

    def __init__(self, modality: str) -> None:
        self.modality = modality

    def keys(self, material: Material) -> frozenset[str]:
        """The keys by which training and evaluation tell that two materials look alike."""
        cls = modality_class(self.modality)
        own = cls.equivalences(material) if material.value(self.modality) is not None else ()
        return frozenset([*own, f"structure {material.structure}"])

    def query(
        self,
        material: Material,
        pool: Pool,
        rng: np.random.Generator,
        half: int,  # noqa: ARG002 (both halves are made alike)
    ) -> HeldOutQuery | None:
        """The value as it is asked with; the crystals that fit are left out of half of the queries."""
        if material.value(self.modality) is None:
            return None
        try:
            value = self.asked(material, rng)
        except InputError:
            return None  # an unusual value, such as a pattern without a peak in the measured range
        return sometimes_left_out(HeldOutQuery(value, (self.keys(material),)), pool, rng, ABSENT_SHARE)

    def asked(self, material: Material, rng: np.random.Generator) -> Any:  # noqa: ARG002 (others draw)
        """What a user would ask with in place of the stored value."""
        return material.value(self.modality)

    def unrelated(self, half: int) -> list[HeldOutQuery]:  # noqa: ARG002 (there are none)
        """None: what is left out serves as the unknown."""
        return []


class Formulas(StoredValues):
    """Queries by formula; all polymorphs fit."""

    def asked(self, material: Material, rng: np.random.Generator) -> str:  # noqa: ARG002 (there is one way)
        """The formula as chemists write it."""
        return pretty_formula(material.crystal.formula)


class OtherCalculations(StoredValues):
    """Queries by a structure as another calculation or a measurement gives it: cell and positions differ a little."""

    strain = 0.01
    """Standard deviation of the components of the strain."""
    shift = 0.03
    """Standard deviation of each coordinate, Å."""

    def asked(self, material: Material, rng: np.random.Generator) -> Crystal:
        """The strained and disturbed structure."""
        value = material.crystal
        strain = rng.normal(0.0, self.strain, (3, 3))
        lattice = value.lattice @ (np.eye(3) + (strain + strain.T) / 2)
        shifts = rng.normal(0.0, self.shift, (len(value), 3)) @ np.linalg.inv(lattice)
        return Crystal(lattice, value.frac_coords + shifts, value.atomic_numbers, value.occupancies)


class MeasuredPatterns(StoredValues):
    """Queries by a powder pattern as a laboratory instrument records it: strain, widths, background and noise."""

    def asked(self, material: Material, rng: np.random.Generator) -> Any:
        """The recorded pattern, from 10° to 80° at the reference wavelength."""
        from crystalign.modalities.xrd import MeasuredPattern
        from crystalign.physics.diffraction import REFERENCE_WAVELENGTH
        from crystalign.physics.rendering import Instrument, render

        peaks: PowderPattern | None = material.value(self.modality)
        assert peaks is not None
        angles = np.linspace(10.0, 80.0, 3501)
        q = 4.0 * np.pi * np.sin(np.radians(angles / 2.0)) / REFERENCE_WAVELENGTH
        grid = np.linspace(q[0], q[-1], 8192)
        strain, microstrain = rng.uniform(-0.015, 0.015), rng.uniform(0.0, 0.001)
        instrument = Instrument(strain=strain, microstrain=microstrain, zero_shift=rng.uniform(-0.05, 0.05))
        slope = np.cos(np.radians(angles / 2.0))  # dQ/d2θ, up to a constant
        counts = np.interp(q, grid, render(peaks, grid, instrument)) * slope
        counts = 5000.0 * counts / counts.max() + rng.uniform(20.0, 400.0)
        return MeasuredPattern(angles, rng.poisson(counts).astype(np.float64), REFERENCE_WAVELENGTH)


def sometimes_left_out(query: HeldOutQuery, pool: Pool, rng: np.random.Generator, share: float) -> HeldOutQuery:
    """The query, or with probability `share` the same without the crystals that fit it, if they are few."""
    fitting = pool.fitting(query)
    if rng.random() >= share or len(fitting) > MOST_LEFT_OUT:
        return query
    return HeldOutQuery(query.value, query.wants, tuple(sorted(fitting)))


def held_out_queries(modality: str) -> HeldOutQueries:
    """How queries of a modality are made: by the class that its `QuerySpec` names, or by its stored values."""
    spec = modality_class(modality).query
    target = None if spec is None else spec.held_out
    made: HeldOutQueries = (StoredValues if target is None else resolved(target))(modality)
    return made
