"""One VASP calculation: its structure, its density of states and its charge density."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError, InputError
from crystalign.material import Material, Provenance
from crystalign.readers.structures.structure_file import file_kind
from crystalign.readers.structures.vasp import structure_of_vasprun
from crystalign.rejects import Reject

Read = Callable[[str], bytes]


def read_calculation(
    identifier: str, files: Sequence[str], read: Read, provenance: Provenance
) -> Iterator[Material | Reject]:
    """Read the material of a folder with `vasprun.xml`, `CHGCAR` or both, and list what could not be read.

    The structure is the last one of `vasprun.xml`, or that of the CHGCAR if there is no `vasprun.xml`. A charge
    density of a different structure is refused.

    Args:
        identifier: the material's id.
        files: names in the folder, of which one is a vasprun.xml, one a CHGCAR, or both.
        read: bytes by name.
        provenance: of the material.

    Raises:
        CrystalError: no structure can be read.
    """
    runs = [name for name in files if file_kind(name) == "vasprun"]
    grids = [name for name in files if file_kind(name) == "chgcar"]
    modalities: dict[str, Any] = {}
    rejects: list[Reject] = []
    crystal = None
    if runs:
        data = read(runs[-1])
        crystal = structure_of_vasprun(data)
        _attempt(lambda: _dos(data), "dos", identifier, runs[-1], modalities, rejects)
        del data
    if grids:
        try:
            crystal, density = _density(read(grids[-1]), crystal)
            modalities["charge_density"] = density
        except InputError as error:
            if crystal is None:
                raise
            rejects.append(Reject(identifier, "charge_density", error.reason, str(error), grids[-1]))
    assert crystal is not None, "a calculation has a vasprun.xml or a CHGCAR"
    yield Material(identifier, crystal, provenance, modalities)
    yield from rejects


def _attempt(
    make: Callable[[], Any], name: str, identifier: str, origin: str, modalities: dict[str, Any], rejects: list[Reject]
) -> None:
    try:
        modalities[name] = make()
    except InputError as error:
        rejects.append(Reject(identifier, name, error.reason, str(error), origin))


def _dos(data: bytes) -> Any:
    from crystalign.modalities.dos import parse_dos

    return parse_dos(data, name="vasprun.xml").standardised()


def _density(data: bytes, crystal: Crystal | None) -> tuple[Crystal, Any]:
    """Return the crystal and its density.

    Raises:
        CrystalError: the CHGCAR has another structure than `crystal`.
    """
    from crystalign.modalities.charge_density import parse_chgcar

    own, density = parse_chgcar(data)
    if crystal is None:
        return own, density.standardised(own)
    same = own.composition == crystal.composition and np.allclose(own.lattice, crystal.lattice, atol=1e-2)
    if not same:
        message = f"the CHGCAR is of {own!r}, the vasprun.xml of {crystal!r}: two different calculations"
        raise CrystalError(message, reason="different-structure")
    return crystal, density.standardised(own)
