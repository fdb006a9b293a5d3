"""Read a density of states in columns of text; notices say how columns were identified."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError, SpectrumError
from crystalign.readers.dos.dos_columns import spins_of
from crystalign.readers.dos.dos_zero import read_header
from crystalign.readers.text.columns import decode_text, read_table

Array = NDArray[np.float64]


class TextDos(NamedTuple):
    """A density of states as a text file gives it."""

    energies: Array
    """(M,) eV, absolute where `efermi` is known and not yet subtracted."""
    densities: Array
    """(S, M) states/eV."""
    n_atoms: int | None
    efermi: float | None
    zero: str | None
    relative: bool
    """Whether the energies are already counted from the Fermi level or the valence-band maximum."""
    notices: tuple[str, ...]


def read_text_dos(data: bytes) -> TextDos:
    """A density of states in columns: energies in eV, then one or two spins, then perhaps their integral.

    Raises:
        FileFormatError: no rows of numbers.
        SpectrumError: columns that can be read in two ways, or energies without a zero.
    """
    text = decode_text(data)
    if (run := _doscar(text)) is not None:
        return run
    table = read_table(text)
    width = table.values.shape[1]
    table = table.without_gaps(tuple(range(width)))
    header = "\n".join(line[:1000] for line in table.header)
    stated = read_header(header, table.names[0] if table.names else "")
    densities, choices = spins_of(table)
    energies = table.values[:, 0]
    if (np.diff(energies) < 0).all():
        energies, densities = energies[::-1], densities[:, ::-1]
        choices = (*choices, "the energies fall from row to row; the spectrum was turned round")
    notices = (*table.notices, *choices, *stated.notices)
    return TextDos(energies, densities, stated.n_atoms, stated.efermi, stated.zero, stated.relative, notices)


def _doscar(text: str) -> TextDos | None:
    """Read the total density of a VASP DOSCAR; None if the text is not one.

    Raises:
        FileFormatError: fewer rows than announced.
        SpectrumError: stars instead of the Fermi level.
    """
    lines = text.split("\n", 7)
    if len(lines) < 8 or lines[3].strip().upper() != "CAR":
        return None
    words = lines[5].split()
    try:
        atoms, points = int(lines[0].split()[0]), int(words[2])
        efermi = float(words[3])
    except (ValueError, IndexError) as error:
        message = f"the DOSCAR does not state points and Fermi level: {lines[5].strip()[:60]!r}"
        raise SpectrumError(message, reason="no-fermi-level") from error
    rows = "\n".join(lines[6:]).split("\n", points)[:points] if 2 <= points <= 1_000_000 else []
    if len(rows) < points or not rows or not rows[-1].strip():
        message = f"the DOSCAR announces {points} points and holds fewer; it is cut"
        raise FileFormatError(message, reason="truncated")
    values = read_table("\n".join(rows)).values
    if len(values) != points or values.shape[1] not in {3, 5} or not np.isfinite(values).all():
        message = "the total density of the DOSCAR is not a block of 3 or 5 numbers a row"
        raise FileFormatError(message, reason="bad-row")
    spins = values[:, 1:3].T if values.shape[1] == 5 else values[:, 1:2].T
    notices = (f"total density of a DOSCAR; energies are counted from its Fermi level, {efermi:g} eV",)
    return TextDos(values[:, 0], spins, atoms, efermi, None, relative=False, notices=notices)
