"""Identify the total or spin columns of a density of states, by name first, then by value."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crystalign.errors import SpectrumError
from crystalign.readers.text.columns import TextTable

Array = NDArray[np.float64]
Kind = Literal["none", "spin", "integral", "total", "plain", "other"]
Chosen = tuple[tuple[int, ...], str]

NEAR = 0.02
"""Share of its height by which an integral may differ from the sum of its density."""
_INTEGRAL = re.compile(r"^\W*(?:int|cum|idos|nos\b|n\s*\(e\)|sum\b)|integ", re.IGNORECASE)
_SPIN = re.compile(
    r"up\b|down\b|dn\b|dw\b|dosup|dosdw|alpha|beta|spin[\s_-]?[12]?|\u2191|\u2193|minority|majority|(?<=up)_|(?<=down)_",
    re.IGNORECASE,
)
_ONE_SPIN = re.compile(r"up\b|down\b|dn\b|dw\b|dosup|dosdw|alpha|beta|\u2191|\u2193|minority|majority", re.IGNORECASE)
_TOTAL = re.compile(r"tot(?:al)?(?![a-z])|^\W*t-?dos|_tot|total", re.IGNORECASE)
_PLAIN = re.compile(
    r"^\W*(?:dos|density|density[\s_]of[\s_]states|states|(?:dos|d|g|rho)\s?\(e(?:nergy)?\))[\s_]?\d?"
    r"(?:\s*/\s*e\s*v)?(?:[\s_/]*[\[(][^)\]]*[\])]|[\s_/]*(?:states|1)/ev\S*)?\W*$",
    re.IGNORECASE,
)
_PART = re.compile(r"^\W*(?:p-?dos|ldos|proj|[spdf](?:[-_(x-z]|$))", re.IGNORECASE)
_ENERGY = re.compile(
    r"^\W*(?:e(?![a-z])|ev(?![a-z])|e_?f|en(?:erg|$|\b)|x\b|w\b|omega|freq|\u03b5|\u03c9)", re.IGNORECASE
)
_WHOLE = {
    "", "dos", "tdos", "tot", "total", "totaldos", "dostot", "dostotal", "totdos", "states", "density", "e", "n", "g",
    "rho", "densityofstates", "statesev", "channel", "component", "electrons", "ev",
}  # fmt: skip
"""Names of columns of one spin of the total density, without the word for the spin."""
_OTHERS = re.compile(r"\bp-?dos|\bproj|partial|\berr(?:or)?\b|sigma|smooth", re.IGNORECASE)


def spins_of(table: TextTable) -> tuple[Array, tuple[str, ...]]:
    """(S, M) densities, and how the columns were read.

    Raises:
        SpectrumError: the columns can be read in two ways.
    """
    energies, columns = table.values[:, 0], table.values[:, 1:].T.copy()
    _check_first(table)
    names = _names(table, len(columns))
    order = np.argsort(energies, kind="stable")
    sums = _Sums(energies[order], columns[:, order])
    kinds = [kind_of(name) for name in names]
    if len(columns) == 1:
        return columns, _alone(names[0], kinds[0])
    chosen: Chosen | None
    if len(columns) == 2:
        chosen = _pair_by_names(names, kinds) or _pair_by_numbers(columns, kinds, sums)
    else:
        chosen = _by_names(names, kinds)
        if not chosen and "other" not in kinds:
            chosen = _by_numbers(columns, sums)
    if not chosen:
        raise _ambiguous(len(columns) + 1, names)
    picked = columns[list(chosen[0])]
    return (_upright(picked) if len(chosen[0]) == 2 else picked), (chosen[1],)


def kind_of(name: str) -> Kind:
    """What a name says of its column; `other` is a part, an error or anything that is no total and no spin."""
    name = name.strip()
    if not name:
        return "none"
    if _INTEGRAL.search(name):
        return "integral"
    if _SPIN.search(name):
        rest = re.sub(r"[\[(][^)\]]*[\])]", "", name)
        rest = re.sub(r"[\W\d_]", "", _SPIN.sub("", rest)).lower()
        return "spin" if rest in _WHOLE else "other"
    if _PLAIN.match(name):
        return "plain"
    if _TOTAL.search(name) and not _PART.match(name):
        return "total"
    return "other"


def _names(table: TextTable, count: int) -> tuple[str, ...]:
    """Return the names of the density columns; empty strings if the header has none.

    Three words above three columns are names only if they read like names: "Rutile TiO2 DOS" is a title.
    """
    if table.names and len(table.names) == count + 1:
        first, *names = table.names
        reads_like_names = any(kind_of(name) in {"spin", "total", "integral"} or _PART.match(name) for name in names)
        if _ENERGY.match(first) or reads_like_names:
            return tuple(names)
    elif count == 2 and table.header and _OTHERS.search(table.header[-1]):
        raise _ambiguous(count + 1, (table.header[-1][:60],))
    return ("",) * count


def _check_first(table: TextTable) -> None:
    """Refuse a table whose first column is not the energies.

    Raises:
        SpectrumError: it is not.
    """
    values, names = table.values, table.names
    elsewhere = any(re.match(r"(?i)^\W*energ", name) for name in names[1:]) and not _ENERGY.match(names[0])
    numbered = (
        values.shape[1] > 2
        and len(values) > 50
        and values[0, 0] in (0.0, 1.0)
        and bool((np.diff(values[:, 0]) == 1.0).all() and (np.diff(values[:, 1]) > 0).all())
    )
    if elsewhere or numbered:
        message = "the first column is not the energies; give energy (eV) first, then the total density (states/eV)"
        raise SpectrumError(message, reason="columns-ambiguous")


def _ambiguous(width: int, names: tuple[str, ...]) -> SpectrumError:
    said = ", ".join(repr(name[:40]) for name in names if name)
    message = (
        f"the file has {width} columns and its header{f' ({said})' if said else ''} does not say which is the total "
        "density; give energy and total, or energy, spin up and spin down, named `total`, or `up` and `down`"
    )
    return SpectrumError(message, reason="columns-ambiguous")


def _alone(name: str, kind: Kind) -> tuple[str, ...]:
    """Return notices about the only density column; refuse one spin of two and an integral.

    Raises:
        SpectrumError: the column is not a whole density.
    """
    if kind == "integral" or (kind == "spin" and _ONE_SPIN.search(name)):
        raise SpectrumError(
            f"the only column is called {name[:40]!r}; give the total density, or both spins",
            reason="columns-ambiguous",
        )
    return (f"column 2, {name[:40]!r}, was read as the total density",) if kind == "other" else ()


def _pair_by_names(names: tuple[str, ...], kinds: list[Kind]) -> Chosen | None:
    """Choose from two columns by their names; None if the numbers have to decide.

    Raises:
        SpectrumError: the names say that neither is the total, or that one spin is missing.
    """
    first, second = kinds
    whole = ("total", "plain", "none")
    chosen: Chosen | None = None
    if second == "spin" and first in {"spin", "plain", "none"}:
        return (0, 1), f"{names[0] or 'column 2'!r} and {names[1]!r} were read as the two spins"
    if first in whole and second == "integral":
        return chosen  # the numbers decide
    if (first in {"total", "plain"} and second == "other") or (first == "total" and second in {"plain", "none"}):
        chosen = (0,), f"column 3, {names[1]!r}, is no spin and was left out"
    elif (first in {"other", "integral"} and second == "total") or (first == "integral" and second == "plain"):
        chosen = (1,), f"column 3, {names[1]!r}, was read; column 2, {names[0]!r}, was left out"
    elif not (first in {"plain", "none"} and second in {"plain", "none"}):
        raise _ambiguous(3, names)
    return chosen


def _pair_by_numbers(columns: Array, kinds: list[Kind], sums: _Sums) -> Chosen:
    """Choose from two columns by their numbers: they are two spins, or a density and its integral.

    Raises:
        SpectrumError: the columns may be either.
    """
    rising = bool((np.diff(sums.columns[1]) >= -NEAR * 0.01 * np.abs(columns[1]).max()).all()) and columns[1].min() >= 0
    if sums(1, (0,)) or (rising and kinds[1] == "integral"):
        return (0,), "column 3 is the integral of column 2 and was left out"
    if kinds[1] == "integral":
        message = "column 3 is called an integral and does not rise throughout; give energy and total density"
        raise SpectrumError(message, reason="columns-ambiguous")
    if columns[1].min() < 0 >= columns[1].max():
        return (0, 1), "column 3 is the other spin, drawn downwards"
    if (rising or sums.falls(1)) and np.abs(columns[1]).max() > 0:
        message = (
            "column 3 rises or falls throughout but is not the integral of column 2, so it can be the other spin or an "
            "integral; leave it out, or name it `down` in a header line"
        )
        raise SpectrumError(message, reason="columns-ambiguous")
    return (0, 1), "column 3 is the other spin"


def _by_names(names: tuple[str, ...], kinds: list[Kind]) -> Chosen | None:
    """Find the spin columns, or the total, by the names of three or more columns."""
    up = tuple(c for c, kind in enumerate(kinds) if kind == "spin")
    total = [c for c, kind in enumerate(kinds) if kind == "total"]
    total = total or [c for c, kind in enumerate(kinds) if kind == "plain"]
    if len(up) == 2:
        first, second = (names[c] for c in up)
        return up, f"{first!r} and {second!r} were read as the two spins; the other columns were left out"
    if len(total) == 1 and not up:
        return (total[0],), f"column {total[0] + 2}, {names[total[0]]!r}, was read; the others were left out"
    return None


def _by_numbers(columns: Array, sums: _Sums) -> Chosen | None:
    """Find the two spins among three or more columns by their numbers; sums and integrals of columns are no spins."""
    if len(columns) == 3 and sums(2, (0, 1)):
        return (0, 1), "columns 2 and 3 are the two spins, column 4 is their integral"
    if len(columns) == 4 and sums(2, (0,)) and sums(3, (1,)):
        return (0, 1), "columns 2 and 3 are the two spins, columns 4 and 5 are their integrals"
    if len(columns) == 3 and _adds_up(columns[0], columns[1:]):
        return (1, 2), "column 2 is the total, columns 3 and 4 are the two spins"
    return None


def _upright(columns: Array) -> Array:
    """Return the two spins; the second is made positive if it is drawn downwards."""
    spins = columns.copy()
    if spins[1].max() <= 0:
        spins[1] *= -1.0
    return spins


def _adds_up(total: Array, parts: Array) -> bool:
    return bool(np.abs(np.abs(parts).sum(axis=0) - total).max() <= NEAR * np.abs(total).max())


class _Sums:
    """Test whether a column is the integral of others, by the trapezoidal rule or either rectangle rule."""

    def __init__(self, energies: Array, columns: Array) -> None:
        self.columns = columns
        self._steps = np.diff(energies)

    def falls(self, column: int) -> bool:
        """Whether a column never rises and is never negative."""
        values = self.columns[column]
        return bool((np.diff(values) <= 0).all() and values.min() >= 0)

    def __call__(self, integral: int, parts: tuple[int, ...]) -> bool:
        """Whether one column is the integral of the sum of others, up to a constant."""
        values = self.columns[integral]
        density = np.abs(self.columns[list(parts)]).sum(axis=0)
        span = values[-1] - values[0]
        if len(values) < 5 or span <= 0 or (np.diff(values) < -1e-3 * span).any():
            return False
        rules = (density[1:], density[:-1], 0.5 * (density[1:] + density[:-1]))
        grown = values[1:] - values[0]
        return any(np.abs(np.cumsum(rule * self._steps) - grown).max() <= NEAR * span for rule in rules)
