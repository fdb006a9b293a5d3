"""Whether the rows of a dataset are what this release would store: by themselves, and compared with their source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from crystalign.crystal import Crystal
from crystalign.errors import InputError
from crystalign.material import Material
from crystalign.shards.schema import DESCRIPTION, materials_to_table
from crystalign.shards.writer import Reject
from crystalign.sources.limits import Limits

VOLUME_PER_ATOM = (2.5, 250.0)
"""Å³; crystals outside are far denser or emptier than any known."""
LENGTH_TOLERANCE = 1e-3
"""Relative; volumes that differ by more are different cells."""
_COMPARED = ("formula", "chemsys", "n_sites", "spacegroup_number", "prototype")


class Finding(NamedTuple):
    """Something about a row that should be looked at."""

    id: str
    """Of the material."""
    reason: str
    """A short, stable word to group by."""
    message: str
    """The stored value, and what was expected."""


def check_rows(materials: Sequence[Material], stored: pa.Table, limits: Limits | None = None) -> Iterator[Finding]:
    """What is wrong with rows by themselves.

    Args:
        materials: as they were read from the dataset.
        stored: their description columns, in the same order.
        limits: of a crystal.
    """
    limits = limits or Limits()
    described = [_described(material) for material in materials]
    fresh = materials_to_table([material for material in described if isinstance(material, Material)])
    expected = iter(fresh.select([n for n in DESCRIPTION.names if n in _COMPARED]).to_pylist())
    for material, known, row in zip(materials, described, stored.to_pylist(), strict=True):
        if isinstance(known, InputError):
            yield Finding(material.id, known.reason, str(known))
            continue
        wanted = next(expected)
        for name in _COMPARED:
            if name in row and row[name] != wanted[name]:
                message = f"the column {name} says {row[name]!r}, the structure gives {wanted[name]!r}"
                yield Finding(material.id, f"{name}-differs", message)
        yield from _checked(material, limits)


def _described(material: Material) -> Material | InputError:
    from dataclasses import replace

    from crystalign.physics.symmetry import symmetry

    try:
        found = symmetry(material.crystal)
    except InputError as error:
        return error
    return replace(material, spacegroup_number=found.number, prototype=found.prototype)


def _checked(material: Material, limits: Limits) -> Iterator[Finding]:
    crystal = material.crystal
    try:
        crystal.check(max_sites=max(limits.max_sites, len(crystal)), min_distance=limits.min_distance)
    except InputError as error:
        yield Finding(material.id, error.reason, str(error))
    share = crystal.volume / sum(crystal.composition.values())
    if not VOLUME_PER_ATOM[0] <= share <= VOLUME_PER_ATOM[1]:
        message = f"{crystal!r} has {share:.2f} Å³ per atom; expected {VOLUME_PER_ATOM[0]:g} to {VOLUME_PER_ATOM[1]:g}"
        yield Finding(material.id, "implausible-density", message)


def compare_with_source(stored: Mapping[str, Crystal], found: Sequence[Material | Reject]) -> Iterator[Finding]:
    """What a source gives today for rows that a dataset holds.

    Args:
        stored: crystals of the dataset by id.
        found: what the source yields for them now.
    """
    for one in found:
        held = stored.get(one.id)
        if held is None:
            continue
        if isinstance(one, Reject):
            yield Finding(one.id, f"refused-now: {one.reason}", f"{held!r} is stored; {one.message}")
        elif not _same(held, one.crystal):
            message = f"{held!r} is stored, the file gives {one.crystal!r}"
            yield Finding(one.id, "read-differently", message)


def _same(held: Crystal, found: Crystal) -> bool:
    return (
        held.formula == found.formula
        and len(held) == len(found)
        and abs(held.volume / found.volume - 1.0) <= LENGTH_TOLERANCE
    )
