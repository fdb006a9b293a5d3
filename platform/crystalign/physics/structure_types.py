"""The structure type of a crystal, from its Wyckoff positions, the roles of the elements and the coordination."""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.periodic import Neighbours
from crystalign.physics.compound_classes import atomic_numbers
from crystalign.physics.contacts import electronegativities
from crystalign.physics.neighbour_list import within
from crystalign.physics.polyhedra import fits
from crystalign.physics.structure_type_table import TABLE
from crystalign.physics.symmetry import Symmetry

REACH = 7.0
"""Å; the largest distance used by a check."""
SPREAD, GAP = 1.3, 1.1
"""Unless the table says otherwise, the farthest atom of a shell is at most `SPREAD` times as far away as the nearest,
and the first atom beyond the shell at least `GAP` times as far away as the farthest."""

DISTORTION = 22.0
"""Degrees; largest root-mean-square deviation of the angles of a shell from those of its polyhedron."""

ANIONS = frozenset(atomic_numbers("H B C N O F Si P S Cl Ge As Se Br Sn Sb Te I Pb Bi At Po"))
"""Elements that can be the anion (role `-`)."""
NONMETALS = frozenset(atomic_numbers("H He C N O F Ne P S Cl Ar Se Br Kr I Xe At Rn"))
"""Elements that do not occur in intermetallic phases (excluded by role `m`)."""
SALT_FORMERS = frozenset(atomic_numbers("H He O F Ne Cl Ar Br Kr I Xe At Rn"))
"""Elements that do not occur in Nowotny-Juza phases (excluded by role `n`)."""

TYPE_NAMES: tuple[str, ...] = tuple(sorted({name for name, *_ in TABLE}))
"""Every name that `structure_type` can return."""
PROTOTYPES: Mapping[str, str] = {key: name for name, keys, *_ in reversed(TABLE) for key in keys.split()}
"""Prototype → its first structure type in the table; `structure_type` chooses among several."""


class Contact(NamedTuple):
    """A check of the coordination shell around every atom of a species."""

    centre: str
    """Letter of the central species; A is the rarest one."""
    partners: str
    """Letters of the species in the shell."""
    counts: tuple[int, ...]
    """Accepted numbers of atoms in the shell."""
    exclusive: bool
    """Whether atoms of all species are considered; the shell must then consist of partners only."""
    at_least: bool
    """Whether more atoms are accepted; then no gap is required."""
    shape: str
    """A name that `polyhedra.shape` returns, or empty for any shape."""
    spread: float
    """Largest ratio of the farthest to the nearest distance in the shell."""
    gap: float
    """Smallest ratio of the first distance beyond the shell to the farthest in it."""


class Ratio(NamedTuple):
    """Bounds for the ratio of the shortest distances of two pairs of species."""

    first: str
    """Two letters: the pair in the numerator."""
    second: str
    """Two letters: the pair in the denominator."""
    low: float
    """Smallest accepted ratio."""
    high: float
    """Largest accepted ratio."""


class StructureType(NamedTuple):
    """One row of the table: the conditions that a crystal of this type must fulfil."""

    name: str
    """Name of the structure type."""
    roles: str
    """One role per species; see `structure_type_table`."""
    contacts: tuple[Contact, ...]
    """Checks of coordination shells."""
    ratios: tuple[Ratio, ...]
    """Checks of ratios of distances."""


def structure_type(crystal: Crystal, symmetry: Symmetry, near: Neighbours | None = None) -> str | None:
    """The name of the structure type; None if the crystal belongs to none of the table.

    Different structures can occupy the same Wyckoff positions: pyrite and solid CO2 are both `AB2:205:a.c`. A name is
    therefore given only if all checks of `structure_type_table` hold for some assignment of the elements to its
    letters.

    Args:
        crystal: the structure; on a mixed site the most abundant species counts.
        symmetry: the result of `crystalign.physics.symmetry.symmetry`.
        near: all neighbours within 7 Å, if already computed.
    """
    candidates = _types().get(symmetry.prototype or "", [])
    if not candidates:
        return None
    kinds = _kinds(crystal)
    elements = {int(k): int(crystal.atomic_numbers[kinds == k][0]) for k in np.unique(kinds)}
    surroundings = _Surroundings(near or within(crystal, REACH), kinds)
    for candidate in candidates:
        for letters in _assignments(kinds):
            roles = {letter: elements[kind] for letter, kind in letters.items()}
            if _roles_hold(candidate, roles) and surroundings.fulfil(candidate, letters):
                return candidate.name
    return None


def _kinds(crystal: Crystal) -> NDArray[np.int64]:
    """(N,) a number per site, equal for sites of equal occupancy."""
    if crystal.occupancies is None:
        return crystal.atomic_numbers.astype(np.int64)
    rounded = [tuple((z, round(x, 4)) for z, x in site) for site in crystal.occupancies]
    order = {site: n for n, site in enumerate(sorted(set(rounded)))}
    return np.array([order[site] for site in rounded])


def _assignments(kinds: NDArray[np.int64]) -> Iterator[dict[str, int]]:
    """Assignments letter → kind of site, the rarest kind first; equally frequent kinds in every order."""
    values, counts = np.unique(kinds, return_counts=True)
    groups = [values[counts == count].tolist() for count in np.unique(counts)]
    for chosen in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield dict(zip("ABCDEFGH", itertools.chain(*chosen), strict=False))


