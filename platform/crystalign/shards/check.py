"""Check the rows of a dataset: against what this release computes from the structures, and against their source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from crystalign.crystal import Crystal
from crystalign.errors import InputError
from crystalign.limits import Limits
from crystalign.material import Material
from crystalign.rejects import Reject
from crystalign.shards.schema import DESCRIPTION, materials_to_table

VOLUME_PER_ATOM = (2.5, 250.0)
"""Å³; crystals outside this range are far denser or emptier than any known one."""
LENGTH_TOLERANCE = 1e-3
"""Relative difference of volumes above which two cells count as different."""
_COMPARED = ("formula", "chemsys", "n_sites", "spacegroup_number", "prototype")


class Finding(NamedTuple):
    """A problem of a row that a person should look at."""

    id: str
    """Id of the material."""
    reason: str
    """Short, stable word by which findings are grouped."""
    message: str
    """The stored value and the expected one."""


def check_rows(materials: Sequence[Material], stored: pa.Table, limits: Limits | None = None) -> Iterator[Finding]:
    """Find rows whose description columns differ from the structure, or whose structure is implausible.

    Args:
        materials: the materials as read from the dataset.
        stored: their description columns, in the same order.
        limits: limits on the number of sites and on distances.
    """
    limits = limits or Limits()
    described = [_described(material) for material in materials]
    recomputed = materials_to_table([material for material in described if isinstance(material, Material)])
    expected = iter(recomputed.select([n for n in DESCRIPTION.names if n in _COMPARED]).to_pylist())
    for material, result, row in zip(materials, described, stored.to_pylist(), strict=True):
        if isinstance(result, InputError):
            yield Finding(material.id, result.reason, str(result))
            continue
        computed = next(expected)
        for name in _COMPARED:
            if name in row and row[name] != computed[name]:
                message = f"the column {name} holds {row[name]!r}, the structure gives {computed[name]!r}"
                yield Finding(material.id, f"{name}-differs", message)
        yield from _checked(material, limits)


def _described(material: Material) -> Material | InputError:
    from dataclasses import replace

    from crystalign.physics.symmetry import symmetry

    try:
        computed = symmetry(material.crystal)
    except InputError as error:
        return error
    return replace(material, spacegroup_number=computed.number, prototype=computed.prototype)


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


def compare_with_source(stored: Mapping[str, Crystal], entries: Sequence[Material | Reject]) -> Iterator[Finding]:
    """Find rows for which the source now gives another crystal, or none.

    Args:
        stored: crystals of the dataset by id.
        entries: the materials and rejects that the source yields now.
    """
    for entry in entries:
        crystal = stored.get(entry.id)
        if crystal is None:
            continue
        if isinstance(entry, Reject):
            yield Finding(entry.id, f"refused-now: {entry.reason}", f"{crystal!r} is stored; {entry.message}")
        elif not _same(crystal, entry.crystal):
            message = f"{crystal!r} is stored, the file gives {entry.crystal!r}"
            yield Finding(entry.id, "read-differently", message)


def _same(one: Crystal, other: Crystal) -> bool:
    return (
        one.formula == other.formula
        and len(one) == len(other)
        and abs(one.volume / other.volume - 1.0) <= LENGTH_TOLERANCE
    )
