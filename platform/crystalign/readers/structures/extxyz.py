"""Extended XYZ, read by ASE where it is installed."""

from __future__ import annotations

import io
import re

from crystalign.crystal import Crystal
from crystalign.errors import CrystalError, FileFormatError


def read_extxyz(text: str, *, max_sites: int) -> Crystal:
    """The last frame of an extended XYZ file; its three directions must be periodic.

    Raises:
        CrystalError: no lattice, not periodic, too many atoms, or not readable.
        FileFormatError: ASE is not installed.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    counts = [int(line) for line in lines if re.fullmatch(r"\s*\d{1,11}\s*", line)]
    if len(lines) < 3 or not counts or "lattice=" not in lines[1].lower():
        message = 'a plain XYZ file has no lattice and is no crystal; extended XYZ says Lattice="…" on its second line'
        raise CrystalError(message, reason="not-periodic")
    if max(counts) > max_sites:
        message = f"{max(counts)} atoms are declared; the limit is {max_sites}. Use a smaller cell, or raise the limit"
        raise CrystalError(message, reason="too-many-sites")
    if any(re.search(r"roperties=\S{0,2000}:[0-9]{4,}", line[:10_000]) for line in lines if "roperties" in line):
        raise CrystalError("a property of the extended XYZ claims more than 999 columns", reason="unreadable-xyz")
    try:
        from ase.io import read
    except ImportError as error:
        message = "extended XYZ is read by ASE, which is not installed: pip install 'crystalign[ase]'"
        raise FileFormatError(message, reason="needs-ase") from error
    try:
        atoms = read(io.StringIO("\n".join(lines)), index=-1, format="extxyz")
    except Exception as error:  # ASE's parser may raise anything
        message = f"not readable as extended XYZ: {type(error).__name__}: {str(error)[:200]}"
        raise CrystalError(message, reason="unreadable-xyz") from error
    return Crystal.from_ase(atoms)
