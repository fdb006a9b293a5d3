"""The name of the structure type of a crystal, by Wyckoff positions, roles of the elements and coordination."""

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
from crystalign.physics.compound_classes import atomic_numbers
from crystalign.physics.contacts import electronegativities
from crystalign.physics.neighbour_list import Neighbours, within
from crystalign.physics.polyhedra import fits
from crystalign.physics.structure_type_table import TABLE
from crystalign.physics.symmetry import Symmetry

REACH = 7.0
"""Å; the largest distance that a check looks at."""
SPREAD, GAP = 1.3, 1.1
"""The farthest of a shell is at most `SPREAD` times as far as the nearest, and the next one at least `GAP` times the
farthest, unless the table says otherwise."""

DISTORTION = 22.0
"""Degrees; how far the angles of a shell may be from those of its polyhedron, root mean square."""

ANIONS = frozenset(atomic_numbers("H B C N O F Si P S Cl Ge As Se Br Sn Sb Te I Pb Bi At Po"))
"""Elements that can be the more electronegative part."""
NONMETALS = frozenset(atomic_numbers("H He C N O F Ne P S Cl Ar Se Br Kr I Xe At Rn"))
"""Elements of which no intermetallic phase consists."""
SALT_FORMERS = frozenset(atomic_numbers("H He O F Ne Cl Ar Br Kr I Xe At Rn"))
"""Elements that no Nowotny-Juza phase has."""

TYPE_NAMES: tuple[str, ...] = tuple(sorted({name for name, *_ in TABLE}))
"""Every name that `structure_type` gives."""
PROTOTYPES: Mapping[str, str] = {key: name for name, keys, *_ in reversed(TABLE) for key in keys.split()}
"""The first structure type of each prototype that has one; which of them it is, `structure_type` decides."""


class Contact(NamedTuple):
    """How many atoms of some species surround each atom of another."""

    centre: str
    """A letter: A is the rarest species."""
    partners: str
    """One letter or several."""
    counts: tuple[int, ...]
    """Any of them."""
    exclusive: bool
    """Whether atoms of every species are looked at, and the shell has to consist of the partners."""
    at_least: bool
    """Whether there may be more, and no gap follows."""
    shape: str
    """A name of `polyhedra.shape`, or empty."""
    spread: float
    gap: float


class Ratio(NamedTuple):
    """Bounds for the quotient of the shortest distances of two pairs of species."""

    first: str
    second: str
    low: float
    high: float


class StructureType(NamedTuple):
    """What a crystal has to be for the name."""

    name: str
    roles: str
    contacts: tuple[Contact, ...]
    ratios: tuple[Ratio, ...]


def structure_type(crystal: Crystal, symmetry: Symmetry, near: Neighbours | None = None) -> str | None:
    """The name of the structure type, if the geometry and the roles of the elements are those of the type.

    The same Wyckoff positions are occupied in unlike structures: pyrite and solid CO2 are `AB2:205:a.c`. A name is
    given only if all checks of `structure_type_table` hold for some assignment of the elements to its letters.

    Args:
        crystal: the structure; on a mixed site the most abundant species stands for all.
        symmetry: as `crystalign.physics.symmetry.symmetry` found it.
        near: all neighbours within 7 Å, where they are known already.
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
    """(N,) a number per site that is equal where the occupancy is."""
    if crystal.occupancies is None:
        return crystal.atomic_numbers.astype(np.int64)
    rounded = [tuple((z, round(x, 4)) for z, x in site) for site in crystal.occupancies]
    order = {site: n for n, site in enumerate(sorted(set(rounded)))}
    return np.array([order[site] for site in rounded])


def _assignments(kinds: NDArray[np.int64]) -> Iterator[dict[str, int]]:
    """Letter → kind, the rarest first; kinds of equal number in every order."""
    values, counts = np.unique(kinds, return_counts=True)
    groups = [values[counts == count].tolist() for count in np.unique(counts)]
    for chosen in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield dict(zip("ABCDEFGH", itertools.chain(*chosen), strict=False))


def _roles_hold(candidate: StructureType, roles: Mapping[str, int]) -> bool:
    """Whether each element can play its role; what the signs mean is said at `structure_type_table`.

    Every `-` can be an anion, and each `+` is a metal or less electronegative than every `-`.
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
        found = self.near.distances[(self.centre == one) & (self.other == two)]
        return float(found.min()) if len(found) else REACH

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
    """The number of atoms of the shell; 0 if it is not as it should be."""
    for n in contact.counts:
        if len(distances) < n or distances[n - 1] > contact.spread * distances[0]:
            continue
        if contact.at_least or len(distances) == n or distances[n] >= contact.gap * distances[n - 1]:
            return n
    return 0


@functools.cache
def _types() -> dict[str, list[StructureType]]:
    """The table, parsed, by prototype."""
    found: dict[str, list[StructureType]] = defaultdict(list)
    for name, keys, roles, checks in TABLE:
        parts = [part.strip() for part in checks.split(";") if part.strip()]
        contacts = tuple(_contact(part) for part in parts if "/" not in part)
        ratios = tuple(_ratio(part) for part in parts if "/" in part)
        for key in keys.split():
            found[key].append(StructureType(name, roles, contacts, ratios))
    return found


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
