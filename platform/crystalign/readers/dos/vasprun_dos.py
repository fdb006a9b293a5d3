"""The total density of states of a `vasprun.xml`, read as a stream: no tree is built, however large the file is."""

from __future__ import annotations

from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import SpectrumError

Array = NDArray[np.float64]

MAX_POINTS = 1_000_000
_CHUNK = 1 << 20


class RunDos(NamedTuple):
    """A total density of states as VASP writes it."""

    energies: Array
    """(M,) eV, absolute."""
    densities: Array
    """(S, M) states/eV of the cell; S is 1, or 2 of a spin-polarised run."""
    efermi: float
    """eV, absolute."""
    n_atoms: int
    notices: tuple[str, ...]


def read_vasprun_dos(data: bytes) -> RunDos:
    """The last total density of states of a run.

    Of a non-collinear run the first set counts: the other three are the magnetisation.

    Raises:
        SpectrumError: the file is cut, the run wrote no density of states or no Fermi level, or a number overflowed.
    """
    collector = _Collector()
    parser = ET.XMLParser(target=collector)  # noqa: S314 (expat bounds entity expansion)
    try:
        for start in range(0, len(data), _CHUNK):
            parser.feed(data[start : start + _CHUNK])
        parser.close()
    except (ET.ParseError, LookupError, UnicodeError) as error:
        message = f"the vasprun.xml is damaged or cut ({error}); its density of states cannot be trusted. Copy it again"
        raise SpectrumError(message, reason="unreadable-vasprun") from error
    if collector.root != "modeling":
        raise SpectrumError(
            f"the XML begins with <{collector.root[:40]}>: it is no vasprun.xml", reason="unreadable-vasprun"
        )
    if not collector.sets:
        message = (
            "this run wrote no density of states; run VASP with NEDOS (and LORBIT = 11 if you want projections) and a "
            "mesh of k-points, not a path"
        )
        raise SpectrumError(message, reason="no-dos")
    if collector.atoms < 1:
        raise SpectrumError("the vasprun.xml does not say how many atoms there are", reason="unreadable-vasprun")
    spins, notices = _spins(collector)
    tables, repaired = [], 0
    for rows in spins:
        table, lost = _table(rows)
        tables.append(table)
        repaired += lost
    if len({len(table) for table in tables}) != 1 or any((t[:, 0] != tables[0][:, 0]).any() for t in tables):
        raise SpectrumError("the two spins of the vasprun.xml have different energies", reason="unreadable-vasprun")
    if repaired:
        notices.append(f"{repaired} densities were overwritten with stars by VASP; they were taken from the integral")
    return RunDos(
        tables[0][:, 0], np.stack([t[:, 1] for t in tables]), _fermi(collector.efermi), collector.atoms, tuple(notices)
    )


def _spins(collector: _Collector) -> tuple[list[list[str]], list[str]]:
    """Return the sets of the spin channels, and notices."""
    if len(collector.sets) == 4:
        return collector.sets[:1], ["non-collinear run: the total density was read, the magnetisation left out"]
    if len(collector.sets) > 2:
        message = f"the density of states has {len(collector.sets)} sets; VASP writes 1, 2 or 4"
        raise SpectrumError(message, reason="unreadable-vasprun")
    return collector.sets, []


def _fermi(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        said = f"the Fermi level is {text.strip()!r}" if text.strip() else "no Fermi level is written"
        message = (
            f"{said} in the vasprun.xml, so its energies have no zero; take it from the OUTCAR and give columns of text"
        )
        raise SpectrumError(message, reason="no-fermi-level")
    return value


def _table(rows: list[str]) -> tuple[Array, int]:
    """Return energy, density and integral (M, 3), and the number of repaired densities.

    VASP prints a density that is too wide as stars; it is then computed as the slope of the integral.
    """
    values = np.full((len(rows), 3), np.nan)
    if len(rows) < 2:
        raise SpectrumError("the density of states of the vasprun.xml has no points", reason="no-dos")
    for at, row in enumerate(rows):
        for column, word in enumerate(row.split()[:3]):
            if "*" not in word:
                values[at, column] = _float(word)
    if not np.isfinite(values[:, 0]).all():
        raise SpectrumError("an energy in the vasprun.xml is no number; run VASP again", reason="overflow")
    lost = np.flatnonzero(~np.isfinite(values[:, 1])).tolist()
    for at in lost:
        slope = (values[at, 2] - values[at - 1, 2]) / (values[at, 0] - values[at - 1, 0]) if at else np.nan
        if not np.isfinite(slope) or slope < 0 or len(lost) > 0.05 * len(rows):
            message = (
                f"{len(lost)} densities in the vasprun.xml are no numbers (********); run VASP with a larger SIGMA"
            )
            raise SpectrumError(message, reason="overflow")
        values[at, 1] = slope
    return values, len(lost)


def _float(word: str) -> float:
    try:
        return float(word)
    except ValueError as error:
        message = f"{word[:20]!r} in the density of states is no number; the vasprun.xml is damaged"
        raise SpectrumError(message, reason="unreadable-vasprun") from error


class _Collector:
    """Parser target that keeps only the total density of states, the Fermi level and the number of atoms."""

    def __init__(self) -> None:
        self.root = ""
        self.sets: list[list[str]] = []
        self.efermi = ""
        self.atoms = 0
        self._path: list[str] = []
        self._dos = 0
        """Depth of the open <dos> that counts; 0 outside."""
        self._text: list[str] | None = None

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Open an element."""
        self.root = self.root or tag
        self._path.append(tag)
        self._text = None
        if tag == "dos" and not attributes.get("comment") and not self._dos:
            self._dos, self.sets, self.efermi = len(self._path), [], ""
        if self._dos and tag == "set" and "total" in self._path and "spin" in attributes.get("comment", ""):
            self.sets.append([])
        is_dos_number = (tag == "i" and attributes.get("name") == "efermi") or (tag == "r" and "total" in self._path)
        if (self._dos and is_dos_number) or (tag == "atoms" and "atominfo" in self._path):
            self._text = []

    def data(self, text: str) -> None:
        """Collect the text of the open element."""
        if self._text is not None:
            self._text.append(text)

    def end(self, tag: str) -> None:
        """Close an element."""
        text = "".join(self._text) if self._text is not None else None
        self._text = None
        if text is not None and tag == "r" and self.sets:
            if len(self.sets[-1]) >= MAX_POINTS:
                raise SpectrumError(f"the density of states has more than {MAX_POINTS} points", reason="too-large")
            self.sets[-1].append(text)
        elif text is not None and tag == "i":
            self.efermi = text
        elif text is not None and tag == "atoms" and text.strip().isdecimal():
            self.atoms = int(text)
        if tag == "dos" and len(self._path) == self._dos:
            self._dos = 0
        self._path.pop()

    def close(self) -> None:
        """End of the file."""