def _roles_hold(candidate: StructureType, roles: Mapping[str, int]) -> bool:
    """Whether each element fits its role; see `structure_type_table` for the signs.

    Every `-` must be able to be an anion, and each `+` must be a metal or less electronegative than every `-`.
    """
    chi = electronegativities()
    words = _words(candidate.roles)
    if len(words) != len(roles):
        return False
    by_role: dict[str, list[int]] = defaultdict(list)
    for word, letter in zip(words, sorted(roles), strict=True):
        z = roles[letter]
        if word[0] in "[(" and SYMBOLS[z] not in word[1:-1].split():
            return False
        by_role["+" if word[0] == "(" else word[0]].append(z)
    negative = by_role["-"]
    if not (NONMETALS.isdisjoint(by_role["m"]) and SALT_FORMERS.isdisjoint(by_role["n"])):
        return False
    if not ANIONS.issuperset(negative):
        return False
    return all(_is_cation(p, q, chi) for p in by_role["+"] for q in negative)


def _words(roles: str) -> list[str]:
    return re.findall(r"\[[^]]*\]|\([^)]*\)|.", roles)


def _is_cation(positive: int, negative: int, chi: NDArray[np.float64]) -> bool:
    return positive not in ANIONS or bool(chi[positive] < chi[negative])


class _Surroundings:
    """The neighbours of every site, by kind."""

    def __init__(self, near: Neighbours, kinds: NDArray[np.int64]) -> None:
        self.near, self.kinds = near, kinds
        self.centre, self.other = kinds[near.receivers], kinds[near.senders]
        self.bounds = np.searchsorted(near.receivers, np.arange(len(kinds) + 1))

    def fulfil(self, candidate: StructureType, letters: Mapping[str, int]) -> bool:
        """Whether all checks hold."""
        if not all(self._contact_holds(contact, letters) for contact in candidate.contacts):
            return False
        if not all(self._ratio_holds(ratio, letters) for ratio in candidate.ratios):
            return False
        return bool(candidate.ratios) or self._unlike_are_closest(candidate, letters)

    def _contact_holds(self, contact: Contact, letters: Mapping[str, int]) -> bool:
        partners = [letters[letter] for letter in contact.partners]
        for site in np.flatnonzero(self.kinds == letters[contact.centre]):
            edges = np.arange(self.bounds[site], self.bounds[site + 1])
            partner = np.isin(self.other[edges], partners)
            looked_at = edges if contact.exclusive else edges[partner]
            distances = self.near.distances[looked_at]
            n = _shell(distances, contact)
            if n == 0 or not np.isin(self.other[looked_at[:n]], partners).all():
                return False
            if contact.shape and not fits(self.near.vectors[looked_at[:n]], contact.shape, DISTORTION):
                return False
        return True

    def _ratio_holds(self, ratio: Ratio, letters: Mapping[str, int]) -> bool:
        quotient = self._shortest(ratio.first, letters) / self._shortest(ratio.second, letters)
        return ratio.low <= quotient <= ratio.high

    def _shortest(self, pair: str, letters: Mapping[str, int]) -> float:
        """The shortest distance of two species, Å; at most `REACH`."""
        one, two = (letters[letter] for letter in pair)
        distances = self.near.distances[(self.centre == one) & (self.other == two)]
        return float(distances.min()) if len(distances) else REACH

    def _unlike_are_closest(self, candidate: StructureType, letters: Mapping[str, int]) -> bool:
        """Whether no two atoms are closer than a cation and an anion, within 2 %."""
        words = _words(candidate.roles)
        role = {letters[letter]: word for letter, word in zip(sorted(letters), words, strict=True)}
        plus = [kind for kind, word in role.items() if word[0] in "+("]
        minus = [kind for kind, word in role.items() if word == "-"]
        if not plus or not minus:
            return True
        both = [*plus, *minus]
        every = self.near.distances[np.isin(self.centre, both) & np.isin(self.other, both)]
        unlike = self.near.distances[np.isin(self.centre, plus) & np.isin(self.other, minus)]
        return len(unlike) > 0 and float(unlike.min()) <= 1.02 * float(every.min())


def _shell(distances: NDArray[np.float64], contact: Contact) -> int:
    """The number of atoms in the shell; 0 if there is no shell that fulfils the check."""
    for n in contact.counts:
        if len(distances) < n or distances[n - 1] > contact.spread * distances[0]:
            continue
        if contact.at_least or len(distances) == n or distances[n] >= contact.gap * distances[n - 1]:
            return n
    return 0


@functools.cache
def _types() -> dict[str, list[StructureType]]:
    """Prototype → its structure types, parsed from the table."""
    by_prototype: dict[str, list[StructureType]] = defaultdict(list)
    for name, keys, roles, checks in TABLE:
        parts = [part.strip() for part in checks.split(";") if part.strip()]
        contacts = tuple(_contact(part) for part in parts if "/" not in part)
        ratios = tuple(_ratio(part) for part in parts if "/" in part)
        for key in keys.split():
            by_prototype[key].append(StructureType(name, roles, contacts, ratios))
    return by_prototype


_CONTACT = re.compile(r"([A-H])([:=])([\d|]+)(\+?)([A-H]+)(?: ([a-zA-Z][a-zA-Z -]*?))?(?: <([\d.]+))?(?: >([\d.]+))?")
_RATIO = re.compile(r"([A-H]{2})/([A-H]{2}) ([\d.]+)-([\d.]+)")


def _contact(text: str) -> Contact:
    match = _CONTACT.fullmatch(text)
    assert match, f"cannot read the check {text!r}"
    centre, sign, counts, more, partners, word, spread, gap = match.groups()
    numbers = tuple(int(n) for n in counts.split("|"))
    limits = float(spread or SPREAD), float(gap or GAP)
    return Contact(centre, partners, numbers, sign == "=", more == "+", word or "", *limits)


def _ratio(text: str) -> Ratio:
    match = _RATIO.fullmatch(text)
    assert match, f"cannot read the check {text!r}"
    return Ratio(match[1], match[2], float(match[3]), float(match[4]))
