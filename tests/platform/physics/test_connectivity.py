"""Corner-, edge- and face-sharing polyhedra: textbook structures, any cell, and a count of common points in space."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure

from crystalign.crystal import SYMBOLS, Crystal
from crystalign.physics.connectivity import SHARING, Linkage, linkages
from crystalign.physics.coordination import bonds
from crystalign.physics.polyhedra import shape
from crystalign.sources.prototypes import library

HEXAGONAL, RIGHT = (90, 90, 120), (90, 90, 90)
OLIVINE = """Li 0 0 0, Fe 0.2822 0.25 0.9747, P 0.0948 0.25 0.4182, O 0.0968 0.25 0.7428, O 0.4571 0.25 0.2060,
O 0.1656 0.0465 0.2848"""
STRUCTURES = {
    # name: space group, lengths in Å, angles in degrees, sites of the asymmetric unit
    "rock salt": (225, (5.64, 5.64, 5.64), RIGHT, "Na 0 0 0, Cl 0.5 0.5 0.5"),
    "rutile": (136, (4.594, 4.594, 2.959), RIGHT, "Ti 0 0 0, O 0.305 0.305 0"),
    "perovskite": (221, (3.905, 3.905, 3.905), RIGHT, "Sr 0.5 0.5 0.5, Ti 0 0 0, O 0.5 0 0"),
    "CdI2": (164, (4.24, 4.24, 6.84), HEXAGONAL, "Cd 0 0 0, I 1/3 2/3 0.25"),
    "corundum": (167, (4.761, 4.761, 12.995), HEXAGONAL, "Al 0 0 0.3522, O 0.3063 0 0.25"),
    "spinel": (227, (8.083, 8.083, 8.083), RIGHT, "Mg 0 0 0, Al 0.625 0.625 0.625, O 0.3876 0.3876 0.3876"),
    "LiCoO2": (166, (2.816, 2.816, 14.054), HEXAGONAL, "Li 0 0 0.5, Co 0 0 0, O 0 0 0.2606"),
    "zinc blende": (216, (5.41, 5.41, 5.41), RIGHT, "Zn 0 0 0, S 0.25 0.25 0.25"),
    "SiS2": (72, (9.583, 5.614, 5.547), RIGHT, "Si 0 0 0.25, S 0.118 0.207 0"),
    "BaNiO3": (
        194,
        (5.629, 5.629, 4.811),
        HEXAGONAL,
        "Ba 1/3 2/3 0.25, Ni 0 0 0, O 0.1462 0.2924 0.25",
    ),
    "quartz": (154, (4.913, 4.913, 5.405), HEXAGONAL, "Si 0.4697 0 2/3, O 0.4135 0.2669 0.7858"),
    "K2NiF4": (139, (4.006, 4.006, 13.076), RIGHT, "K 0 0 0.352, Ni 0 0 0, F 0 0.5 0, F 0 0 0.151"),
    "K2PtCl6": (225, (9.755, 9.755, 9.755), RIGHT, "K 0.25 0.25 0.25, Pt 0 0 0, Cl 0.24 0 0"),
    "olivine": (62, (10.332, 6.010, 4.692), RIGHT, OLIVINE),
}
KNOWN = {
    "rock salt": {"NaCl6": "corner edge"},
    "rutile": {"TiO6": "corner edge"},
    "perovskite": {"TiO6": "corner"},
    "CdI2": {"CdI6": "edge"},
    "corundum": {"AlO6": "corner edge face"},
    "spinel": {"AlO6": "edge", "MgO4": "", "AlO6 MgO4": "corner"},
    "LiCoO2": {"CoO6": "edge", "LiO6": "edge", "CoO6 LiO6": "corner edge"},
    "zinc blende": {"ZnS4": "corner"},
    "SiS2": {"SiS4": "edge"},
    "BaNiO3": {"NiO6": "face"},
    "quartz": {"SiO4": "corner"},
    "K2NiF4": {"NiF6": "corner"},
    "K2PtCl6": {"PtCl6": ""},
    "olivine": {
        "FeO6": "corner",
        "LiO6": "edge",
        "PO4": "",
        "FeO6 LiO6": "corner edge",
        "FeO6 PO4": "corner edge",
        "LiO6 PO4": "corner edge",
    },
}
"""Structure → what polyhedra share, from textbooks (A. F. Wells, Structural Inorganic Chemistry, 5th ed. 1984)."""


def made(name: str) -> Crystal:
    group, lengths, angles, text = STRUCTURES[name]
    rows = [site.split() for site in text.split(",")]
    lattice = Lattice.from_parameters(*lengths, *angles)
    sites = [[float(Fraction(x)) for x in row[1:]] for row in rows]
    return Crystal.from_pymatgen(Structure.from_spacegroup(group, lattice, [row[0] for row in rows], sites))


def found(crystal: Crystal) -> tuple[Linkage, ...]:
    bonding = bonds(crystal)
    near = bonding.near
    shells = [(near.receivers == site) & bonding.bonded for site in range(len(crystal))]
    return linkages(crystal, bonding, [shape(near.vectors[shell]) if shell.any() else "" for shell in shells])


def in_short(crystal: Crystal) -> dict[str, str]:
    return {" ".join(dict.fromkeys([one.one, one.other])): " ".join(one.shared) for one in found(crystal)}


@pytest.mark.parametrize("name", STRUCTURES)
def test_textbook_structures_share_what_textbooks_say(name):
    assert in_short(made(name)) == KNOWN[name]


def test_the_centre_is_the_cation():
    (only,) = found(made("rock salt"))
    assert (only.one, only.one_shape) == ("NaCl6", "octahedral")  # not ClNa6, whose surroundings have the same shape


@pytest.mark.parametrize("symbols", [("Cu",), ("C",), ("Ni", "Al")])
def test_metals_and_elements_have_no_polyhedra(symbols):
    wanted = [c for _, c in library() if {SYMBOLS[z] for z in c.composition} == set(symbols)]
    assert wanted
    assert [found(crystal) for crystal in wanted] == [()] * len(wanted)


def test_an_anion_of_two_elements_is_in_the_formula():
    rutile = made("rutile")
    numbers = rutile.atomic_numbers.copy()
    numbers[np.flatnonzero(numbers == 8)[0]] = 9
    assert {one.one for one in found(Crystal(rutile.lattice, rutile.frac_coords, numbers))} <= {
        f"Ti{oxygen}{fluorine}"
        for oxygen, fluorine in [("O5", "F"), ("O4", "F2"), ("O3", "F3"), ("O6", ""), ("O2", "F4")]
    }


UNIMODULAR = st.lists(st.tuples(st.permutations(range(3)), st.integers(-1, 1)), min_size=1, max_size=3)


@given(
    name=st.sampled_from(["rutile", "CdI2", "LiCoO2", "BaNiO3", "SiS2", "perovskite", "rock salt"]),
    steps=UNIMODULAR,
    repeat=st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 3, 1)]),
    shift=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_the_description_of_a_crystal_makes_no_difference(name, steps, repeat, shift, seed):
    crystal = made(name)
    matrix = np.diag(repeat)
    for (one, other, _), factor in steps:  # add one lattice vector to another
        matrix[one] += factor * matrix[other]
    cells = np.stack(np.meshgrid(*[np.arange(n) for n in repeat], indexing="ij"), -1).reshape(-1, 3)
    frac = ((crystal.frac_coords[:, None] + cells).reshape(-1, 3) + shift) @ np.linalg.inv(matrix) % 1.0
    order = np.random.default_rng(seed).permutation(len(frac))
    numbers = np.repeat(crystal.atomic_numbers, len(cells))
    assert in_short(Crystal(matrix @ crystal.lattice, frac[order], numbers[order])) == KNOWN[name]


def in_space(crystal: Crystal) -> dict[frozenset[str], set[str]]:
    """The same answer from points in space: corners of two polyhedra are common if they lie at the same place."""
    bonding = bonds(crystal)
    near = bonding.near
    names = {name for one in found(crystal) for name in (one.one, one.other)}
    corners: dict[int, np.ndarray] = {}
    called: dict[int, str] = {}
    for site in range(len(crystal)):
        mine = (near.receivers == site) & bonding.bonded
        numbers, counts = np.unique(crystal.atomic_numbers[near.senders[mine]], return_counts=True)
        parts = "".join(f"{SYMBOLS[n]}{c if c > 1 else ''}" for n, c in zip(numbers, counts, strict=True))
        name = f"{SYMBOLS[crystal.atomic_numbers[site]]}{parts}"
        if name in names and shape(near.vectors[mine]) in {"octahedral", "tetrahedral"}:
            corners[site], called[site] = crystal.cart_coords[site] + near.vectors[mine], name
    heights = 1.0 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)  # distances of lattice planes
    reach = np.ceil(9.0 / heights).astype(int)  # two centres with a common corner are within 2 · 4.5 Å
    steps = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1).reshape(-1, 3)
    shared: dict[frozenset[str], set[str]] = defaultdict(set)
    for a, points in corners.items():
        for b, others in corners.items():
            moved = others[None] + (steps @ crystal.lattice)[:, None]  # (T, n, 3)
            same = (np.linalg.norm(moved[:, :, None] - points, axis=-1) < 1e-4).any(axis=2).sum(axis=1)  # (T,)
            if a == b:
                same[(steps == 0).all(axis=1)] = 0
            shared[frozenset([called[a], called[b]])] |= {SHARING[min(n, 3) - 1] for n in same.tolist() if n}
    return {pair: words for pair, words in shared.items() if words or len(pair) == 1}


@pytest.mark.parametrize("part", range(4))
def test_corners_are_counted_as_points_in_space_would_be(part):
    chosen = [(label, crystal) for label, crystal in library() if len(crystal) <= 24][part::4]
    kinds = set()
    for label, crystal in chosen:
        every = found(crystal)
        if len({one.one for one in every}) != sum(one.one == one.other for one in every) or len(every) > 12:
            continue  # one formula with two shapes
        listed = {frozenset([one.one, one.other]): set(one.shared) for one in every}
        assert listed == in_space(crystal), label
        kinds |= set().union(*listed.values())
    assert {"corner", "edge"} <= kinds
