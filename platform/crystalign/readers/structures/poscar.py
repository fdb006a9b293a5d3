"""Strict reader of POSCAR, CONTCAR and XDATCAR, which never guesses elements.

The format (VASP wiki, "POSCAR"): a title, one or three scale factors, three lattice vectors, the elements, how many
atoms of each, perhaps `Selective dynamics`, `Direct` or `Cartesian`, the positions; what follows (velocities) is no
structure. pymatgen takes H, He, Li … where the line of elements is missing, so it is not used.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.errors import CrystalError

_ISOTOPES = {"D": "H", "T": "H"}


def read_poscar(text: str, *, max_sites: int) -> Crystal:
    """The structure of a POSCAR.

    Raises:
        CrystalError: a line is missing or cannot be read, elements are not named, or there are too many atoms.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    head, positions = _head(lines, max_sites)
    coords, named = _positions(lines, positions, head)
    return _crystal(head, coords, named)


class _Head:
    """The header: everything before the positions."""

    def __init__(self, lattice: NDArray[np.float64], scale: NDArray[np.float64], counts: list[int]) -> None:
        self.lattice, self.scale, self.counts = lattice, scale, counts
        self.symbols: list[str] | None = None
        self.title = ""
        self.cartesian = False

    @property
    def n_atoms(self) -> int:
        return sum(self.counts)


def _head(lines: list[str], max_sites: int) -> tuple[_Head, int]:
    """Read the header; returns it and the line number of the first position, from zero."""
    lattice = np.array([_numbers(lines, number, 3, "a lattice vector") for number in (2, 3, 4)])
    scale = _scale(lines, lattice)
    number, symbols = 5, None
    words = _words(_line(lines, number, "the elements"))
    if words and not re.fullmatch("[0-9]+", words[0]):
        symbols = [_symbol(word) for word in words]
        number += 1
    counts = _counts(_words(_line(lines, number, "how many atoms of each element")), number)
    if symbols is not None and len(symbols) != len(counts):
        message = f"line {number} names {len(symbols)} elements and line {number + 1} has {len(counts)} counts"
        raise CrystalError(message, reason="unreadable-poscar")
    head = _Head(lattice * scale, scale, counts)
    head.symbols, head.title = symbols, lines[0].strip()
    if head.n_atoms > max_sites:
        message = f"{head.n_atoms} atoms are declared; the limit is {max_sites}. Use a smaller cell, or raise the limit"
        raise CrystalError(message, reason="too-many-sites")
    number += 1
    if _line(lines, number, "Direct or Cartesian").strip()[:1].lower() == "s":
        number += 1
    mode = _line(lines, number, "Direct or Cartesian").strip()
    if not mode[:1].isalpha():
        message = f"line {number + 1} is {mode[:40]!r}; it must say Direct or Cartesian"
        raise CrystalError(message, reason="unreadable-poscar")
    head.cartesian = mode[0].lower() in {"c", "k"}
    return head, number + 1


