"""The structures in the output of VASP: `vasprun.xml` and `CHGCAR`."""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import CrystalError
from crystalign.readers.structures.decoding import decode
from crystalign.readers.structures.poscar import element_of, read_poscar


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
    elements = [element_of(symbol) for symbol in symbols]
    if None in elements:
        message = f"vasprun.xml names {symbols[elements.index(None)]!r}, which is not an element"
        raise CrystalError(message, reason="unknown-element")
    if lattice is None or frac_coords is None or not symbols:
        message = "vasprun.xml holds no structure"
        raise CrystalError(message, reason="unreadable-vasprun")
    return Crystal(lattice, frac_coords, np.array([SYMBOLS.index(str(symbol)) for symbol in elements]))


def structure_of_chgcar(data: bytes, name: str, *, max_sites: int = 1000) -> Crystal:
    """The structure in the head of a CHGCAR, which is a POSCAR up to the first blank line.

    Raises:
        CrystalError: it is none.
    """
    lines = re.match(rb"(?:[^\n]*\n){8}", data)  # the title may be blank, the next lines are not
    blank = re.compile(rb"\n[ \t\r]*\n").search(data, lines.end() - 1 if lines else 0)
    return read_poscar(decode(data[: blank.start() if blank else 1 << 20], name), max_sites=max_sites)


def _vectors(element: ET.Element, name: str) -> Any:
    """Return the numbers (n, 3) of a named `<varray>`; None if there is none."""
    for array in element.iter("varray"):
        if array.get("name") == name:
            return np.array([[float(x) for x in (v.text or "").split()] for v in array.iter("v")])
    return None
