"""The class of a compound, named after its anions. The anions follow from the bonds between nonmetals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.periodic import Neighbours
from crystalign.physics.contacts import electronegativities
from crystalign.physics.neighbour_list import within
from crystalign.physics.picture import covalent_radii

REACH = 4.0
"""Å; atoms farther apart are not bonded covalently."""
TOUCHING, HYDROGEN_BOND = 1.2, 1.35
"""Largest distance of two bonded nonmetals, in units of the sum of their covalent radii. The second value applies to
hydrogen, which is bonded only to its nearest atom because it may lie half way between two."""
DOUBLE_NITROGEN, TRIPLE_NITROGEN = 1.3, 1.16
"""Å; the longest N–N bond of an azide, and of a nitrogen molecule."""
LONG = 1.5
"""An atom is not an anion if its nearest neighbour is a more electronegative nonmetal within this factor times the sum
of the covalent radii."""
SHORT_OXYGEN = {"I": 2.05, "Te": 2.20}
"""Å; the longest I–O and Te–O bond of an iodate or a tellurite; oxygen atoms of the next anion are farther away."""


def atomic_numbers(symbols: str) -> tuple[int, ...]:
    """`H B C` → 1, 5, 6."""
    return tuple(SYMBOLS.index(s) for s in symbols.split())


H, B, C, N, O, P, SULFUR = atomic_numbers("H B C N O P S")
NONMETALS = frozenset(atomic_numbers("H B C N O F Si P S Cl Ge As Se Br Sb Te I At"))
"""Nonmetals and metalloids: elements that can be an anion or the central atom of one."""
INERT = frozenset(atomic_numbers("He Ne Ar Kr Xe Rn"))
NEEDS_METAL = frozenset(atomic_numbers("B Si Ge"))
"""Anions only in compounds with a metal: a compound of boron and silicon is neither a boride nor a silicide."""

ANIONS = {9: "fluoride", 17: "chloride", 35: "bromide", 53: "iodide", 8: "oxide", 16: "sulfide", 34: "selenide"}
ANIONS |= {52: "telluride", 7: "nitride", 15: "phosphide", 33: "arsenide", 51: "antimonide", 6: "carbide", 1: "hydride"}
ANIONS |= {5: "boride", 14: "silicide", 32: "germanide"}
"""Atomic number → name of its monatomic anion."""
OXYANIONS: dict[str, dict[int, str]] = {
    "B": {3: "borate", 4: "borate"},
    "C": {3: "carbonate"},
    "N": {2: "nitrite", 3: "nitrate"},
    "Si": {4: "silicate", 5: "silicate", 6: "silicate"},
    "P": {2: "hypophosphite", 3: "phosphite", 4: "phosphate"},
    "S": {3: "sulfite", 4: "sulfate"},
    "Cl": {1: "hypochlorite", 2: "chlorite", 3: "chlorate", 4: "perchlorate"},
    "Ge": {4: "germanate"},
    "As": {3: "arsenite", 4: "arsenate", 6: "arsenate"},
    "Se": {3: "selenite", 4: "selenate"},
    "Br": {2: "bromite", 3: "bromate", 4: "perbromate"},
    "Te": {3: "tellurite", 4: "tellurite", 6: "tellurate"},
    "I": {3: "iodate", 4: "periodate", 6: "periodate"},
}
"""Central atom → number of oxygen atoms around it → name of the anion."""
TETRAHEDRA = {"V": ("vanadate", 1.85), "Cr": ("chromate", 1.75), "Mo": ("molybdate", 1.90), "W": ("tungstate", 1.92)}
TETRAHEDRA |= {"Mn": ("permanganate", 1.72), "Re": ("perrhenate", 1.85), "Tc": ("pertechnetate", 1.82)}
"""Metals that form tetrahedral anions: name, and the longest M–O bond in Å. The next oxygen atom must be at least
0.35 Å farther away."""
OTHER_ANIONS = ["oxalate", "cyanide", "thiocyanate", "cyanate", "cyanamide", "carbonyl", "azide", "amide", "imide"]
OTHER_ANIONS += ["hydroxide", "peroxide", "superoxide", "borohydride", "hydroborate"]
UNCERTAIN = "compound"
WHOLE = ("hydrocarbon", "organic compound", "metal-organic compound", "intermetallic compound")
MANY = "mixed-anion compound"
CLASS_NAMES: tuple[str, ...] = (
    *ANIONS.values(),
    *(f"oxy{word}" for z, word in ANIONS.items() if z != O),
    "oxyhydroxide",
    *sorted({word for names in OXYANIONS.values() for word in names.values()}),
    *(word for word, _ in TETRAHEDRA.values()),
    *OTHER_ANIONS,
    "hydrate",
    *WHOLE,
    MANY,
)
"""Every word that a class can contain. A class with several anions lists them alphabetically: `carbonate phosphate`."""


def compound_class(crystal: Crystal, near: Neighbours | None = None) -> str:
    """The class of a compound, such as `oxide`, `phosphate hydroxide hydrate` or `intermetallic compound`.

    Two nonmetals are bonded if they are closer than 1.2 times the sum of their covalent radii. A nonmetal that is
    bonded to a more electronegative one (Pauling) is not an anion: I2O5 is an oxide, NaClO2 a chlorite. Oxyanions are
    named after the number of oxygen atoms around their central atom. If a compound has no other cation, its least
    electronegative central atom is the cation: BPO4 is a phosphate.

    Args:
        crystal: the structure; on a mixed site the most abundant species counts.
        near: all neighbours within at least 4 Å, if already computed.

    Returns:
        The class; `compound` if it cannot be determined.
    """
    elements = set(crystal.composition)
    if not elements & NONMETALS:
        return WHOLE[3] if len(elements) > 1 and not elements & INERT else UNCERTAIN
    atoms = _Atoms(crystal, near or within(crystal, REACH))
    if atoms.any_bond(C, H):
        return WHOLE[0] if elements == {C, H} else WHOLE[1] if elements <= NONMETALS else WHOLE[2]
    anions = _anions(atoms)
    return _joined(anions) if anions is not None else UNCERTAIN


def _joined(names: set[str]) -> str:
    """Names in alphabetical order, `hydrate` last; `oxychloride` for oxide and chloride."""
    water = [" hydrate"] if "hydrate" in names else []
    others = sorted(names - {"hydrate"})
    if not others:
        return UNCERTAIN
    if len(others) > 3:
        return MANY
    single = [word for word in others if word in ANIONS.values() or word == "hydroxide"]
    if len(others) == len(single) == 2 and "oxide" in others:
        others = [f"oxy{next(word for word in others if word != 'oxide')}"]
    return " ".join(others) + "".join(water)


class _Atoms:
    """Nonmetal atoms and the bonds between them."""

    def __init__(self, crystal: Crystal, near: Neighbours) -> None:
        self.z, self.near = crystal.atomic_numbers.astype(int), near
        self.elements = set(crystal.composition)
        bonded = self._bonded()
        self.mates: list[list[tuple[int, float]]] = [[] for _ in self.z]
        ends = near.receivers[bonded].tolist(), near.senders[bonded].tolist(), near.distances[bonded].tolist()
        for a, b, d in zip(*ends, strict=True):
            self.mates[a].append((b, d))
        self.around = [Counter(int(self.z[b]) for b, _ in mates) for mates in self.mates]
        self.surrounded = self._nearest_is_stronger(LONG)

    def _bonded(self) -> NDArray[np.bool_]:
        """(E,) which edges are covalent bonds of two nonmetals."""
        near, radius = self.near, covalent_radii()
        one, other = self.z[near.receivers], self.z[near.senders]
        hydrogen = (one == H) | (other == H)
        limit = np.where(hydrogen, HYDROGEN_BOND, TOUCHING) * (radius[one] + radius[other])
        for symbol, longest in SHORT_OXYGEN.items():
            z = SYMBOLS.index(symbol)
            limit[((one == z) & (other == O)) | ((one == O) & (other == z))] = longest
        bonded = np.isin(one, list(NONMETALS)) & np.isin(other, list(NONMETALS)) & (near.distances < limit)
        nearest = np.full(len(self.z), np.inf)  # of each hydrogen atom
        np.minimum.at(nearest, near.receivers[bonded], near.distances[bonded])
        reach = np.where(self.z == H, 1.02 * nearest, np.inf)
        near_enough = near.distances <= np.minimum(reach[near.receivers], reach[near.senders])
        result: NDArray[np.bool_] = bonded & near_enough
        return result

    def stray_hydrogen(self) -> bool:
        """Whether a hydrogen atom has no bond although its nearest neighbour is a more electronegative nonmetal."""
        nearest = self._nearest_is_stronger(np.inf)
        return any(nearest[site] and not self.mates[site] for site in self.sites(H))

    def _nearest_is_stronger(self, reach: float) -> NDArray[np.bool_]:
        """(N,) whether the nearest atom is a more electronegative nonmetal within `reach` times the sum of radii."""
        near, radius, chi = self.near, covalent_radii(), electronegativities()
        one, other = self.z[near.receivers], self.z[near.senders]
        nearest = np.full(len(self.z), np.inf)
        np.minimum.at(nearest, near.receivers, near.distances)
        first = near.distances <= nearest[near.receivers] + 1e-3
        stronger = np.isin(other, list(NONMETALS)) & (chi[other] > chi[one])
        close = near.distances < reach * (radius[one] + radius[other])
        return np.bincount(near.receivers[first & stronger & close], minlength=len(self.z)) > 0

    def sites(self, element: int) -> list[int]:
        """The sites of an element."""
        sites: list[int] = np.flatnonzero(self.z == element).tolist()
        return sites

    def any_bond(self, one: int, other: int) -> bool:
        """Whether any atom of one element is bonded to one of the other."""
        return any(self.around[site][other] for site in self.sites(one))

    def oxidised(self, site: int) -> bool:
        """Whether a more electronegative nonmetal is bonded to it."""
        chi = electronegativities()
        return bool(self.surrounded[site]) or any(chi[z] > chi[self.z[site]] for z in self.around[site])

    def group(self, site: int) -> set[int]:
        """A site and the sites bonded to it."""
        return {site, *(b for b, _ in self.mates[site])}


def _anions(atoms: _Atoms) -> set[str] | None:
    """The names of all anions; None if the crystal contains a group that is not recognised."""
    if atoms.stray_hydrogen():
        return None
    names: set[str] = set()
    taken: set[int] = set()  # sites of polyatomic ions and molecules that were already assigned
    for step in (_carbon, _nitrogen, _boron_hydrogen, _oxyanions, _oxygen):
        anions = step(atoms, taken)
        if anions is None:
            return None
        names |= anions
    return names | _single(atoms, taken, names)


CARBON_GROUPS: dict[tuple[tuple[str, int], ...], str] = {
    (("N", 1),): "cyanide",
    (("N", 1), ("S", 1)): "thiocyanate",
    (("N", 1), ("O", 1)): "cyanate",
    (("N", 2),): "cyanamide",
    (("C", 1), ("O", 2)): "oxalate",
    (("O", 1),): "carbonyl",
}
"""Neighbours of the carbon atom → name."""


def _carbon(atoms: _Atoms, taken: set[int]) -> set[str] | None:
    """Cyanides, related anions, oxalates and carbonyls; carbonates and carbides are handled elsewhere."""
    names: set[str] = set()
    if len(atoms.elements) < 3 or atoms.elements == {C, N, O}:
        return names
    for site in atoms.sites(C):
        around = atoms.around[site]
        word = CARBON_GROUPS.get(tuple(sorted((SYMBOLS[z], n) for z, n in around.items())))
        if word and _has_metal(atoms):
            names.add(word)
            taken |= atoms.group(site)
        elif around[N] or (around[C] and set(around) != {C}) or (around[O] and around[O] != 3):
            return None  # an organic or unrecognised molecule
    return names


def _nitrogen(atoms: _Atoms, taken: set[int]) -> set[str] | None:
    """Azides, amides and imides; ammonium and ammonia are not anions."""
    names = set()
    for site in set(atoms.sites(N)) - taken:
        around = atoms.around[site]
        if around[H] and set(around) == {H}:
            names.update({2: ["amide"], 1: ["imide"]}.get(around[H], []))
            taken |= atoms.group(site)
        elif around == {N: 2} and all(d < DOUBLE_NITROGEN for _, d in atoms.mates[site]):
            names.add("azide")
            taken |= atoms.group(site)
        elif len(atoms.elements) > 2 and (around[H] or around[O] == 1 or (around[SULFUR] and O in atoms.elements)):
            return None  # hydrazine, nitrosyls, sulfamates and others
    for site in set(atoms.sites(N)) - taken:
        if any(atoms.z[b] == N and d < TRIPLE_NITROGEN for b, d in atoms.mates[site]):
            taken |= atoms.group(site)  # a molecule of nitrogen
    return names


def _boron_hydrogen(atoms: _Atoms, taken: set[int]) -> set[str]:
    """Borohydrides and other anions of boron and hydrogen, if there is a cation."""
    names = set()
    if not _has_metal(atoms) and not any(atoms.around[site] == {H: 4} for site in atoms.sites(N)):
        return set()
    for site in atoms.sites(B):
        around = atoms.around[site]
        if around[H] and set(around) <= {H, B}:
            names.add("borohydride" if around == {H: 4} else "hydroborate")
            taken |= atoms.group(site)
    return names


def _oxyanions(atoms: _Atoms, taken: set[int]) -> set[str] | None:
    """Oxyanions, named by the number of oxygen atoms around the central atom, which may also bond to H or F."""
    centres: dict[int, set[str]] = {}
    for symbol, named in OXYANIONS.items():
        element = SYMBOLS.index(symbol)
        for site in set(atoms.sites(element)) - taken:
            around = atoms.around[site]
            if not around[O]:
                continue
            if around[element] and element in {P, SULFUR, N, *atomic_numbers("Se")}:
                return None  # thiosulfates, hypodiphosphates
            if set(around) <= {O, H, 9} and around[O] in named:
                centres.setdefault(element, set()).add(named[around[O]])
            else:
                centres.setdefault(element, set()).add("")
    certain = {element: words for element, words in centres.items() if "" not in words}
    if certain and not _has_cation(atoms, set(certain)):
        certain.pop(min(certain, key=lambda z: float(electronegativities()[z])))
    for element in certain:
        for site in set(atoms.sites(element)) - taken:
            taken |= atoms.group(site)
    return {word for words in certain.values() for word in words} | _tetrahedra(atoms, taken, bool(certain))


def _tetrahedra(atoms: _Atoms, taken: set[int], others: bool) -> set[str]:
    """Vanadates and similar anions, if every atom of the metal is in a tetrahedron and no oxygen atom is left over."""
    names, oxygens = set(), set()
    near = atoms.near
    for symbol, (word, longest) in TETRAHEDRA.items():
        sites = atoms.sites(SYMBOLS.index(symbol))
        shells = [(near.receivers == site) & (atoms.z[near.senders] == O) for site in sites]
        counts = [[int((shell & (near.distances < d)).sum()) for d in (longest, longest + 0.35)] for shell in shells]
        if sites and all(count == [4, 4] for count in counts) and len(atoms.elements) > 2:
            names.add(word)
            for shell in shells:
                oxygens.update(near.senders[shell & (near.distances < longest)].tolist())
    free = [site for site in set(atoms.sites(O)) - taken - oxygens if not atoms.around[site][H]]
    if free and not others:
        return set()
    taken.update(oxygens)
    return names


def _oxygen(atoms: _Atoms, taken: set[int]) -> set[str]:
    """Hydroxides, water, peroxides, superoxides, and oxide ions if the compound has no oxyanion."""
    names = set()
    in_oxyanion = any(atoms.z[site] == O for site in taken)
    ice = atoms.elements <= {H, O}
    for site in set(atoms.sites(O)) - taken:
        around = atoms.around[site]
        bonds = [d for b, d in atoms.mates[site] if atoms.z[b] == O]
        if bonds and set(around) == {O}:
            names.update(["peroxide"] if min(bonds) > 1.40 else ["superoxide"] if min(bonds) > 1.25 else [])
        elif around[H] and set(around) == {H} and not ice:
            names.update(_with_hydrogen(atoms, site))
        elif not in_oxyanion and not (around[H] and set(around) == {H} and around[H] > 2):
            names.add("oxide")
    taken.update(atoms.sites(O))
    return names


def _with_hydrogen(atoms: _Atoms, site: int) -> list[str]:
    """Classes of an oxygen atom bonded to hydrogen only; a hydrogen atom between two oxygen atoms counts as half."""
    hydrogen = [b for b, _ in atoms.mates[site] if atoms.z[b] == H]
    amount = sum(1.0 / max(1, atoms.around[b][O]) for b in hydrogen)
    return {0.5: ["oxide", "hydroxide"], 1.0: ["hydroxide"], 2.0: ["hydrate"]}.get(amount, [])


def _single(atoms: _Atoms, taken: set[int], names: set[str]) -> set[str]:
    """Monatomic anions: atoms that are not bonded to a more electronegative nonmetal."""
    anions = set()
    for element, word in ANIONS.items():
        sites = set(atoms.sites(element)) - taken
        if element not in atoms.elements or element == O:
            if element == O and O in atoms.elements and not atoms.sites(O) and not names:
                anions.add(word)  # oxygen occurs only as a minority species on mixed sites
            continue
        if element in NEEDS_METAL and not _has_metal(atoms):
            continue
        if element == C and not _has_metal(atoms) and atoms.elements.isdisjoint(atomic_numbers("B Si")):
            continue
        if not atoms.sites(element) and word in {"fluoride", "chloride", "bromide", "iodide", "sulfide", "selenide"}:
            anions.add(word)
        if any(not atoms.oxidised(site) and not _is_molecule(atoms, site) for site in sites):
            anions.add(word)
    return anions


def _is_molecule(atoms: _Atoms, site: int) -> bool:
    """Whether the atom belongs to an H2 molecule."""
    return bool(atoms.z[site] == H) and any(atoms.z[b] == H and d < 0.9 for b, d in atoms.mates[site])


def _has_metal(atoms: _Atoms) -> bool:
    return bool(atoms.elements - NONMETALS - INERT)


def _has_cation(atoms: _Atoms, centres: Iterable[int]) -> bool:
    """Whether there is a metal, hydrogen, or another nonmetal that is less electronegative than all `centres`."""
    chi = electronegativities()
    lowest = min(float(chi[z]) for z in centres)
    others = atoms.elements - set(centres) - {O}
    return any(z not in NONMETALS | INERT or z == H or float(chi[z]) < lowest for z in others)