def _scale(lines: list[str], lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) factors of x, y and z; a negative number is the volume of the cell in Å³."""
    values = _leading_numbers(_line(lines, 1, "the scale factor"))
    if len(values) not in {1, 3} or any(value == 0 for value in values) or (len(values) == 3 and min(values) < 0):
        message = f"line 2 is {lines[1].strip()[:40]!r}; it holds one scale factor, or three positive ones"
        raise CrystalError(message, reason="unreadable-poscar")
    if len(values) == 3:
        return np.array(values)
    if values[0] > 0:
        return np.full(3, values[0])
    volume = abs(float(np.linalg.det(lattice)))
    if volume < 1e-6:
        raise CrystalError("the lattice vectors span no volume", reason="bad-lattice")
    return np.full(3, (-values[0] / volume) ** (1.0 / 3.0))


def _positions(lines: list[str], first: int, head: _Head) -> tuple[NDArray[np.float64], list[str]]:
    """Return coordinates (N, 3) as written, and the element at the end of each line; empty if a line has none."""
    coords, named = [], []
    for number in range(first, first + head.n_atoms):
        line = lines[number] if number < len(lines) else ""
        if not line.strip():
            message = f"{head.n_atoms} atoms are declared and {number - first} have positions"
            raise CrystalError(message, reason="unreadable-poscar")
        coords.append(_numbers(lines, number, 3, "a position"))
        rest = _behind(_words(line)[3:])
        named.append(rest[0] if rest else "")
    after = first + head.n_atoms
    if after < len(lines) and len(_leading_numbers(lines[after])) >= 3:
        message = f"{head.n_atoms} atoms are declared and more positions follow, from line {after + 1} on"
        raise CrystalError(message, reason="unreadable-poscar")
    return np.array(coords), named


def _behind(words: list[str]) -> list[str]:
    """Words after a position, without flags of selective dynamics, which VASP ignores without the keyword."""
    for first in (0, 1):
        flags = words[first : first + 3]
        if len(flags) == 3 and all(flag.upper().strip(".") in {"T", "F", "TRUE", "FALSE"} for flag in flags):
            return words[:first] + words[first + 3 :]
    return words


def _crystal(head: _Head, coords: NDArray[np.float64], named: list[str]) -> Crystal:
    frac = coords
    if head.cartesian:
        frac = np.asarray(np.linalg.solve(head.lattice.T, (coords * head.scale).T).T, np.float64)
    symbols = head.symbols or _symbols_elsewhere(head, named)
    _check_named(np.repeat(symbols, head.counts).tolist(), named)
    numbers = np.repeat([SYMBOLS.index(symbol) for symbol in symbols], head.counts)
    return Crystal(head.lattice, frac, numbers.astype(int))


def _check_named(symbols: list[str], named: list[str]) -> None:
    """Check that the elements at the ends of position lines, if given, agree with the header."""
    for number, (symbol, word) in enumerate(zip(symbols, named, strict=True), start=1):
        other = element_of(word)
        if other is not None and other != symbol:
            message = f"position {number} is {symbol} in the line of elements, but {other} at the end of its own line"
            raise CrystalError(message, reason="elements-disagree")


def _symbols_elsewhere(head: _Head, named: list[str]) -> list[str]:
    """Return the elements of a VASP 4 file, from the ends of its position lines or from a title that lists them.

    Raises:
        CrystalError: neither names one element for each count.
    """
    starts = np.cumsum([0, *head.counts[:-1]])
    groups = [set(named[start : start + count]) for start, count in zip(starts, head.counts, strict=True)]
    if all(len(group) == 1 and element_of(next(iter(group))) for group in groups):
        return [str(element_of(next(iter(group)))) for group in groups]
    title = [element_of(word) for word in head.title.split()]
    if len(title) == len(head.counts) and all(title):
        return [str(symbol) for symbol in title]
    message = (
        f"the POSCAR names no elements: line 6 holds {' '.join(map(str, head.counts))}, and the title "
        f"{head.title[:40]!r} is not one element for each count. Add a line such as 'Na Cl' above the counts"
    )
    raise CrystalError(message, reason="elements-missing")


# --- lines and words ------------------------------------------------------------------------------------------------


def _line(lines: list[str], number: int, what: str) -> str:
    if number >= len(lines) or not lines[number].strip():
        message = f"the POSCAR ends early: line {number + 1} should hold {what}"
        raise CrystalError(message, reason="unreadable-poscar")
    return lines[number]


def _words(line: str) -> list[str]:
    """Return the words of a line before any comment."""
    return re.split(r"[!#]", line, maxsplit=1)[0].split()


def _float(word: str) -> float | None:
    """Parse a Fortran number such as `4.0D0`; None if the word is not a number."""
    try:
        return float(re.sub(r"[dD]", "e", word)) if re.fullmatch(r"[-+.\deEdD]+", word) else None
    except ValueError:
        return None


def _leading_numbers(line: str) -> list[float]:
    values: list[float] = []
    for word in _words(line):
        value = _float(word)
        if value is None or not np.isfinite(value):
            break
        values.append(value)
    return values


def _numbers(lines: list[str], number: int, count: int, what: str) -> list[float]:
    values = _leading_numbers(_line(lines, number, what))
    if len(values) < count:
        message = f"line {number + 1} is {lines[number].strip()[:60]!r}; it should hold {what}, {count} numbers"
        raise CrystalError(message, reason="unreadable-poscar")
    return values[:count]


def _counts(words: list[str], number: int) -> list[int]:
    counts = []
    for word in words:
        if not re.fullmatch("[0-9]+", word):
            break
        counts.append(int(word[:18]))
    if not counts or min(counts) < 1:
        message = f"line {number + 1} is {' '.join(words)[:60]!r}; it should hold the number of atoms of each element"
        raise CrystalError(message, reason="unreadable-poscar")
    return counts


def element_of(word: str) -> str | None:
    """The element that a word names, exactly; `Fe_pv` and `O/1c7a3f` are potentials of Fe and O."""
    symbol = re.split(r"[_/]", word, maxsplit=1)[0]
    symbol = _ISOTOPES.get(symbol, symbol)
    return symbol if symbol in SYMBOLS[1:] else None


def _symbol(word: str) -> str:
    symbol = element_of(word)
    if symbol is None:
        message = f"line 6 of the POSCAR names {word[:30]!r}, which is not an element"
        raise CrystalError(message, reason="unknown-element")
    return symbol


# --- trajectories ---------------------------------------------------------------------------------------------------


def last_frame(text: str) -> str:
    """The last frame of an XDATCAR as the text of a POSCAR.

    The header stands once, or before each frame where the cell changes; frames begin with `Direct configuration=`.

    Raises:
        CrystalError: it has fewer lines than a header.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) < 8:
        raise CrystalError("the XDATCAR ends within its header", reason="unreadable-poscar")
    starts = [n for n, line in enumerate(lines) if re.match(r"\s*direct\b", line, re.IGNORECASE)]
    if not starts:
        return text
    last = starts[-1]
    header = last - 7 if last >= 14 and _is_header(lines, last - 7) else 0
    return "\n".join([*lines[header : header + 7], "Direct", *lines[last + 1 :]])


def _is_header(lines: list[str], first: int) -> bool:
    """Whether seven lines are a title, a scale, three vectors, elements and counts."""
    vectors = all(len(_leading_numbers(line)) == 3 for line in lines[first + 2 : first + 5])
    return vectors and len(_leading_numbers(lines[first + 1])) == 1 and _words(lines[first + 6])[:1] != []
