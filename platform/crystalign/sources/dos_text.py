"""A density of states in columns of text: which column is what, decided by the numbers and said aloud."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import FileFormatError, SpectrumError
from crystalign.sources.columns import TextTable, decode_text, read_table

Array = NDArray[np.float64]

_STATED = re.compile(
    r"\b(n_atoms|zero|e[\s_-]?fermi(?:[\s_-]*(?:energy|level))?|fermi[\s_-]*(?:energy|level)|chemical\s+potential|e_?f(?=\s*[=:]))"
    r"(?:\s*[\[(]?e?v[\])]?)?\s*(?:[=:]|is)\s*([-+.\w]+)",
    re.IGNORECASE,
)
_RELATIVE = re.compile(
    r"e\w*(?:\s*[\[(]ev[\])])?\s*[-\u2212\u2013]\s*(?:e_?\{?f|fermi|mu\b)(?![^\n,;=:]{0,16}[=:]\s*[-+.\d])|relative\s+to\s+(?:the\s+)?(?:e_?f|fermi)|"
    r"reference\s+for\s+this\s+output\s+is\s+the\s+fermi",
    re.IGNORECASE,
)
_ABSOLUTE = re.compile(
    r"int\s+dos\s*\(e\)|\bp?dos(?:up|dw)?\s*\(e\)|reference\s+for\s+this\s+output\s+is", re.IGNORECASE
)
_UNIT = re.compile(r"\b(?:hartree|ha|a\.\s?u\.|rydberg|ry|cm-?\^?\{?-1|thz|mev)(?![A-Za-z])", re.IGNORECASE)
_INTEGRAL = re.compile(r"^\W*(?:int|cum|idos|nos\b|n\s*\(e\)|sum\b)", re.IGNORECASE)
_PART = re.compile(r"^\W*(?:p-?dos|ldos|proj|[spdf](?:[-_(x-z]|$))", re.IGNORECASE)
_SPIN = re.compile(r"up\b|down\b|dn\b|dw\b|dosup|dosdw|alpha|beta|spin|\u2191|\u2193|minority|majority", re.IGNORECASE)
NEAR = 0.02
"""Share of its height by which an integral may differ from the sum of its density."""


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
    """Whether the energies are already counted from the Fermi level."""
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
    _check_header(header, table.names)
    densities, told = _spins(table)
    energies = table.values[:, 0]
    if (np.diff(energies) < 0).all():
        energies, densities = energies[::-1], densities[:, ::-1]
        told = (*told, "the energies fall from row to row; the spectrum was turned round")
    atoms, efermi, zero = _stated(header)
    relative = _RELATIVE.search(header) is not None
    if efermi is None and zero is None and not relative and _ABSOLUTE.search(header):
        message = (
            "the energies are absolute and the file does not state a Fermi level; add `# efermi = ...` (eV) as the "
            "first line"
        )
        raise SpectrumError(message, reason="no-fermi-level")
    if efermi is not None and not relative:
        told = (*told, f"energies are counted from the stated Fermi level, {efermi:g} eV")
    elif efermi is not None:
        told = (*told, "the header says that energies are counted from the Fermi level; nothing was subtracted")
    return TextDos(energies, densities, atoms, efermi, zero, relative, (*table.notices, *told))


def _stated(header: str) -> tuple[int | None, float | None, str | None]:
    """Atoms, Fermi level and zero, where a header states them.

    Raises:
        SpectrumError: it states something else there than a number.
    """
    stated: dict[str, str] = {}
    for found in _STATED.finditer(header):
        key = found[1].lower()
        stated.setdefault(key if key in {"n_atoms", "zero"} else "efermi", found[2])
    try:
        atoms = int(stated["n_atoms"]) if "n_atoms" in stated else None
        efermi = float(re.sub(r"(?i)ev$", "", stated["efermi"])) if "efermi" in stated else None
    except ValueError as error:
        raise SpectrumError(f"the header is unclear: {stated}; write n_atoms = 8", reason="bad-header") from error
    return atoms, efermi, stated["zero"].lower() if "zero" in stated else None


def _check_header(header: str, names: tuple[str, ...]) -> None:
    """Refuse other units than eV, and lists of states.

    Raises:
        SpectrumError: such a file.
    """
    first = names[0] if names else ""
    unit = _UNIT.search(first) or re.search(r"(?i)energ\w*\s*[\[(]\s*(hartree|ha|a\.u\.|ry|rydberg)\s*[\])]", header)
    if unit is not None:
        message = f"the energies are in {unit[0].strip()!r}; give energies in eV and densities in states/eV"
        raise SpectrumError(message, reason="bad-unit")
    if re.search(r"(?i)(?:states?|1)\s*/\s*(?:ry|ha)\w*|\bnenrg\s*=", header):
        message = "the densities or the Fermi level are per Rydberg or Hartree; give energies in eV and states/eV"
        raise SpectrumError(message, reason="bad-unit")
    if re.search(r"(?i)eigenvalue|occupation|projected dos for atomic kind", header):
        message = "the file lists single states, not a density; give energies (eV) and states/eV, broadened"
        raise SpectrumError(message, reason="no-dos")


def _spins(table: TextTable) -> tuple[Array, tuple[str, ...]]:
    """(S, M) densities, and how the columns were read.

    Raises:
        SpectrumError: the columns can be read in two ways.
    """
    energies, columns = table.values[:, 0], table.values[:, 1:].T.copy()
    names = table.names[1:] if table.names else ("",) * len(columns)
    order = np.argsort(energies, kind="stable")
    sums = _Sums(energies[order], columns[:, order])
    if len(columns) == 1:
        return columns, ()
    if len(columns) == 2:
        return _pair(columns, names, sums)
    chosen, told = _by_numbers(columns, sums) or _by_names(names) or ((), "")
    if not chosen:
        message = (
            f"the file has {len(columns) + 1} columns and its header does not say which is the total density; give "
            "energy and total, or energy, spin up and spin down"
        )
        raise SpectrumError(message, reason="columns-ambiguous")
    picked = columns[list(chosen)]
    return (_upright(picked) if len(chosen) == 2 else picked), (told,)


def _by_numbers(columns: Array, sums: _Sums) -> tuple[tuple[int, ...], str] | None:
    """Which of three or more columns are the spins, where sums and integrals of the others tell."""
    if len(columns) == 3 and sums(2, (0, 1)):
        return (0, 1), "columns 2 and 3 are the two spins, column 4 is their integral"
    if len(columns) == 4 and sums(2, (0,)) and sums(3, (1,)):
        return (0, 1), "columns 2 and 3 are the two spins, columns 4 and 5 are their integrals"
    if len(columns) == 3 and _adds_up(columns[0], columns[1:]):
        return (1, 2), "column 2 is the total, columns 3 and 4 are the two spins"
    return None


def _by_names(names: tuple[str, ...]) -> tuple[tuple[int, ...], str] | None:
    """Which columns are the spins or the total, where their names tell."""
    up = tuple(c for c, name in enumerate(names) if _SPIN.search(name) and not _PART.match(name))
    total = [c for c, name in enumerate(names) if re.search(r"(?i)tot|^\W*t?dos", name) and c not in up]
    if len(total) == 1 and not up:
        return (total[0],), f"column {total[0] + 2}, {names[total[0]]!r}, was read; the others were left out"
    spins = tuple(c for c in up if not _INTEGRAL.match(names[c]))
    if len(spins) == 2:
        first, second = (names[c] for c in spins)
        return spins, f"{first!r} and {second!r} were read as the two spins; the other columns were left out"
    return None


def _pair(columns: Array, names: tuple[str, ...], sums: _Sums) -> tuple[Array, tuple[str, ...]]:
    """Two columns: two spins, or a density and its integral."""
    rising = bool((np.diff(sums.columns[1]) >= -NEAR * 0.01 * np.abs(columns[1]).max()).all()) and columns[1].min() >= 0
    if sums(1, (0,)) or (rising and _INTEGRAL.match(names[1])):
        return columns[:1], ("column 3 is the integral of column 2 and was left out",)
    if _PART.match(names[1]) and not _SPIN.search(names[1]):
        return columns[:1], (f"column 3, {names[1]!r}, is a part of column 2 and was left out",)
    if re.search(r"(?i)tot", names[0]) and names[1] and not any(_SPIN.search(name) for name in names):
        return columns[:1], (f"column 3, {names[1]!r}, is no spin and was left out",)
    if columns[1].min() < 0 >= columns[1].max():
        return _upright(columns), ("column 3 is the other spin, drawn downwards",)
    if rising and columns[1].max() > 0 and not _SPIN.search(names[1]):
        message = (
            "column 3 rises throughout but is not the integral of column 2, so it can be the other spin or an "
            "integral; leave it out, or name it `down` in a header line"
        )
        raise SpectrumError(message, reason="columns-ambiguous")
    return _upright(columns), ("column 3 is the other spin",)


def _upright(columns: Array) -> Array:
    """Two spins, the second one upright."""
    spins = columns.copy()
    if spins[1].max() <= 0:
        spins[1] *= -1.0
    return spins


def _adds_up(total: Array, parts: Array) -> bool:
    return bool(np.abs(np.abs(parts).sum(axis=0) - total).max() <= NEAR * np.abs(total).max())


class _Sums:
    """Whether a column is the integral of others, by the trapezium rule or by either of the rectangle rules."""

    def __init__(self, energies: Array, columns: Array) -> None:
        self.columns = columns
        self._steps = np.diff(energies)

    def __call__(self, integral: int, parts: tuple[int, ...]) -> bool:
        """Whether one column is the integral of the sum of others, but for a constant."""
        values = self.columns[integral]
        density = np.abs(self.columns[list(parts)]).sum(axis=0)
        span = values[-1] - values[0]
        if len(values) < 5 or span <= 0 or (np.diff(values) < -1e-3 * span).any():
            return False
        rules = (density[1:], density[:-1], 0.5 * (density[1:] + density[:-1]))
        grown = values[1:] - values[0]
        return any(np.abs(np.cumsum(rule * self._steps) - grown).max() <= NEAR * span for rule in rules)


def _doscar(text: str) -> TextDos | None:
    """The total density of a VASP DOSCAR; None if the text is none.

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
    told = (f"total density of a DOSCAR; energies are counted from its Fermi level, {efermi:g} eV",)
    return TextDos(values[:, 0], spins, atoms, efermi, None, relative=False, notices=told)
