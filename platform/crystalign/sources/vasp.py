"""One VASP calculation: its structure, its density of states and its charge density."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import CrystalError, InputError
from crystalign.material import Material, Provenance
from crystalign.shards.writer import Reject
from crystalign.sources.poscar import element_of, read_poscar
from crystalign.sources.structures import decode, file_kind

Read = Callable[[str], bytes]


def read_calculation(
    identifier: str, files: Sequence[str], read: Read, provenance: Provenance
) -> Iterator[Material | Reject]:
    """The material of a folder with `vasprun.xml`, `CHGCAR` or both, and what of it could not be read.

    The structure is the last one of `vasprun.xml`, or that of the CHGCAR where there is no vasprun. A density
    of a different structure than that is refused.

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
    make: Callable[[], Any], name: str, identifier: str, origin: str, found: dict[str, Any], rejects: list[Reject]
) -> None:
    try:
        found[name] = make()
    except InputError as error:
        rejects.append(Reject(identifier, name, error.reason, str(error), origin))


def _dos(data: bytes) -> Any:
    from crystalign.modalities.dos import parse_dos

    return parse_dos(data, name="vasprun.xml").standardised()


def _density(data: bytes, crystal: Crystal | None) -> tuple[Crystal, Any]:
    """The density, and the crystal it belongs to."""
    from crystalign.modalities.charge_density import parse_chgcar

    own, density = parse_chgcar(data)
    if crystal is None:
        return own, density.standardised(own)
    same = own.composition == crystal.composition and np.allclose(own.lattice, crystal.lattice, atol=1e-2)
    if not same:
        message = f"the CHGCAR is of {own!r}, the vasprun.xml of {crystal!r}: two different calculations"
        raise CrystalError(message, reason="different-structure")
    return crystal, density.standardised(own)


def structure_of_vasprun(data: bytes) -> Crystal:
    """The last structure of a `vasprun.xml`, read as a stream.

    Raises:
        CrystalError: truncated, or no structure in it.
    """
    symbols: list[str] = []
    lattice, frac_coords = None, None
    try:
        for _, element in ET.iterparse(io.BytesIO(data)):  # noqa: S314 (expat bounds entity expansion)
            if element.tag == "array" and element.get("name") == "atoms":
                symbols = [(row[0].text or "").strip() for row in element.iter("rc")]
            elif element.tag == "structure":
                lattice = _vectors(element, "basis")
                frac_coords = _vectors(element, "positions")
            if element.tag in {"structure", "calculation", "array"}:
                element.clear()
    except (ET.ParseError, ValueError, IndexError) as error:
        message = f"vasprun.xml is damaged or ends early: {error}"
        raise CrystalError(message, reason="unreadable-vasprun") from error
    known = [element_of(symbol) for symbol in symbols]
    if None in known:
        message = f"vasprun.xml names {symbols[known.index(None)]!r}, which is not an element"
        raise CrystalError(message, reason="unknown-element")
    if lattice is None or frac_coords is None or not symbols:
        message = "vasprun.xml holds no structure"
        raise CrystalError(message, reason="unreadable-vasprun")
    return Crystal(lattice, frac_coords, np.array([SYMBOLS.index(str(symbol)) for symbol in known]))


def structure_of_chgcar(data: bytes, name: str, *, max_sites: int = 1000) -> Crystal:
    """The structure in the head of a CHGCAR, which is a POSCAR up to the first blank line.

    Raises:
        CrystalError: it is none.
    """
    lines = re.match(rb"(?:[^\n]*\n){8}", data)  # the title may be blank, the next lines are not
    blank = re.compile(rb"\n[ \t\r]*\n").search(data, lines.end() - 1 if lines else 0)
    return read_poscar(decode(data[: blank.start() if blank else 1 << 20], name), max_sites=max_sites)


def _vectors(element: ET.Element, name: str) -> Any:
    """(n, 3) numbers of a named `<varray>`."""
    for array in element.iter("varray"):
        if array.get("name") == name:
            return np.array([[float(x) for x in (v.text or "").split()] for v in array.iter("v")])
    return None
